"""Two numbers of the same things against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..wording import number
from .frame import circle, drawing, line, marked, text
from .nodes import Node
from .scale import around, round_steps, tick_text

Array = NDArray[np.float64]


def scatter(
    x: Array,
    y: Array,
    names: Sequence[str],
    named: Sequence[str],
    title: str,
    axes: tuple[str, str],
    places: Sequence[Mapping[str, str | float]] | None = None,
) -> Node:
    """One point a head on common scales, with the diagonal; `named` ones carry their name."""
    size, left, top = 340, 70, 14
    low, high = min(float(x.min()), float(y.min()), 0.0), max(float(x.max()), float(y.max()), 0.0)
    pad = 0.06 * ((high - low) or 1.0)
    low, high = low - pad, high + pad

    def place(value: float, flip: bool) -> float:
        share = (value - low) / (high - low)
        return top + size * (1 - share) if flip else left + size * share

    steps = round_steps(low, high)
    body = [line(place(v, False), top, place(v, False), top + size, "axis" if v == 0 else "grid") for v in steps]
    body += [line(left, place(v, True), left + size, place(v, True), "axis" if v == 0 else "grid") for v in steps]
    body += [text(place(v, False), top + size + 13, f"{v:g}", "number", "middle") for v in steps]
    body += [text(left - 5, place(v, True) + 4, f"{v:g}", "number", "end") for v in steps]
    body.append(line(left, top + size, left + size, top, "step diagonal"))
    points = [(place(float(a), False), place(float(b), True)) for a, b in zip(x, y, strict=True)]
    for i, (a, b, name) in enumerate(zip(x, y, names, strict=True)):
        told = f"{name}: {axes[0]} {number(a)}, {axes[1]} {number(b)}"
        dot = circle(*points[i], 4.0 if name in named else 3.0, f"dot line0{' full' if name in named else ''}", told)
        body.append(marked(dot, (0, i), name=name, **(places[i] if places else {}), x=float(a), y=float(b)))
    taken: list[Box] = []
    for (px, py), name in zip(points, names, strict=True):
        if name in named:
            at, anchor = _beside(px, py, name, points, taken)
            body.append(text(*at, name, "", anchor))
    body.append(text(left + size / 2, top + size + 30, axes[0], "small", "middle"))
    body.append(text(14, top + size / 2, axes[1], "small", "middle", turn=-90))
    return drawing(left + size + 60, top + size + 40, title, body)


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
    places: Sequence[Mapping[str, str | float]] | None = None,
) -> Node:
    """One point a thing, each axis on a scale of its own; `named` ones carry their name, all tell it on hover.

    Args:
        kinds: 0 to 3 for each point: drawn in the colour of that line.
        zero: whether 0 is on both axes. note: said under the picture. places: what each point stands for.
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
    taken: list[Box] = []
    there = np.isfinite(x) & np.isfinite(y)
    every = [(across(float(a)), up(float(b))) for a, b in zip(x[there], y[there], strict=True)]
    beside: list[Node] = []
    for i, (a, b, name) in enumerate(zip(x, y, names, strict=True)):
        if not there[i]:
            continue
        px, py = across(float(a)), up(float(b))
        told = f"{name}: {number(a)}, {number(b)}" if name else ""
        dot = circle(px, py, 3.5 if name else 2, f"dot line{kinds[i] if kinds is not None else 0}", told)
        held = places[i] if places else {}
        body.append(marked(dot, (0, i), name=name, **held, x=float(a), y=float(b)) if name else dot)
        if name and name in named:
            at, anchor = _beside(px, py, name, every, taken)
            beside.append(text(*at, name, "", anchor))
    body += beside
    body.append(text(left + size / 2, top + size + 32, axes[0], "small", "middle"))
    body.append(text(14, top + size / 2, axes[1], "small", "middle", turn=-90))
    if note:
        body.append(text(left, top + size + 48, note, "small"))
    return drawing(left + size + 64, top + size + (56 if note else 42), title, body)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _beside(
    px: float, py: float, name: str, points: Sequence[tuple[float, float]], taken: list[Box]
) -> tuple[tuple[float, float], str]:
    """Where a point's name goes: the first place around it that covers no other name and the fewest points."""
    wide = 7.0 * len(name)
    tries = [
        (7.0, 4.0, "start"),
        (-7.0, 4.0, "end"),
        (0.0, -8.0, "middle"),
        (0.0, 16.0, "middle"),
        (7.0, 16.0, "start"),
    ]
    tries += [(7.0, 16.0, "start"), (7.0, -8.0, "start"), (7.0, 28.0, "start"), (-7.0, 16.0, "end")]
    best, least = tries[0], float("inf")
    for dx, dy, anchor in tries:
        box = _box(px + dx, py + dy, wide, anchor)
        hidden = sum(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)
        hidden += 100 * sum(_overlap(box, other) for other in taken)
        if hidden < least:
            best, least = (dx, dy, anchor), hidden
    dx, dy, anchor = best
    taken.append(_box(px + dx, py + dy, wide, anchor))
    return (px + dx, py + dy), anchor


def _box(x: float, y: float, wide: float, anchor: str) -> Box:
    left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 11, left + wide, y + 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
