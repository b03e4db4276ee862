"""A spectrum: the share of each component, and of all up to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .frame import HALF, circle, drawing, line, marked, polyline, text
from .histogram import DASHES
from .nodes import Node
from .scale import Scale


def spectrum(
    shares: Mapping[str, Sequence[float]], title: str, top: int = 24, band: tuple[Sequence[float], str] | None = None
) -> Node:
    """Scree: the share of the first `top` components as dots, the cumulative share as a thin line, in percent.

    Args:
        shares: name -> share of each component, descending, out of 1.
        band: what chance makes of each component, and what to call it.
    """
    left, right, top_y, bottom = 60, HALF - 130, 12, 210
    count = max(1, min(top, max((len(s) for s in shares.values()), default=1)))
    x, y = Scale(1, max(count, 2), left + 14, right - 14), Scale(0.0, 100.0, bottom, top_y)
    body = [line(left, y(t), right, y(t), "axis" if t == 0 else "grid") for t in y.ticks(5)]
    body += [text(left - 6, y(t) + 4, f"{t:g} %", "number", "end") for t in y.ticks(5)]
    every = max(1, -(-count // 10))
    body += [text(x(i), bottom + 17, str(i), "number", "middle") for i in range(1, count + 1, every)]
    if band is not None:
        points = [(x(i + 1), y(100 * v)) for i, v in enumerate(band[0][:count])]
        body += [polyline(points, "line grid", "2 3"), text(right + 8, top_y + 8 + 34 * len(shares), band[1], "small")]
    for k, (name, given) in enumerate(shares.items()):
        values = [float(v) for v in given][:count]
        total = np.cumsum(values)
        body.append(polyline([(x(i + 1), y(100 * v)) for i, v in enumerate(total)], f"sum line{k}", "2 2"))
        points = [(x(i + 1), y(100 * v)) for i, v in enumerate(values)]
        body.append(polyline(points, f"line line{k}", DASHES[k % len(DASHES)]))
        for i, ((a, b), v) in enumerate(zip(points, values, strict=True)):
            told = f"{name}, component {i + 1}: {100 * v:.3g} %, with all before it {100 * total[i]:.3g} %"
            dot = circle(a, b, 3, f"dot line{k}", told)
            part = marked(dot, (k, i), series=name, component=str(i + 1), value=v, cumulative=float(total[i]))
            body.append(part)
        body.append(text(right + 8, top_y + 8 + 34 * k, name, f"name{k}"))
        body.append(text(right + 8, top_y + 22 + 34 * k, f"first {count}: {100 * total[-1]:.3g} %", "small"))
    body.append(text(left, bottom + 34, "component, descending; dots: share; line: of all up to it", "small"))
    return drawing(HALF, bottom + 44, title, body)


def spoken_spectrum(shares: Mapping[str, Sequence[float]]) -> str:
    """First component, and how many hold a half and nine tenths, in words."""
    parts = []
    for name, given in shares.items():
        total = np.cumsum(np.asarray(given, dtype=np.float64))
        reached = [
            f"{level} in the first {int(np.searchsorted(total, least - 1e-12)) + 1}"
            for level, least in (("half", 0.5), ("90 %", 0.9))
            if total[-1] >= least - 1e-12
        ]
        parts.append(f"{name}: the first component holds {100 * float(given[0]):.3g} %, {', '.join(reached)}")
    return "; ".join(parts) + "."
