"""Plots, one function a kind. Each takes numbers and labels and an `ax`, draws, and returns the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..views import Readings
from ..wording import label, signed
from .style import COLOURS, DASHES, NEGATIVE, POSITIVE, SOFT, TOTAL, axes_of, literal, styled

Array = NDArray[np.float64]
PLAIN: dict[str, Any] = {"parse_math": False}  # whatever the style of the axes given


def waterfall_plot(
    terms: Sequence[tuple[str, float]], total: float | None, title: str, unit: str, ax: Any = None
) -> Any:
    """Bars that add up to `total`, each starting where the last ended; without a total they start at zero."""
    rows = len(terms) + (total is not None)
    with styled():
        _, axes = axes_of(ax, 6.5, 0.24 * rows + 1.1)
        at = 0.0
        for row, (_, value) in enumerate(terms):
            start = at if total is not None else 0.0
            axes.barh(row, value, left=start, color=POSITIVE if value >= 0 else NEGATIVE, height=0.72)
            at += value
            _value(axes, row, value)
        names = [literal(name, 28) for name, _ in terms]
        if total is not None:
            axes.barh(len(terms), total, color=TOTAL, height=0.72)
            _value(axes, len(terms), total)
            names.append("sum")
        axes.set_yticks(range(rows), names, **PLAIN)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_xlabel(literal(unit), **PLAIN)
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
    return axes


def _value(axes: Any, row: int, value: float) -> None:
    axes.text(1.01, row, signed(value), transform=axes.get_yaxis_transform(), va="center", color=SOFT)


def lens_plot(found: Readings, title: str, ax: Any = None) -> Any:
    """First choices in a grid of layers and positions, shaded by their probability from 0 to 1."""
    shade = np.array([[cell[0][1] for cell in row] for row in found.choices])
    with styled():
        figure, axes = axes_of(ax, 0.95 * len(found.tokens) + 1.6, 0.26 * len(shade) + 1.3)
        drawn = axes.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for k, row in enumerate(found.choices):
            for p, cell in enumerate(row):
                colour = "white" if shade[k, p] > 0.6 else "black"
                axes.text(p, k, label(cell[0][0], 12), ha="center", va="center", fontsize=7, color=colour, **PLAIN)
        axes.set_xticks(range(len(found.tokens)), [f"{p}\n{label(t, 12)}" for p, t in enumerate(found.tokens)], **PLAIN)
        axes.set_yticks(range(len(shade)), [f"L{layer}" for layer in found.layers])
        figure.colorbar(drawn, ax=axes, label="probability of the token shown")
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
    return axes


def grid_plot(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    unit: str,
    certain: NDArray[np.bool_] | None = None,
    under: Sequence[tuple[str, str]] | None = None,
    ax: Any = None,
    full: float = 0.0,
) -> Any:
    """A grid of signed numbers, blue plus and red minus around 0; a star where a cell differs from 0.

    `full` is the largest number where that is known, such as 1 of attention: then colours run from 0 to it.
    """
    most = full or (float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0)
    names = [literal(c, 14) for c in columns]
    for j, (clean, other) in enumerate(under or ()):
        names[j] += f"\n{clean}" + (f"\n→ {other}" if other != clean else "")
    with styled():
        figure, axes = axes_of(ax, 0.56 * len(columns) + 1.9, 0.24 * len(rows) + 1.2)
        low, colours = (0.0, "Blues") if full else (-(most or 1.0), "RdBu")
        drawn = axes.imshow(values, cmap=colours, vmin=low, vmax=most or 1.0, aspect="auto")
        if values.size <= 400:
            for i in range(len(rows)):
                for j in range(len(columns)):
                    star = "*" if certain is not None and certain[i, j] else ""
                    colour = "white" if abs(values[i, j]) > 0.62 * most else "black"
                    axes.text(j, i, f"{values[i, j]:+.2f}{star}", ha="center", va="center", fontsize=6.5, color=colour)
        axes.set_xticks(range(len(columns)), names, **PLAIN)
        axes.set_yticks(range(len(rows)), [literal(r, 14) for r in rows], **PLAIN)
        figure.colorbar(drawn, ax=axes).set_label(literal(unit), **PLAIN)
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
        if certain is not None:
            axes.set_xlabel("* differs from 0, corrected over this grid")
    return axes


def attention_plot(weights: Array, tokens: Sequence[str], title: str, ax: Any = None) -> Any:
    """One head's attention [query, key] from 0 to 1: a row for who looks, a column for where."""
    n = len(tokens)
    size = min(max(0.22 * n + 1.4, 2.6), 9.0)
    shown = np.where(np.tril(np.ones((n, n), bool)), weights, np.nan)
    every = max(1, n // 40)
    names = [label(t, 12) if i % every == 0 else "" for i, t in enumerate(tokens)]
    with styled():
        figure, axes = axes_of(ax, size + 0.6, size)
        drawn = axes.imshow(shown, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(n), names, rotation=60, ha="right", **PLAIN)
        axes.set_yticks(range(n), names, **PLAIN)
        figure.colorbar(drawn, ax=axes, label="attention", shrink=0.8)
        axes.set_title(literal(title, int(13 * size)), loc="left", **PLAIN)
    return axes


def lines_plot(
    series: Mapping[str, Sequence[float]], ticks: Sequence[str], title: str, unit: str, ax: Any = None
) -> Any:
    """One line a series over labelled points, named at its end; series differ in dash and colour."""
    with styled():
        _, axes = axes_of(ax, 5.6, 2.6)
        for k, (name, heights) in enumerate(series.items()):
            colour = COLOURS[k % len(COLOURS)]
            axes.plot(range(len(ticks)), heights, DASHES[k % len(DASHES)], color=colour, marker="o", markersize=3)
            axes.annotate(
                literal(name, 24), (len(ticks) - 1, heights[-1]), xytext=(6, 0), textcoords="offset points",
                va="center", color=colour, annotation_clip=False, **PLAIN,
            )  # fmt: skip
        every = max(1, len(ticks) // 14)
        shown = [literal(t, 14) if i % every == 0 else "" for i, t in enumerate(ticks)]
        turned = {"rotation": 60, "ha": "right"} if max(map(len, shown)) > 4 else {}
        axes.set_xticks(range(len(ticks)), shown, **turned, **PLAIN)
        axes.axhline(0, color=SOFT, linewidth=0.6)
        axes.set_ylabel(literal(unit), **PLAIN)
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
    return axes
