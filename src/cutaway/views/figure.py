"""A figure: a picture, what it shows in words, its numbers as a table, and the Python that makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .frame import BROAD, HALF
from .nodes import Node, node
from .sentence import sentence
from .table import Table, scrolling, twin


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows, and the same in words.

    `svg` is the view: a drawing or a table. `table` is its twin; None makes one of the picture's marks. `code` is the
    Python that makes the picture. `data` is what the page's script needs beyond what is drawn, for the view `kind`.
    `places` holds for everything in it, such as {"prompt": 0}.
    """

    svg: Node
    caption: str
    words: str
    table: Table | None = None
    code: str = ""
    kind: str = "picture"
    data: Any = None
    places: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the picture is called."""
        return self.svg.attributes.get("aria-label") or self.caption.partition(". ")[0] or self.kind

    @property
    def narrow(self) -> bool:
        """Whether two of these fit side by side; such a drawing is made smaller on a phone rather than scrolled."""
        return float(self.svg.attributes.get("width", "inf")) <= HALF

    @property
    def broad(self) -> bool:
        """Whether it is so wide that it is scrolled rather than made small."""
        return float(self.svg.attributes.get("width", 0)) > BROAD

    def numbers(self) -> Table | None:
        """What is drawn as a table; None for a view that is a table itself."""
        return self.table or twin(self.svg, self.svg.attributes.get("aria-label", self.caption))

    def element(self) -> Node:
        """The figure as one element, complete without any script."""
        drawn = self.svg
        label = drawn.attributes.get("aria-label", self.caption)
        numbers = None if self.kind == "splitting" else self.numbers()  # there every term has its number beside it
        return node(
            "figure",
            scrolling(drawn, label) if drawn.tag == "svg" else drawn,
            node("figcaption", sentence(self.caption), " ", node("span", sentence(self.words), class_="words")),
            _folded("Numbers", numbers.element()) if numbers else None,
            _folded("Python", node("pre", node("code", self.code), tabindex=0)) if self.code else None,
            class_=f"view {self.kind}{' narrow' if self.narrow else ' broad' if self.broad else ''}",
            data_view=self.kind,
            data_json=None if self.data is None else compact(self.data),
            **{f"data_{name}": str(value) for name, value in self.places.items()},
        )


@dataclass(frozen=True)
class Verbatim:
    """Text to be shown and copied as it is."""

    caption: str
    text: str

    def element(self) -> Node:
        """The text with its caption."""
        pre = node("pre", self.text, tabindex=0, role="group", aria_label=self.caption)
        return node("figure", pre, node("figcaption", self.caption), class_="view verbatim", data_view="verbatim")


def _folded(name: str, inner: Node) -> Node:
    return node("details", node("summary", name), inner, class_="twin")


def compact(data: Any) -> str:
    """JSON in ASCII without spaces, for an attribute."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)
