"""Lines over labelled points, such as layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..wording import number
from .frame import WIDTH, circle, drawing, line, mark, polyline, text
from .nodes import Node

_DASHES = ("", "6 3", "2 3", "8 3 2 3")


def lines(
    series: Mapping[str, Sequence[float]],
    ticks: Sequence[str],
    title: str,
    unit: str,
    limits: tuple[float, float] | None = None,
    axis: str = "layer",
) -> Node:
    """One line a series over labelled points; series differ in dash as well as in colour.

    `axis` is what the points are; a tick such as `L3` stands for layer 3.
    """
    values = [v for height in series.values() for v in height if v == v]
    low, high = limits or (min([*values, 0.0]), max([*values, 0.0]))
    span = (high - low) or 1.0
    left, right, top, bottom = 60, WIDTH - 170, 12, 212

    def x(i: int) -> float:
        return left + (i + 0.5) * (right - left) / max(len(ticks), 1)

    def y(value: float) -> float:
        return bottom - (value - low) / span * (bottom - top)

    steps = round_steps(low, high)
    body = [line(left, bottom, right, bottom, "grid")]
    body += [line(left, y(v), right, y(v), "axis" if v == 0 else "grid") for v in steps]
    body += [text(left - 6, y(v) + 4, f"{v:g}", "number", "end") for v in steps]
    every = max(1, len(ticks) // 16)
    body += [text(x(i), bottom + 18, tick, "small", "middle") for i, tick in enumerate(ticks) if i % every == 0]
    placed: list[float] = []
    for k, (name, heights) in enumerate(series.items()):
        points = [(x(i), y(v)) for i, v in enumerate(heights) if v == v]
        if not points:
            continue
        body.append(polyline(points, f"line line{k}", _DASHES[k % len(_DASHES)]))
        for i, v in enumerate(heights):
            if v == v:
                dot = circle(x(i), y(v), 2.5, f"dot line{k}", f"{ticks[i]}, {name}: {number(v)} {unit}")
                body.append(mark(dot, (k, i), series=name, value=v, **{axis: ticks[i].removeprefix("L")}))
        at = points[-1][1]
        while any(abs(at - other) < 14 for other in placed):
            at += 14
        placed.append(at)
        body.append(text(right + 8, at + 4, name, f"name{k}"))
    body.append(text(left, bottom + 38, unit, "small"))
    return drawing(WIDTH, bottom + 48, title, body)


def round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, some `about` of them: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about if high > low else 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]
