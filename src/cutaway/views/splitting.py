"""Contributions that split: a layer into its components, these into heads, a head into source tokens.

Every bar of every depth is drawn once, on one scale, where it belongs in the sum: a part begins where the part before
it ended, so opening a term moves nothing. The terms are `details`, so they open without any script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..wording import exact, prose, signed
from .nodes import Node, node
from .table import Cell, Table, plus

ACROSS = 1000


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
    """Bars that add up to `total`, each of which opens into the bars that add up to it."""
    scale = _Scale(terms, total)
    rows, at = [], 0.0
    for term in terms:
        rows.append(_row(term, at, 0, scale, unit))
        at += term.value
    rows.append(node("div", _cells(Term(whole, total), 0.0, 0, scale, "total"), class_="term sum"))
    return node("div", node("p", title, class_="heading"), rows, class_="splitting", role="group", aria_label=title)


def splitting_table(terms: Sequence[Term], caption: str) -> Table:
    """The same as a table: how deep a term lies, and its value."""
    rows: list[Sequence[str | Cell]] = []
    with_interval = any(term.low == term.low for term in terms)
    for top in terms:
        for depth, term in top.walk():
            between = [plus(term.low, 4), plus(term.high, 4)] if with_interval else []
            rows.append([f"{'· ' * depth}{prose(term.name, 40)}", plus(term.value, 6), *between])
    return Table(caption, ["term", "contribution", *(["low", "high"] if with_interval else [])], rows, ["term"])


class _Scale:
    """Where on the axis a running sum stands; every sum that any opening can show is on it."""

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
        return 8 + (value - self.low) / self.span * (ACROSS - 16)


def _row(term: Term, at: float, depth: int, scale: _Scale, unit: str) -> Node:
    between = f" [{signed(term.low)}, {signed(term.high)}]" if term.low == term.low else ""
    told = f"{term.name}: {signed(term.value, 4)}{between} {unit}"
    facts = {f"data_{k}": str(v) for k, v in term.places.items()}
    cells = _cells(term, at, depth, scale, "pos" if term.value >= 0 else "neg")
    if not term.parts:
        return node("div", cells, class_="term", title=told, data_at="", **facts)
    parts, start = [], at
    for part in term.parts:
        parts.append(_row(part, start, depth + 1, scale, unit))
        start += part.value
    return node("details", node("summary", cells, class_="term", title=f"{told}; opens", data_at="", **facts), parts)


def _cells(term: Term, at: float, depth: int, scale: _Scale, kind: str) -> list[Node]:
    a, b = scale(at), scale(at + term.value)
    zero = scale(0.0)
    shapes = [
        node("line", x1=zero, y1=0, x2=zero, y2=16, class_="axis"),
        node("rect", x=min(a, b), y=2, width=max(abs(b - a), 1.5), height=12, class_=kind),
    ]
    if term.low == term.low:
        low, high = scale(at + term.low), scale(at + term.high)
        shapes.append(node("line", x1=low, y1=8, x2=high, y2=8, class_="whisker"))
    frame = {"viewBox": f"0 0 {ACROSS} 16", "preserveAspectRatio": "none", "aria_hidden": "true"}
    bar = node("svg", shapes, class_="bar", **frame)
    named = node("span", prose(term.name, 30), class_=f"name depth{min(depth, 4)}", dir="auto")
    numbers = exact(term.value) + (f" low={exact(term.low)} high={exact(term.high)}" if term.low == term.low else "")
    return [named, bar, node("span", signed(term.value), class_="number", data_exact=numbers)]
