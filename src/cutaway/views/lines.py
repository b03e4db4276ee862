"""Lines over labelled points, such as layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..wording import number
from .frame import WIDTH, circle, drawing, line, polyline, text
from .nodes import Node

_DASHES = ("", "6 3", "2 3", "8 3 2 3")


def lines(
    series: Mapping[str, Sequence[float]],
    ticks: Sequence[str],
    title: str,
    unit: str,
    limits: tuple[float, float] | None = None,
) -> Node:
    """One line a series over labelled points; series differ in dash as well as in colour."""
    values = [v for height in series.values() for v in height if v == v]
    low, high = limits or (min([*values, 0.0]), max([*values, 0.0]))
    span = (high - low) or 1.0
    left, right, top, bottom = 60, WIDTH - 170, 12, 212

    def x(i: int) -> float:
        return left + (i + 0.5) * (right - left) / max(len(ticks), 1)

    def y(value: float) -> float:
        return bottom - (value - low) / span * (bottom - top)

    body = [
        line(left, y(v), right, y(v), "axis" if v in (0, low) else "grid") for v in (low, 0.0, high) if low <= v <= high
    ]
    body += [
        text(left - 6, y(v) + 4, number(v), "number", "end")
        for v in sorted({low, high, 0.0 if low < 0 < high else low})
    ]
    every = max(1, len(ticks) // 16)
    body += [text(x(i), bottom + 18, tick, "small", "middle") for i, tick in enumerate(ticks) if i % every == 0]
    placed: list[float] = []
    for k, (name, heights) in enumerate(series.items()):
        points = [(x(i), y(v)) for i, v in enumerate(heights) if v == v]
        if not points:
            continue
        body.append(polyline(points, f"line line{k}", _DASHES[k % len(_DASHES)]))
        body += [circle(a, b, 2.5, f"dot line{k}") for a, b in points]
        at = points[-1][1]
        while any(abs(at - other) < 14 for other in placed):
            at += 14
        placed.append(at)
        body.append(text(right + 8, at + 4, name, f"name{k}"))
    body.append(text(left, bottom + 38, unit, "small"))
    return drawing(WIDTH, bottom + 48, title, body)
