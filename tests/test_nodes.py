"""Elements: what a tokenizer made stays text, in markup and as data; nothing that fetches or runs can be built."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

import wordy
from cutaway import views
from cutaway.views import Node, node

BAD = [*wordy.NASTY, "", "\ud800", "\x0b", "\ufffe", "<!--", "' onload='alert(1)", "</title></text></svg>"]


class Seen(HTMLParser):
    """The elements of some markup, their attributes and their text."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("bad", BAD)
def test_hostile_text_stays_text_and_hostile_attributes_stay_values(bad: str) -> None:
    built = node("p", bad, node("span", bad, data_token=bad, title=bad), class_="x")
    seen = Seen(str(built))
    assert seen.tags == ["p", "span"]
    assert [set(a) for a in seen.attributes] == [{"class"}, {"data-token", "title"}]
    assert seen.text == 2 * views.nodes.visible(bad)
    assert seen.attributes[1]["data-token"] == seen.attributes[1]["title"] == views.nodes.visible(bad)


@pytest.mark.parametrize("bad", BAD)
def test_pictures_of_hostile_text_are_xml_with_nothing_else_in_it(bad: str) -> None:
    tree = ElementTree.fromstring(str(views.waterfall([(bad, 1.0)], 1.0, bad, bad)))
    assert {e.tag.rpartition("}")[2] for e in tree.iter()} == {"svg", "title", "text", "g", "line", "rect"}
    known = views.nodes.ATTRIBUTES | {"aria-label", "data-at", "data-term", "data-value"}
    assert not {a for e in tree.iter() for a in e.attrib} - known


def test_a_tree_says_what_the_markup_says() -> None:
    def written(tree: list) -> Node:
        tag, attributes, *children = tree
        return Node(tag, attributes, tuple(c if isinstance(c, str) else written(c) for c in children))

    built = views.lines({"<s>": [0.0, 0.5]}, ["a&b", "c"], "t", "u")
    assert str(written(built.tree())) == str(built)
    assert {n.tag for n in built.walk()} >= {"svg", "polyline", "text"}


@pytest.mark.parametrize(
    ("tag", "attributes"),
    [
        ("script", {}), ("img", {}), ("a", {}), ("iframe", {}), ("style", {}), ("foreignObject", {}), ("use", {}),
        ("p", {"onclick": "x"}), ("p", {"style": "x"}), ("p", {"href": "x"}), ("p", {"src": "x"}),
        ("rect", {"xlink:href": "x"}), ("p", {"data-": "x"}), ("p", {"data-x onclick": "x"}), ("p", {"srcdoc": "x"}),
    ],
)  # fmt: skip
def test_what_fetches_or_runs_cannot_be_built(tag: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="views have no"):
        node(tag, **attributes)


def test_attributes_and_children_that_are_not_there_are_left_out() -> None:
    built = node("td", None, ["a", [None, "b"]], class_=None, hidden=True, data_x=1.50, data_y=False, aria_label="<")
    assert str(built) == '<td hidden="" data-x="1.5" aria-label="&lt;">ab</td>'
    assert str(built.having(class_="z")) == '<td hidden="" data-x="1.5" aria-label="&lt;" class="z">ab</td>'
