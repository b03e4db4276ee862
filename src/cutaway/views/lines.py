"""Lines over labelled points, such as layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .bands import Curve, bands
from .nodes import Node


def lines(
    series: Mapping[str, Sequence[float]],
    ticks: Sequence[str],
    title: str,
    unit: str,
    limits: tuple[float, float] | None = None,
    wide: float | None = None,
) -> Node:
    """One line a series over labelled points; series differ in dash as well as in colour.

    A tick such as `L3` stands for layer 3. `wide`: as of `bands`.
    """
    return bands(
        [Curve(name, heights) for name, heights in series.items()], ticks, title, unit, limits=limits, wide=wide
    )
