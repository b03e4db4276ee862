"""Tables: the numbers of a view, or a view of their own; sorted and filtered where the page's script runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

from ..wording import exact, number, percent, signed
from .frame import shade_of
from .nodes import Node, node
from .sentence import sentence
from .token import token_span

LONG = 2000
"""Rows beyond which a table twin is cut; the result has them all."""


TEXT = 18
"""Letters that a column of text gets at least, where it is written in several lines."""
PAPER = (125, 150)
"""Letters of a row that fit a page of paper, in ordinary and in small print."""


@dataclass(frozen=True)
class Cell:
    """A table's cell: text, and a class that shades it.

    `numbers` are those behind the text, at full precision, the cell's own under the name "": they are what it is sorted
    by and what is copied. `under` is a second line, such as an interval. `token` says that the text is a token.
    """

    text: str
    shade: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    under: str = ""
    token: bool = False

    @property
    def words(self) -> str:
        """The cell in one line."""
        return f"{self.text} {self.under}".rstrip()

    def element(self, tag: str, kind: str = "", **more: str) -> Node:
        """The cell as an element."""
        inner = token_span(self.text) if self.token else self.text
        below = node("span", " ", self.under, class_="under") if self.under else None
        classes = " ".join(filter(None, [self.shade, kind])) or None
        way = None if self.token or _is_number(self.text) else "auto"
        return node(tag, inner, below, class_=classes, dir=way, data_exact=self._exact(), **more)

    def _exact(self) -> str | None:
        """`0.5 low=0.25 high=0.75`; None where the text says it all."""
        there = {name: exact(value) for name, value in self.numbers.items() if value == value}
        if not there or (list(there) == [""] and there[""] == self.text):
            return None
        return " ".join(f"{name.replace(' ', '_')}={text}" if name else text for name, text in there.items())


def num(value: SupportsFloat, digits: int = 3, shade: str = "") -> Cell:
    """A number."""
    return Cell(number(value, digits), shade, {"": float(value)})


def plus(value: SupportsFloat, digits: int = 3, shade: str = "") -> Cell:
    """A number with its sign."""
    return Cell(signed(value, digits), shade, {"": float(value)})


def portion(value: SupportsFloat, shaded: bool = False) -> Cell:
    """A share of 1, in percent; shaded by its size if asked."""
    return Cell(percent(value), shade_of(float(value)) if shaded else "", {"": float(value)})


def interval(one: Any, names: Sequence[str] = ("mean", "low", "high"), digits: int = 3, shade: str = "") -> Cell:
    """An estimate with its interval under it, from three names of a mapping or of one cell of a dataset."""
    value, low, high = (float(one[name]) for name in names)
    if value != value:
        return Cell("—", shade)
    under = f"[{signed(low, digits)}, {signed(high, digits)}]" if low == low else ""
    return Cell(signed(value, digits), shade, {"": value, "low": low, "high": high}, under)


@dataclass(frozen=True)
class Table:
    """A table with a header row; the first column heads its rows. `left` columns hold text.

    `changed` says which rows changed, where the table compares: these are marked in words and can be shown alone.
    `places` gives what each row stands for, such as {"layer": 3, "head": 2}, so that it is chosen with it elsewhere.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: Sequence[str] = ()
    changed: Sequence[bool] | None = None
    places: Sequence[dict[str, str | int]] | None = None

    def cells(self, row: Sequence[str | Cell]) -> list[tuple[Cell, bool]]:
        """The cells of a row, each with whether it holds text rather than a number."""
        made = [c if isinstance(c, Cell) else Cell(str(c)) for c in row]
        return [(cell, name in self.left) for cell, name in zip(made, self.columns, strict=True)]

    def element(self) -> Node:
        """The table as an element that scrolls by itself."""
        columns = [*self.columns, *(["changed"] if self.changed is not None else [])]
        text = [name in self.left for name in self.columns] + [True]
        heads = [
            node("th", name, scope="col", class_="text" if left else None)
            for name, left in zip(columns, text, strict=False)
        ]
        body = [self._row(i, row) for i, row in enumerate(self.rows)]
        table = node(
            "table",
            node("caption", sentence(self.caption)),
            node("thead", node("tr", heads)),
            node("tbody", body),
            class_=" ".join(filter(None, ["sorts" if len(self.rows) > 2 else "", self._wide()])) or None,
        )
        return scrolling(table, self.caption)

    def _wide(self) -> str:
        """How much smaller it is written on paper, where nothing scrolls: by the letters of a row."""
        lines = [self.cells(row) for row in self.rows]
        letters = 0.0
        for j, name in enumerate(self.columns):
            longest = max((max(len(line[j][0].text), 0.85 * len(line[j][0].under)) for line in lines), default=0)
            longest = min(longest, TEXT) if name in self.left else longest
            letters += 2 + max(longest, *map(len, name.split()), 0)
        return "widest" if letters > PAPER[1] else "wide" if letters > PAPER[0] else ""

    def _row(self, i: int, row: Sequence[str | Cell]) -> Node:
        made = []
        for j, (cell, left) in enumerate(self.cells(row)):
            made.append(
                cell.element("td", "text" if left else "")
                if j
                else cell.element("th", "text" if left else "", scope="row")
            )
        places = {f"data_{k}": str(v) for k, v in (self.places[i] if self.places else {}).items()}
        if self.changed is not None:
            made.append(node("td", "changed" if self.changed[i] else "same", class_="text"))
            places["data_changed"] = "yes" if self.changed[i] else "no"
        return node("tr", made, **places)


def scrolling(inner: Node, label: str) -> Node:
    """Something wide that scrolls by itself and can be scrolled with the keys."""
    return node("div", inner, class_="scroll", tabindex=0, role="group", aria_label=label)


_HEADS = {"p": "p corrected"}


def twin(picture: Node, caption: str) -> Table | None:
    """The marks of a picture as a table: a row a mark, a column a fact. None for a picture without marks."""
    marks = [facts for one in picture.walk() if one is not picture and (facts := _facts(one)) is not None]
    columns = list(dict.fromkeys(key for one in marks for key in one))
    if not columns:
        return None
    rows = [[_cell(one.get(name, "")) for name in columns] for one in marks[:LONG]]
    more = f" The first {LONG} of {len(marks)}; the result has all." if len(marks) > LONG else ""
    words = [name for name in columns if not all(_is_number(one.get(name, "0")) for one in marks)]
    return Table(f"{caption}{more}", [_HEADS.get(name, name) for name in columns], rows, words)


def _facts(shape: Node) -> dict[str, str] | None:
    """What a mark stands for; what it says, if it has nothing else; None for an element that is no mark."""
    inner = ["".join(map(str, c.children)) for c in shape.children if isinstance(c, Node) and c.tag == "title"]
    told = inner[0] if inner else shape.attributes.get("title") if shape.tag == "span" else None
    if told is None:
        return None
    named = {
        k.removeprefix("data-"): v for k, v in shape.attributes.items() if k.startswith("data-") and k != "data-at"
    }
    return named or {"shown": told}


def _cell(text: str) -> Cell:
    """A fact: numbers to four digits, with all of theirs behind."""
    return num(float(text), 4) if "." in text and _is_number(text) else Cell(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
