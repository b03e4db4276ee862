"""Contributions that split: a layer into its components, these into heads, a head into source tokens.

Every bar of every depth is drawn once, on one scale, where it belongs in the sum: a part begins where the part before
it ended, so opening a term moves nothing. The terms are `details`, so they open without any script.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ..wording import exact, prose, shown_text, signed
from .nodes import Node, node
from .table import Cell, Table, plus

NAME = 30
"""Letters of a name that are shown."""
THIN = 0.15
"""Percent of the axis that the thinnest bar takes."""


@dataclass(frozen=True)
class Term:
    """One term of a sum; `parts` add up to it. `low`, `high`: its interval. `places`: what it stands for."""

    name: str
    value: float
    parts: Sequence[Term] = ()
    low: float = float("nan")
    high: float = float("nan")
    places: Mapping[str, str | int] = field(default_factory=dict)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Term]]:
        """The term and everything below it, with the depth of each."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)


def splitting(terms: Sequence[Term], total: float, title: str, unit: str = "logits", whole: str = "sum") -> Node:
    """Bars that add up to `total`, each of which opens into the bars that add up to it.

    There may be thousands of rows, so a row says nothing twice: the axis is drawn once behind all of them, a part
    stands inside what it is part of, and the script reads what a row says from its name and number.
    """
    scale = _Scale(terms, total)
    rows, at = [], 0.0
    for term in terms:
        rows.append(_row(term, at, scale))
        at += term.value
    rows.append(node("div", _cells(Term(whole, total), 0.0, scale, "total"), class_="term sum"))
    zero = _percent(scale(0.0))
    axis = node("svg", node("line", x1=zero, y1=0, x2=zero, y2="100%", class_="axis"), aria_hidden="true")
    ruler = node("div", node("span"), axis, node("span"), class_="ruler", aria_hidden="true")
    body = node("div", ruler, rows, class_="rows")
    heading = node("p", title, class_="heading")
    return node("div", heading, body, class_="splitting", role="group", aria_label=title, data_unit=unit)


def splitting_table(terms: Sequence[Term], caption: str) -> Table:
    """The same as a table: how deep a term lies, and its value."""
    rows: list[Sequence[str | Cell]] = []
    with_interval = any(term.low == term.low for term in terms)
    for top in terms:
        for depth, term in top.walk():
            between = [plus(term.low, 4), plus(term.high, 4)] if with_interval else []
            rows.append([f"{'· ' * depth}{prose(term.name, NAME)}", plus(term.value, 6), *between])
    return Table(caption, ["term", "contribution", *(["low", "high"] if with_interval else [])], rows, ["term"])


class _Scale:
    """Where on the axis a running sum stands, in percent of it; every sum that any opening can show is on it."""

    def __init__(self, terms: Sequence[Term], total: float) -> None:
        sums = [0.0, total]
        self._gather(terms, 0.0, sums)
        self.low, self.high = min(sums), max(sums)
        self.span = (self.high - self.low) or 1.0

    def _gather(self, terms: Sequence[Term], at: float, sums: list[float]) -> None:
        for term in terms:
            self._gather(term.parts, at, sums)
            at += term.value
            sums.append(at)

    def __call__(self, value: float) -> float:
        return 0.8 + (value - self.low) / self.span * 98.4


def _percent(share: float) -> str:
    return f"{share:.2f}".rstrip("0").rstrip(".") + "%"


def _row(term: Term, at: float, scale: _Scale, held: Mapping[str, str | int] = MappingProxyType({})) -> Node:
    """The row of a term and, if it opens, of its parts. `held`: what the element around it says of places already."""
    facts = {f"data_{k}": str(v) for k, v in term.places.items() if held.get(k) != v}
    cells = _cells(term, at, scale, "pos" if term.value >= 0 else "neg")
    if not term.parts:
        return node("div", cells, class_="term", **facts)
    inside = term.places if "head" in term.places else {}
    parts, start = [], at
    for part in term.parts:
        parts.append(_row(part, start, scale, inside))
        start += part.value
    around = facts if inside else {}
    return node("details", node("summary", cells, class_="term", **facts), parts, **around)


def _cells(term: Term, at: float, scale: _Scale, kind: str) -> list[Node]:
    a, b = scale(at), scale(at + term.value)
    b = b if abs(b - a) >= THIN else a + math.copysign(THIN, term.value)
    shapes = [node("line", x1=_percent(a), x2=_percent(b), class_=kind)]  # as thick as the drawing is high
    if term.low == term.low:
        low, high = scale(at + term.low), scale(at + term.high)
        shapes.append(node("line", x1=_percent(low), y1=6, x2=_percent(high), y2=6, class_="whisker"))
    name = shown_text(term.name)
    cut = {"title": prose(term.name, 200)} if len(name) > NAME else {}
    numbers = exact(term.value) + (f" low={exact(term.low)} high={exact(term.high)}" if term.low == term.low else "")
    return [
        node("span", prose(term.name, NAME), class_="name", **cut),
        node("svg", shapes, aria_hidden="true"),
        node("span", signed(term.value), class_="number", data_exact=numbers),
    ]
