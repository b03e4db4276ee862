"""Contributions that add up to a total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..wording import signed
from .frame import HALF, WIDTH, drawing, line, marked, rect, text
from .nodes import Node

ROW, LABEL, SHORT = 20, 190, 20
"""Height of a row; room for names; letters of names that are short enough for a small picture."""


def waterfall(
    terms: Sequence[tuple[str, float]],
    total: float | None,
    title: str,
    unit: str = "logits",
    places: Sequence[Mapping[str, str | float]] | None = None,
) -> Node:
    """One bar a term, each starting where the last ended, so that the eye can add; then the total.

    Short names make a small picture, which fits a phone. Without a total the bars all start at zero. `places` says what
    each term stands for, such as {"layer": 3}.
    """
    ends, at = [0.0], 0.0
    for _, value in terms:
        at = at + value if total is not None else value
        ends.append(at)
    low, high = min(*ends, total or 0, 0), max(*ends, total or 0, 0)
    span = (high - low) or 1.0
    longest = max(len(name) for name, _ in terms) if terms else 0
    label, wide = (int(7.2 * longest) + 16, HALF) if longest <= SHORT else (LABEL, WIDTH)
    left, right = label + 10, wide - 90

    def x(value: float) -> float:
        return left + (value - low) / span * (right - left)

    rows = len(terms) + (total is not None)
    body = [line(x(0), 4, x(0), rows * ROW + 8, "axis")]
    for i, (name, value) in enumerate(terms):
        start = ends[i] if total is not None else 0.0
        kind = "pos" if value >= 0 else "neg"
        body += _bar(
            i, name, x(start), x(start + value), value, kind, (label, right), unit, places[i] if places else {}
        )
        if total is not None and i + 1 < rows:
            body.append(line(x(start + value), i * ROW + 18, x(start + value), i * ROW + ROW + 8, "step"))
    if total is not None:
        body += _bar(len(terms), "sum", x(0), x(total), total, "total", (label, right), unit, {})
    body.append(text(left, rows * ROW + 24, unit, "small"))
    return drawing(wide, rows * ROW + 32, title, body)


def _bar(
    row: int,
    name: str,
    a: float,
    b: float,
    value: float,
    kind: str,
    ends: tuple[float, float],
    unit: str,
    place: Mapping[str, str | float],
) -> list[Node]:
    y = row * ROW + 6
    told = f"{name}: {signed(value, 4)} {unit}"
    bar = rect(min(a, b), y, max(abs(b - a), 1), ROW - 6, kind, told)
    return [
        text(ends[0], y + 11, name, "total-name" if kind == "total" else "", "end"),
        marked(bar, (row, 0), **{"term": name, **place, "value": value}),
        text(ends[1] + 8, y + 11, signed(value), "number"),
    ]
