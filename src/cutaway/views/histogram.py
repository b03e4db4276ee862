"""How values are distributed: several series on the same bins, with a threshold and what lies beyond it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..wording import number, percent
from .frame import HALF, LETTER, drawing, line, marked, polyline, rect, text
from .nodes import Node
from .scale import Scale, tick_text

Array = NDArray[np.float64]
DASHES = ("", "6 3", "2 3", "8 3 2 3")


def histogram(
    series: Mapping[str, Array],
    title: str,
    unit: str,
    threshold: float | None = None,
    named: str = "",
    bins: int = 48,
    limits: tuple[float, float] | None = None,
) -> Node:
    """Outlines of up to four series on common bins, each as a share of its own values.

    Args:
        series: name -> values; those that are not finite are left out.
        threshold: a line, `named`, with the share of every series above it.
        limits: of the axis; what lies outside is counted in the outermost bins. Default: all values.
    """
    values = {name: _finite(x) for name, x in series.items()}
    every = np.concatenate([*values.values(), np.array([] if threshold is None else [threshold])])
    low, high = limits or ((float(every.min()), float(every.max())) if len(every) else (0.0, 1.0))
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, bins + 1)
    shares = {
        name: np.histogram(np.clip(x, low, high), edges)[0] / max(len(x), 1) for name, x in values.items()
    }  # fmt: skip
    left, right, top, bottom = 60.0, HALF - 170.0, 12.0, 190.0
    x = Scale(low, high, left, right)
    y = Scale(0.0, max([float(s.max()) for s in shares.values()] + [1e-9]), bottom, top)
    body = [line(left, bottom, right, bottom, "axis")]
    body += [line(x(t), bottom, x(t), bottom + 4, "axis") for t in x.ticks(5)]
    body += [text(x(t), bottom + 17, tick_text(t), "number", "middle") for t in x.ticks(5)]
    body += [text(left - 6, y(t) + 4, percent_of(t), "number", "end") for t in y.ticks(4)]
    for i in range(bins):
        inside = {name: float(share[i]) for name, share in shares.items()}
        ends = f"{number(edges[i])} to {number(edges[i + 1])}"
        told = f"{ends}: " + ", ".join(f"{name} {percent_of(share)}" for name, share in inside.items())
        hit = rect(x(edges[i]), top, x(edges[i + 1]) - x(edges[i]), bottom - top, "hit", told)
        facts = {_fact_name(name): share for name, share in inside.items()}
        body.append(marked(hit, (0, i), start=float(edges[i]), end=float(edges[i + 1]), **facts))
    for k, share in enumerate(shares.values()):
        points = [(left, bottom)]
        for i, height in enumerate(share):
            points += [(x(edges[i]), y(height)), (x(edges[i + 1]), y(height))]
        body.append(polyline([*points, (right, bottom)], f"line line{k}", DASHES[k % len(DASHES)]))
    if threshold is not None:
        body.append(line(x(threshold), top - 8, x(threshold), bottom, "threshold"))
        words = f"{named} {number(threshold)}".strip()
        fits = x(threshold) + 4 + LETTER * len(words) < right + 8
        at, anchor = (x(threshold) + 4, "start") if fits else (x(threshold) - 4, "end")
        body.append(text(at, top - 5, words, "small", anchor))
    for k, (name, found) in enumerate(values.items()):
        body.append(text(right + 10, top + 12 + 34 * k, name, f"name{k}"))
        above = "" if threshold is None or not len(found) else f", {percent((found > threshold).mean())} above"
        body.append(text(right + 10, top + 26 + 34 * k, f"n = {len(found)}{above}", "small"))
    body.append(text(left, bottom + 34, f"{unit}; height: share of a series' values", "small"))
    return drawing(HALF, bottom + 44, title, body)


def _fact_name(series: str) -> str:
    """A series as a name of a fact, and so of a column: letters and digits."""
    plain = re.sub(r"[^a-z0-9]+", "_", series.lower()).strip("_")
    return f"share_{plain}" if plain else "share"


def percent_of(share: float) -> str:
    return f"{100 * share:.3g} %"


def spoken_histogram(series: Mapping[str, Array], unit: str = "", threshold: float | None = None) -> str:
    """Middle and quartiles of every series, and the share above the threshold, in words."""
    parts = []
    for name, x in series.items():
        found = _finite(x)
        if not len(found):
            parts.append(f"{name}: no values")
            continue
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
        part = f"{name}: median {number(middle)}, middle half {number(low)} to {number(high)}"
        if threshold is not None:
            part += f", {percent((found > threshold).mean())} above {number(threshold)}"
        parts.append(part)
    return "; ".join(parts) + (f" ({unit})." if unit else ".")


def _finite(x: Array) -> Array:
    flat = np.asarray(x, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]
