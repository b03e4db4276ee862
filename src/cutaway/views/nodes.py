"""What views are made of: small trees of elements that can be written as markup or sent as data, and can run nothing.

A view is built once, here, and then used in two ways: `str(node)` is markup for a page, with everything escaped, and
`node.tree()` is the same as lists for a script that makes elements of it. Tags and attributes come from a list, so no
text, whatever a tokenizer put into it, can become an element, an address or a handler.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from markupsafe import Markup, escape

SVG = "http://www.w3.org/2000/svg"
TAGS = frozenset(
    "svg g text tspan title desc line rect circle polyline polygon path "
    "figure figcaption div span p h2 h3 h4 ul ol li dl dt dd pre code kbd strong em details summary "
    "table caption thead tbody tfoot tr th td colgroup col button label input select option output canvas".split()
)
"""Every element that a view may have. None of them fetches or runs anything."""

ATTRIBUTES = frozenset(
    "class id role dir lang tabindex hidden open title scope colspan rowspan span type value name for checked disabled "
    "selected min max step xmlns viewBox preserveAspectRatio width height x y x1 y1 x2 y2 cx cy r rx ry dx dy d points "
    "transform text-anchor dominant-baseline fill fill-opacity stroke stroke-width stroke-opacity stroke-dasharray "
    "focusable".split()
)
"""Every attribute that a view may have, besides `aria-*` and `data-*`. None of them is an address or a handler."""

_NAMED = re.compile(r"(aria|data)-[a-z][a-z0-9-]*")
_VOID = frozenset({"input", "col"})
_SELF_CLOSED = frozenset({"line", "rect", "circle", "polyline", "polygon", "path"})
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # neither XML nor HTML may hold them

Child: TypeAlias = "Node | str | Iterable[Child] | None"


@dataclass(frozen=True)
class Node:
    """One element. Made by `node`, which checks it."""

    tag: str
    attributes: Mapping[str, str]
    children: tuple[Node | str, ...] = ()

    def __str__(self) -> str:
        """The element as markup, everything escaped."""
        head = self.tag + "".join(f" {name}={_quoted(value)}" for name, value in self.attributes.items())
        if self.tag in _VOID:
            return f"<{head}>"
        if not self.children and self.tag in _SELF_CLOSED:
            return f"<{head}/>"
        body = "".join(str(escape(c)) if isinstance(c, str) else str(c) for c in self.children)
        return f"<{head}>{body}</{self.tag}>"

    def __html__(self) -> Markup:
        """For templates: markup that is escaped already."""
        return Markup(str(self))

    def tree(self) -> list[Any]:
        """The element as JSON can hold it: `[tag, {attribute: text}, child, ...]`, a text being a string."""
        children = [c if isinstance(c, str) else c.tree() for c in self.children]
        return [self.tag, dict(self.attributes), *children]

    def having(self, **attributes: Any) -> Node:
        """The same element with further or other attributes."""
        return Node(self.tag, {**self.attributes, **_attributes(attributes)}, self.children)

    def walk(self) -> Iterable[Node]:
        """The element and every element below it."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()


def node(tag: str, *children: Child, **attributes: Any) -> Node:
    """An element: `node("rect", x=1, class_="cell", data_layer=3, fill_opacity=0.5)`.

    In attribute names `_` stands for `-`, and a last `_` is left out (`class_`). Attributes that are None or False are
    left out, True is the empty text. Children are elements, texts, None (left out) or iterables of these.

    Raises:
        ValueError: a tag or an attribute that views do not have; a mistake in a view, never in its data.
    """
    if tag not in TAGS:
        raise ValueError(f"views have no <{tag}>")
    return Node(tag, _attributes(attributes), tuple(_flat(children)))


def _attributes(given: Mapping[str, Any]) -> dict[str, str]:
    made = {}
    for key, value in given.items():
        if value is None or value is False:
            continue
        name = key.removesuffix("_").replace("_", "-")
        if name not in ATTRIBUTES and not _NAMED.fullmatch(name):
            raise ValueError(f"views have no attribute {name!r}")
        made[name] = "" if value is True else _number(value) if isinstance(value, float) else visible(str(value))
    return made


def _flat(children: Iterable[Child]) -> Iterable[Node | str]:
    for child in children:
        if isinstance(child, Node):
            yield child
        elif isinstance(child, str):
            yield visible(child)
        elif child is not None:
            yield from _flat(child)


def _quoted(value: str) -> str:
    """An attribute's value in whichever quotes it has fewer of: data written as JSON has many of one kind."""
    safe = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    single = safe.count('"') > safe.count("'")
    return f"""'{safe.replace("'", "&#39;")}'""" if single else f"""\"{safe.replace('"', "&#34;")}\""""


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def visible(text: str) -> str:
    """`text` with the characters that markup cannot hold written out, such as ⟨U+0000⟩."""
    return _NO_XML.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
