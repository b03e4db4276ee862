"""Two numbers of the same things against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..wording import number
from .frame import circle, drawing, line, text
from .nodes import Node
from .scale import around, tick_text

Array = NDArray[np.float64]


def scatter(x: Array, y: Array, names: Sequence[str], named: Sequence[str], title: str, axes: tuple[str, str]) -> Node:
    """One point a head on common scales, with the diagonal; `named` ones carry their name."""
    size, left, top = 340, 70, 14
    low, high = min(float(x.min()), float(y.min()), 0.0), max(float(x.max()), float(y.max()), 0.0)
    pad = 0.06 * ((high - low) or 1.0)
    low, high = low - pad, high + pad

    def place(value: float, flip: bool) -> float:
        share = (value - low) / (high - low)
        return top + size * (1 - share) if flip else left + size * share

    zero_x, zero_y = place(0, False), place(0, True)
    body = [
        line(left, zero_y, left + size, zero_y, "axis"),
        line(zero_x, top, zero_x, top + size, "axis"),
        line(left, top + size, left + size, top, "grid"),
    ]
    for value in (low + pad, high - pad):
        if abs(value) > 0.08 * (high - low):
            body.append(text(place(value, False), zero_y + 14, number(value, 2), "number", "middle"))
            body.append(text(zero_x - 5, place(value, True) + 4, number(value, 2), "number", "end"))
    taken: list[tuple[float, float]] = []
    for a, b, name in zip(x, y, names, strict=True):
        px, py = place(float(a), False), place(float(b), True)
        body.append(circle(px, py, 3.5, "dot line0"))
        if name in named:
            ty = py + 4
            while any(abs(px - ox) < 46 and abs(ty - oy) < 12 for ox, oy in taken):
                ty += 12
            taken.append((px, ty))
            body.append(text(px + 7, ty, name))
    body.append(text(left + size / 2, top + size + 26, axes[0], "small", "middle"))
    body.append(text(14, top + size / 2, axes[1], "small", "middle", turn=-90))
    return drawing(left + size + 60, top + size + 36, title, body)


def points(
    x: Array,
    y: Array,
    names: Sequence[str],
    named: Sequence[str],
    title: str,
    axes: tuple[str, str],
    kinds: Sequence[int] | None = None,
    zero: bool = True,
    note: str = "",
) -> Node:
    """One point a thing, each axis on a scale of its own; `named` ones carry their name, all tell it on hover.

    Args:
        kinds: 0 to 3 for each point: drawn in the colour of that line.
        zero: whether 0 is on both axes. note: said under the picture.
    """
    size, left, top = 340, 76, 14
    across, up = around(x, left, left + size, zero, 0.06), around(y, top + size, top, zero, 0.06)
    body = [line(left, top + size, left + size, top + size, "axis"), line(left, top, left, top + size, "axis")]
    if zero:
        body += [
            line(left, up(0.0), left + size, up(0.0), "grid"),
            line(across(0.0), top, across(0.0), top + size, "grid"),
        ]
    body += [text(across(t), top + size + 15, tick_text(t), "number", "middle") for t in across.ticks(5)]
    body += [text(left - 6, up(t) + 4, tick_text(t), "number", "end") for t in up.ticks(5)]
    taken: list[tuple[float, float]] = []
    for i, (a, b, name) in enumerate(zip(x, y, names, strict=True)):
        if not (np.isfinite(a) and np.isfinite(b)):
            continue
        px, py = across(float(a)), up(float(b))
        told = f"{name}: {number(a)}, {number(b)}" if name else ""
        body.append(circle(px, py, 3.5 if name else 2, f"dot line{kinds[i] if kinds is not None else 0}", told))
        if name and name in named:
            ty = py + 4
            while any(abs(px - ox) < 46 and abs(ty - oy) < 12 for ox, oy in taken):
                ty += 12
            taken.append((px, ty))
            body.append(text(px + 7, ty, name))
    body.append(text(left + size / 2, top + size + 32, axes[0], "small", "middle"))
    body.append(text(14, top + size / 2, axes[1], "small", "middle", turn=-90))
    if note:
        body.append(text(left, top + size + 48, note, "small"))
    return drawing(left + size + 90, top + size + (56 if note else 42), title, body)
