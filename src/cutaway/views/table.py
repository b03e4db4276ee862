"""Tables: the numbers of a view, or a view of their own; sorted and filtered where the page's script runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .nodes import Node, node

LONG = 2000
"""Rows beyond which a table twin is cut; the result has them all."""


@dataclass(frozen=True)
class Cell:
    """A table's cell: text, and a class that shades it. `sort` is what it is sorted by, where that is not its text."""

    text: str
    shade: str = ""
    sort: float | None = None


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
            node("caption", self.caption),
            node("thead", node("tr", heads)),
            node("tbody", body),
            class_="sorts" if len(self.rows) > 2 else None,
        )
        return scrolling(table, self.caption)

    def _row(self, i: int, row: Sequence[str | Cell]) -> Node:
        made = []
        for j, (cell, left) in enumerate(self.cells(row)):
            kind = " ".join(filter(None, [cell.shade, "text" if left else ""])) or None
            of = {"scope": "row"} if j == 0 else {}
            made.append(node("td" if j else "th", cell.text, class_=kind, dir="auto", data_sort=_sort(cell.sort), **of))
        places = {f"data_{k}": str(v) for k, v in (self.places[i] if self.places else {}).items()}
        if self.changed is not None:
            made.append(node("td", "changed" if self.changed[i] else "same", class_="text"))
            places["data_changed"] = "yes" if self.changed[i] else "no"
        return node("tr", made, **places)


def _sort(value: float | None) -> str | None:
    return None if value is None else f"{value:.9g}"


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
    rows = [[one.get(name, "") for name in columns] for one in marks[:LONG]]
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
