"""Curves over labelled points, such as layers: means with their bands, single runs, what chance gives, what is sure.

Curves differ in dash as well as in colour and carry their names; certainty is a shape under the axis, never a colour
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from ..wording import number, prose
from .frame import HALF, WIDTH, band, circle, drawing, line, mark, marked, polyline, text
from .nodes import Node, node
from .scale import round_steps

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2")
_COLOURS, _ROW, _GAP = 4, 20, 14
_LEFT, _TOP, _BOTTOM = 60, 22, 232
FEW = 14
"""Ticks that fit a small picture."""


@dataclass(frozen=True)
class Curve:
    """One curve; every sequence has one number a tick, NaN where there is none.

    Attributes:
        low, high: the limits of its band. each: single runs, drawn as thin lines.
    """

    name: str
    middle: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    each: Sequence[Sequence[float]] = ()

    @property
    def values(self) -> list[float]:
        rows = [self.middle, self.low or (), self.high or (), *self.each]
        return [float(v) for row in rows for v in row if v == v]


@dataclass(frozen=True)
class Band:
    """Where a control lies, such as 95 % of its draws."""

    name: str
    low: Sequence[float]
    high: Sequence[float]


def bands(
    curves: Sequence[Curve],
    ticks: Sequence[str],
    title: str,
    unit: str,
    *,
    null: Band | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
    said: tuple[str, str, str] = ("above", "below", "not significant"),
    limits: tuple[float, float] | None = None,
    axis: str = "",
    wide: float | None = None,
) -> Node:
    """Curves with their bands, and rows of marks under the axis.

    Args:
        unit: of the numbers. axis: what the ticks are.
        null: the band of a control, drawn behind everything.
        marks: name -> a sign a tick: above 0, below 0, 0 for not significant, NaN for not tested.
        said: what the three marks mean.
        limits: of the vertical axis; default: all values, and 0.
        wide: of the picture; default: `HALF`, which fits a phone and stands beside another, for up to `FEW` ticks.
    """
    wide = (HALF if len(ticks) <= FEW else WIDTH) if wide is None else wide
    values = [v for curve in curves for v in curve.values]
    values += [float(v) for side in ((null.low, null.high) if null else ()) for v in side if v == v]
    low, high = limits or (min([*values, 0.0]), max([*values, 0.0]))
    span = (high - low) or 1.0
    said_by = [c.name for c in curves] + list(marks or ()) + ([null.name] if null else [])
    room = 7.6 * max((len(prose(name, 30)) for name in said_by), default=0) + 16
    right = wide - (190 if wide > 600 else min(max(120.0, room), 200.0))

    def x(i: int) -> float:
        return _LEFT + (i + 0.5) * (right - _LEFT) / max(len(ticks), 1)

    def y(value: float) -> float:
        inside = min(max(value, low), high) if limits else value  # an interval may reach beyond what can be
        return _BOTTOM - (inside - low) / span * (_BOTTOM - _TOP)

    def runs(*rows: Sequence[float]) -> list[list[tuple[float, ...]]]:
        """(x, y, ...) of the ticks at which every row has a number, cut where one has none."""
        found: list[list[tuple[float, ...]]] = [[]]
        for i, several in enumerate(zip(*rows, strict=True)):
            if all(v == v for v in several):
                found[-1].append((x(i), *(y(v) for v in several)))
            elif found[-1]:
                found.append([])
        return [run for run in found if run]

    body = [text(_LEFT, _TOP - 10, unit, "small")]
    for step in round_steps(low, high):
        body.append(line(_LEFT, y(step), right, y(step), "axis" if step == 0 else "grid"))
        body.append(text(_LEFT - 6, y(step) + 4, f"{step:.6g}", "number", "end"))
    each = (right - _LEFT) / max(len(ticks), 1)
    every = max(1, len(ticks) // 16, ceil((6.2 * max(map(len, ticks), default=0) + 8) / each))
    body += [text(x(i), _BOTTOM + 18, tick, "small", "middle") for i, tick in enumerate(ticks) if i % every == 0]
    if axis:
        body.append(text(right + 8, _BOTTOM + 18, axis, "small"))
    names: list[tuple[float, str, str]] = []  # height, words, class
    if null is not None:
        for run in runs(null.low, null.high):
            body.append(band([p[0] for p in run], [p[1] for p in run], [p[2] for p in run], "null-band"))
            names.append(((run[-1][1] + run[-1][2]) / 2, null.name, "small"))
        names = names[-1:]
    for k, curve in enumerate(curves):
        if curve.low is not None and curve.high is not None:
            for run in runs(curve.low, curve.high):
                xs, lows, highs = zip(*run, strict=True)
                body.append(band(xs, lows, highs, f"band band{k % _COLOURS}"))
    for k, curve in enumerate(curves):
        thin = [polyline(run, f"thin line{k % _COLOURS}") for one in curve.each for run in runs(one)]  # type: ignore[arg-type]
        body += [node("g", thin, class_="each")] if thin else []
    for k, curve in enumerate(curves):
        dash, colour = _DASHES[k % len(_DASHES)], k % _COLOURS
        for run in runs(curve.middle):
            body.append(polyline(run, f"line line{colour}", dash))  # type: ignore[arg-type]
        for i, value in enumerate(curve.middle):
            if value == value:
                told = f"{curve.name}, {ticks[i]}: {number(value)} {unit}"
                dot = circle(x(i), y(value), 2.5, f"dot line{colour}", told + _between(curve, i))
                body.append(marked(dot, (k, i), series=curve.name, **_tick(ticks[i]), value=value, **_ends(curve, i)))
        last = [p for run in runs(curve.middle) for p in run][-1:]
        names += [(p[1], curve.name, f"name{colour}") for p in last]
    body += [text(right + 8, at + 4, prose(words, 30), kind) for at, words, kind in _apart(names)]
    foot = _BOTTOM + 30
    for row, (name, signs) in enumerate((marks or {}).items(), len(curves)):
        foot += _ROW
        for i, sign in enumerate(signs):
            if sign == sign:
                told = f"{name}, {ticks[i]}: {said[0 if sign > 0 else 1 if sign < 0 else 2]}"
                shape = mark(x(i), foot - 4, sign, told)
                body.append(marked(shape, (row, i), series=name, **_tick(ticks[i]), value=sign))
        body.append(text(right + 8, foot, prose(name, 30), "small"))
    if marks:
        foot += _ROW
        for k, (sign, meaning) in enumerate(zip((1.0, -1.0, 0.0), said, strict=True)):
            at = _LEFT + k * (wide - _LEFT) / 3
            body += [mark(at + 5, foot - 4, sign), text(at + 16, foot, prose(meaning, 32), "small")]
    return drawing(wide, foot + 12, title, body)


def _tick(tick: str) -> dict[str, str]:
    """What a tick stands for: `L3` is layer 3."""
    layer = tick.removeprefix("L")
    return {"layer": layer} if layer != tick and layer.isdigit() else {"tick": tick}


def _ends(curve: Curve, i: int) -> dict[str, float]:
    return {} if curve.low is None or curve.high is None else {"low": curve.low[i], "high": curve.high[i]}


def _between(curve: Curve, i: int) -> str:
    ends = _ends(curve, i)
    return f" [{number(ends['low'])}, {number(ends['high'])}]" if ends else ""


def _apart(names: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Names at their heights, moved down where they would touch and up again where that leaves the picture."""
    ordered = sorted(names)
    heights = [name[0] for name in ordered]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + _GAP)
    floor = float(_BOTTOM)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], floor)
        floor = heights[i] - _GAP
    return [(at, words, kind) for at, (_, words, kind) in zip(heights, ordered, strict=True)]
