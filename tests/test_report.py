"""The page: nothing in it runs or asks the network, whatever the tokens are; pictures that add up; readable colours."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

import cutaway
import wordy
from cutaway import views
from cutaway.figures import contributions, largest
from cutaway.report.page import Cell, Section, Table, Verbatim, inert_json, render
from cutaway.report.shared import index_page, study_page
from cutaway.studies import STUDIES
from cutaway.studies.attribution import Settings, run
from cutaway.views.frame import SCRIPT, STYLE

TAGS = (
    "html head meta title style body header main section details summary h1 h2 h3 p span div figure figcaption table "
    "caption thead tbody tfoot tr th td pre code ul li a svg g text rect line polyline polygon circle script"
)


class Page(HTMLParser):
    """A page taken apart: its tags with their attributes, the text of each, and the data that goes with it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"{tag} closed where it was not open"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    @property
    def data(self) -> dict:
        return json.JSONDecoder().raw_decode("".join(self.texts["script"]))[0]


def check_inert(text: str) -> Page:
    """Assert that a page has only the tags, attributes and addresses of the template."""
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= set(TAGS.split())
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    for tag, attrs in page.tags:
        assert not [
            name for name in attrs if name.startswith("on") or name in ("style", "src", "srcset", "background")
        ], tag
        if "href" in attrs:
            assert tag == "a" and re.fullmatch(r"[a-z_]+/[a-z]+\.(html|json)", attrs["href"] or "")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
    assert "@import" not in text and "url(" not in text
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None and policy is not None
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    assert script == SCRIPT.read_text(encoding="utf-8")
    assert policy == (
        f"default-src 'none'; img-src data:; style-src {digest(style[1])}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return page


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.fixture(scope="module")
def nasty_study():
    """A study in which every prompt token, answer, foil and prediction tries to break out."""
    model = wordy.model(nasty=True, bos="<s>")
    return run(model, Settings(("|".join(wordy.NASTY),), (wordy.NASTY[1],), (wordy.NASTY[2],), top=101))


def test_hostile_tokens_are_inert_in_a_whole_report(nasty_study) -> None:
    page = check_inert(study_page(nasty_study))
    seen = " ".join(page.texts["td"] + page.texts["span"])
    for token in ("<b>", "&nbsp;", r"$\frac$", "]]>", "{{", "{%", "%s", "⟨U+202E⟩abc", "⟨U+200B⟩"):
        assert token in seen, token
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u2028\u200b]", study_page(nasty_study))
    assert page.data["arrays"]["lens"]["data_vars"]["next_token"]["data"][0][:8] == wordy.NASTY[1:9]


def test_hostile_text_is_inert_in_every_part_of_a_page() -> None:
    for bad in [*wordy.NASTY, "", "\ud800"]:
        table = Table(bad, [bad, "x"], [[bad, Cell(bad, "p3")]], [bad])
        text = render(bad, bad, [Section(bad, [bad], [table, Verbatim(bad, bad)])], {"token": bad, bad: 1})
        page = check_inert(text.encode("utf-8", "backslashreplace").decode())
        assert page.data == {"token": bad, bad: 1}


def test_a_page_without_escaping_would_be_caught() -> None:
    with pytest.raises(AssertionError):
        check_inert(render("x", "", [], {}).replace("<h1>x", "<h1><img src=x onerror=alert(1)>"))
    with pytest.raises(AssertionError):
        check_inert(render("x", "", [], {}).replace("</style>", "body{}</style>"))


def test_inert_json_reads_back_and_cannot_end_its_element() -> None:
    value = {"a": [*wordy.NASTY, "\u2028\u2029", "\ud800"], "b": [1.5, None, True]}
    text = str(inert_json(value))
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == value


def test_every_number_of_the_pictures_is_in_the_data(nasty_study) -> None:
    page = check_inert(study_page(nasty_study))
    terms = page.data["arrays"]["by_component"]
    values = terms["data_vars"]["attribution"]["data"][0]
    shown = [float(x) for x in page.texts["text"] if re.fullmatch(r"[+-]\d+\.\d+", x)]
    assert len(shown) >= len(values)
    for value in values:
        assert any(math.isclose(value, x, abs_tol=6e-3) for x in shown)


def test_tables_have_captions_and_scopes_and_pictures_have_words(nasty_study) -> None:
    page = Page(study_page(nasty_study))
    count = [tag for tag, _ in page.tags].count
    assert count("table") == count("caption") > 8
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    pictures = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert len(pictures) >= 5
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    words = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("class") == "words"]
    assert len(words) >= len(pictures)
    views_of = [attrs for tag, attrs in page.tags if tag == "figure" and attrs["data-view"] != "verbatim"]
    assert len(words) == len(views_of)


def test_the_title_is_the_finding_and_the_index_leads_to_the_reports(nasty_study) -> None:
    page = Page(study_page(nasty_study))
    assert "logits after" in page.texts["h1"][0]
    index = check_inert(index_page([nasty_study], STUDIES, 1.0))
    assert [a["href"] for tag, a in index.tags if tag == "a"] == ["attribution/report.html", "attribution/result.json"]


# -- pictures ----------------------------------------------------------------------------------------------------------


def bars(picture: str) -> list[tuple[str, float, float]]:
    """(class, left, right) of every bar."""
    tree = ElementTree.fromstring(str(picture))
    found = [node.attrib for node in tree.iter() if node.tag.endswith("rect")]
    return [(a["class"], float(a["x"]), float(a["x"]) + float(a["width"])) for a in found]


def test_each_bar_starts_where_the_last_ended_and_they_reach_the_total() -> None:
    terms = [("a", 3.0), ("b", -5.0), ("c", 4.0), ("d", -0.5)]
    drawn = bars(views.waterfall(terms, 1.5, "t"))
    assert [kind for kind, _, _ in drawn] == ["pos", "neg", "pos", "neg", "total"]
    zero, at = drawn[0][1], drawn[0][1]
    unit = (drawn[0][2] - drawn[0][1]) / 3
    for (kind, left, right), (_, value) in zip(drawn, terms, strict=False):
        start, end = (left, right) if kind == "pos" else (right, left)
        assert start == pytest.approx(at, abs=0.2)
        assert end - start == pytest.approx(value * unit, abs=0.2)
        at = end
    assert drawn[-1][1] == pytest.approx(zero, abs=0.2)
    assert drawn[-1][2] == pytest.approx(at, abs=0.2) == pytest.approx(zero + 1.5 * unit, abs=0.3)


def test_bars_without_a_total_start_at_zero() -> None:
    drawn = bars(views.waterfall([("a", 2.0), ("b", -1.0)], None, "t"))
    assert drawn[0][1] == pytest.approx(drawn[1][2], abs=0.2)


def test_leaving_small_terms_out_keeps_the_sum() -> None:
    values = np.random.default_rng(0).normal(size=40)
    terms = xr.DataArray(values, dims="term", coords={"term": [f"t{i}" for i in range(40)]})
    chosen = largest(terms, 7)
    assert len(chosen) == 8 and chosen[-1][0] == "33 smaller terms"
    assert sum(v for _, v in chosen) == pytest.approx(values.sum())
    assert {abs(v) for _, v in chosen[:-1]} == set(np.sort(np.abs(values))[-7:])


def test_lines_are_drawn_to_scale() -> None:
    tree = ElementTree.fromstring(str(views.lines({"x": [0.0, 0.5, 1.0]}, ["a", "b", "c"], "t", "u", (0.0, 1.0))))
    points = next(node for node in tree.iter() if node.tag.endswith("polyline")).attrib["points"].split()
    ys = [float(p.split(",")[1]) for p in points]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2]) and ys[0] > ys[2]


def test_bands_marks_and_single_runs_are_drawn_to_scale() -> None:
    nan = math.nan
    curve = views.Curve("a", [1.0, 2.0, nan, 3.0], [0.5, 1.5, nan, 2.5], [2.0, 2.5, nan, 4.0], [[1.0, 2.0, 2.5, 4.0]])
    picture = views.bands(
        [curve, views.Curve("b", [1.0, 2.0, 3.0, 3.0])], ["0", "1", "2", "3"], "t", "degrees",
        null=views.Band("null", [0.0] * 4, [1.0] * 4), marks={"test": [1, -1, 0, nan]}, limits=(0.0, 4.0),
    )  # fmt: skip
    nodes = list(ElementTree.fromstring(str(picture)).iter())

    def points(kind: str) -> list[list[tuple[float, float]]]:
        found = [node.attrib["points"] for node in nodes if node.attrib.get("class", "") == kind]
        return [[tuple(map(float, p.split(","))) for p in text.split()] for text in found]  # type: ignore[misc]

    (null,) = points("null-band")
    zero, one = null[0][1], null[-1][1]
    place = {v: zero + v * (one - zero) for v in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)}
    middle = points("line line0")
    assert [len(part) for part in middle] == [2, 1]  # cut where there is no number
    assert [y for part in middle for _, y in part] == pytest.approx([place[v] for v in (1.0, 2.0, 3.0)], abs=0.1)
    area = points("band band0")
    assert [y for _, y in area[0]] == pytest.approx([place[v] for v in (0.5, 1.5, 2.5, 2.0)], abs=0.1)
    assert [y for _, y in points("thin line0")[0]] == pytest.approx([place[v] for v in (1.0, 2.0, 2.5, 4.0)], abs=0.1)
    up, down = points("mark pos")[0], points("mark neg")[0]
    xs = [x for x, _ in points("line line1")[0]]
    assert up[2][0] == pytest.approx(xs[0], abs=0.1) and down[2][0] == pytest.approx(xs[1], abs=0.1)
    assert up[2][1] < up[0][1] and down[2][1] > down[0][1]  # the tip points up, down
    empty = [float(node.attrib["cx"]) for node in nodes if node.attrib.get("class") == "mark none"]
    assert empty[0] == pytest.approx(xs[2], abs=0.1) and len(empty) == 2  # one tick, one in the key; NaN has none


def test_names_of_curves_never_touch() -> None:
    picture = views.bands([views.Curve(f"c{k}", [1.0, 1.0]) for k in range(9)], ["0", "1"], "t", "u")
    nodes = ElementTree.fromstring(str(picture)).iter()
    heights = sorted(float(n.attrib["y"]) for n in nodes if (n.text or "").startswith("c") and "x" in n.attrib)
    assert len(heights) == 9 and float(np.diff(heights).min()) > 13.5


def test_standalone_pictures_carry_their_colours() -> None:
    text = views.standalone(views.token_grid(["L0"], ["0"], [[("</svg><script>", 0.9)]], "t"))
    tree = ElementTree.fromstring(text)
    assert [node.tag.rpartition("}")[2] for node in tree][:2] == ["style", "title"]
    assert "prefers-color-scheme" in text


def test_a_real_attribution_adds_up_in_its_picture() -> None:
    model = wordy.model("gemma2")
    prompts = model.prompts("w5|w6|w7", answers=["w8"], foils=["w9"])
    terms = cutaway.attribute(model.trace(prompts), by="head")
    picture = contributions(terms, 0, top=6)
    assert f"{float(terms.sum()):+.3g}"[:4] in picture.words


@pytest.mark.parametrize("p", [0.0, 0.04, 0.06, 0.5, 0.99, 1.0, 1.0000001, -1e-9])
def test_shades_are_in_range_and_monotone(p: float) -> None:
    step = int(views.shade_of(p)[1:])
    assert 0 <= step <= 10 and abs(step / 10 - p) <= 0.051
    assert views.shade_of(math.nan) == "none"


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: list[float], b: list[float]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_can_be_seen_in_light_and_dark() -> None:
    """WCAG: 4.5 for text, 3 for marks; every shade of a probability with the text that stands on it."""
    css = STYLE.read_text(encoding="utf-8")
    strengths = {int(k): float(v) for k, v in re.findall(r"\.p(\d+) \{ --strength: ([\d.]+);", css)}
    assert list(strengths.values()) == sorted(strengths.values())
    white_on = {int(k) for k in re.findall(r"text\.on-p(\d+)", css)}
    for block in css.split("@media")[:2]:
        names = {k: [int(v[i : i + 2], 16) for i in (1, 3, 5)] for k, v in re.findall(r"--(\w+): (#\w{6})", block)}
        blue = [int(x) for x in re.search(r"--blue: (\d+), (\d+), (\d+)", block).groups()]  # type: ignore[union-attr]
        paper, ink = names["paper"], names["ink"]
        assert contrast(ink, paper) >= 4.5 and contrast(names["soft"], paper) >= 4.5
        assert all(contrast(names[k], paper) >= 3 for k in ("pos", "neg", "total", "line0", "line1", "line2", "line3"))
        for step, strength in strengths.items():
            cell = [p + (b - p) * strength for p, b in zip(paper, blue, strict=True)]
            assert contrast(paper if step in white_on else ink, cell) >= 4.5, (step, strength)
