"""One number a token (or a layer) as a stem from zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from ..wording import label, number, prose, signed
from .frame import LETTER, WIDTH, circle, drawing, line, marked, seen, text
from .nodes import Node
from .scale import around, tick_text

Array = NDArray[np.float64]


def stems(
    values: Sequence[float],
    labels: Sequence[str],
    title: str,
    unit: str,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    axis: str = "position",
    places: Sequence[Mapping[str, str | float]] | None = None,
) -> Node:
    """A stem a label: up and blue is positive, down and red negative; where a value is missing there is none.

    `low`, `high`: ends of intervals, drawn as whiskers. `axis`: what is numbered from 0, such as `position`.
    `places`: what each label stands for, where that is no number from 0; labels are then words and no tokens.
    """
    left, top, bottom = 60, 14, 200
    step = max(13.0, min(48.0, (WIDTH - left - 20) / max(len(values), 1)))
    ends = [*values, *(low if low is not None else []), *(high if high is not None else [])]
    y = around(ends, bottom, top, pad=0.04)
    right = left + step * len(values)
    worded = prose if places else label
    names = [worded(name, 14) for name in labels]
    body = [line(left, y(0.0), right, y(0.0), "axis")]
    for t in y.ticks(4):
        if t != 0:
            body.append(line(left, y(t), right, y(t), "grid"))
        body.append(text(left - 6, y(t) + 4, tick_text(t), "number", "end"))
    for i, (value, shown) in enumerate(zip(values, names, strict=True)):
        at = left + (i + 0.5) * step
        body.append(text(at + 4, bottom + 10, shown, "small", "end", turn=-60))
        if value != value:
            continue
        kind = "plus" if value >= 0 else "minus"
        body.append(line(at, y(0.0), at, y(value), f"stem-{kind}"))
        if low is not None and high is not None:
            body.append(line(at, y(low[i]), at, y(high[i]), "whisker"))
        between = {} if low is None or high is None else {"low": low[i], "high": high[i]}
        told = f"{shown}: {signed(value)}" if places else f"{axis} {i} {shown}: {signed(value)}"
        stands = places[i] if places else {axis: str(i)}
        dot = circle(at, y(value), 4, "pos" if value >= 0 else "neg", told)
        body.append(marked(dot, (0, i), **stands, shown=worded(labels[i], 40), value=value, **between))
    longest = max(map(len, names), default=0)
    foot = bottom + 30 + 6 * longest
    whiskers = "; whiskers: intervals" if low is not None else ""
    wide = max(right + 16, 420)
    lines = wrap(f"{unit}; blue plus, red minus{whiskers}", max(int((seen(wide) - left) / LETTER), 20))
    body += [text(left, foot + 14 * i, one, "small") for i, one in enumerate(lines)]
    return drawing(wide, foot - 4 + 14 * len(lines), title, body)


def spoken_stems(values: Sequence[float], labels: Sequence[str], unit: str, top: int = 5) -> str:
    """The largest in words."""
    array = np.asarray(values, dtype=np.float64)
    order = [i for i in np.argsort(-np.abs(np.nan_to_num(array))) if np.isfinite(array[i])][:top]
    named = ", ".join(f"{label(labels[i], 14)} (position {i}) {signed(array[i])}" for i in order)
    middle = f"; median size {number(np.nanmedian(np.abs(array)))}" if np.isfinite(array).any() else ""
    return f"Largest: {named}{middle} {unit}."
