"""Two effects of the same things against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..wording import number
from .frame import circle, drawing, line, text
from .nodes import Node

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
