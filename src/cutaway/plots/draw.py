"""Plots, one function a kind. Each takes numbers and labels and an `ax`, draws, and returns the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..views import Readings
from ..wording import in_grid, label, number, signed
from .style import COLOURS, DASHES, NEGATIVE, POSITIVE, SOFT, TOTAL, axes_of, colours_of, ink_on, literal, styled

Array = NDArray[np.float64]
PLAIN: dict[str, Any] = {"parse_math": False}  # whatever the style of the axes given


def waterfall_plot(
    terms: Sequence[tuple[str, float]], total: float | None, title: str, unit: str, ax: Any = None
) -> Any:
    """Bars that add up to `total`, each starting where the last ended; without a total they start at zero."""
    rows = len(terms) + (total is not None)
    with styled():
        _, axes = axes_of(ax, 6.5, 0.24 * rows + 1.1)
        at, signs = 0.0, total is not None or any(value < 0 for _, value in terms)
        for row, (_, value) in enumerate(terms):
            start = at if total is not None else 0.0
            axes.barh(row, value, left=start, color=POSITIVE if value >= 0 else NEGATIVE, height=0.72)
            at += value
            _value(axes, row, value, signs)
        names = [literal(name, 28) for name, _ in terms]
        if total is not None:
            axes.barh(len(terms), total, color=TOTAL, height=0.72)
            _value(axes, len(terms), total)
            names.append("sum")
        _rows(axes, names)
        axes.set_xlabel(literal(unit), **PLAIN)
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
    return axes


def points_plot(
    names: Sequence[str],
    values: ArrayLike,
    low: ArrayLike | None,
    high: ArrayLike | None,
    title: str,
    unit: str,
    ax: Any = None,
) -> Any:
    """A point a row, with its interval where there is one."""
    middle = np.asarray(values, dtype=np.float64)
    with styled():
        _, axes = axes_of(ax, 6.5, 0.24 * len(names) + 1.1)
        for row, value in enumerate(middle.tolist()):
            colour = POSITIVE if value >= 0 else NEGATIVE
            if low is not None and high is not None:
                ends = float(np.asarray(low)[row]), float(np.asarray(high)[row])
                axes.plot(ends, (row, row), color=SOFT, linewidth=2.2, alpha=0.6, solid_capstyle="butt")
            axes.plot([value], [row], "o", color=colour, markersize=4.5)
            _value(axes, row, value)
        _rows(axes, [literal(name, 28) for name in names])
        axes.set_xlabel(literal(unit + ("; bars: 95 % intervals" if low is not None else "")), **PLAIN)
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
    return axes


def _rows(axes: Any, names: Sequence[str]) -> None:
    """Names down the side, the first on top, and zero as a line."""
    axes.set_yticks(range(len(names)), names, **PLAIN)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=SOFT, linewidth=0.8)


def _value(axes: Any, row: int, value: float, signs: bool = True) -> None:
    axes.text(
        1.01, row, (signed if signs else number)(value), transform=axes.get_yaxis_transform(), va="center", color=SOFT
    )


def lens_plot(found: Readings, title: str, ax: Any = None) -> Any:
    """First choices in a grid of layers and positions, shaded by their probability from 0 to 1."""
    cells = [[cell[0] for cell in row] for row in found.choices]
    columns = [f"{p}\n{label(t, 12)}" for p, t in enumerate(found.tokens)]
    return token_plot(cells, [f"L{layer}" for layer in found.layers], columns, title, ax)


def token_plot(
    cells: Sequence[Sequence[tuple[str, float]]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    ax: Any = None,
) -> Any:
    """Tokens in a grid [row][column], shaded by their probability from 0 to 1."""
    shade = np.array([[chance for _, chance in row] for row in cells])
    with styled():
        figure, axes = axes_of(ax, 0.95 * len(columns) + 1.6, 0.26 * len(rows) + 1.3)
        drawn = axes.imshow(shade, cmap=colours_of("Blues"), vmin=0, vmax=1, aspect="auto")
        inks = ink_on(drawn.to_rgba(shade))
        for k, row in enumerate(cells):
            for p, (token, _) in enumerate(row):
                axes.text(p, k, label(token, 12), ha="center", va="center", fontsize=7, color=inks[k, p], **PLAIN)
        axes.set_xticks(range(len(columns)), columns, **PLAIN)
        axes.set_yticks(range(len(rows)), rows, **PLAIN)
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
    across: tuple[str, str] = ("", ""),
) -> Any:
    """A grid of signed numbers, blue plus and red minus around 0; a star where a cell differs from 0.

    `full` is the largest number where there is no minus, such as 1 of attention: then colours run from 0 to it.
    `across`: what goes down and what goes across, where the labels do not say it.
    """
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    most = full or largest or 1.0
    names = [literal(c, 14) for c in columns]
    for j, beneath in enumerate(under or ()):
        names[j] = "\n".join(filter(None, [names[j], *beneath]))
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    with styled():
        beside = 0.07 * min(max(map(len, rows), default=0), 28)
        each = max(0.56, 0.075 * longest + 0.06)
        wide, high = max(each * len(columns) + 1.5 + beside, 3.4), 0.24 * len(rows) + 1.3
        figure, axes = axes_of(ax, wide, high)
        low, colours = (0.0, "Blues") if full else (-most, "RdBu")
        drawn = axes.imshow(values, cmap=colours_of(colours), vmin=low, vmax=most, aspect="auto")
        if values.size <= 400:
            inks = ink_on(drawn.to_rgba(values))
            for i in range(len(rows)):
                for j in range(len(columns)):
                    star = "*" if certain is not None and certain[i, j] else ""
                    shown = in_grid(values[i, j], largest, not full) + star
                    axes.text(j, i, shown, ha="center", va="center", fontsize=6.5, color=inks[i, j])
        axes.set_xticks(range(len(columns)), names, **PLAIN)
        axes.set_yticks(range(len(rows)), [literal(r, 28) for r in rows], **PLAIN)
        figure.colorbar(drawn, ax=axes).set_label(_lines(unit, 12 * high), **PLAIN)
        axes.set_title(_lines(title, 11 * (wide - 0.8)), loc="left", **PLAIN)
        star = "* differs from 0, corrected over this grid" if certain is not None else ""
        axes.set_xlabel(_lines("; ".join(filter(None, [across[1], star])), 12 * (wide - 1)), **PLAIN)
        axes.set_ylabel(literal(across[0], 30), **PLAIN)
    return axes


def _lines(text: str, letters: float) -> str:
    """A text in as many lines as it needs, of so many letters each."""
    return "\n".join(wrap(literal(text, 160), max(int(letters), 16)))


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
        axes.set_title(_lines(title, 9 * size), loc="left", **PLAIN)
    return axes


def lines_plot(
    series: Mapping[str, Sequence[float]],
    ticks: Sequence[str],
    title: str,
    unit: str,
    ax: Any = None,
    between: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    axis: str = "",
) -> Any:
    """One line a series over labelled points, named at its end; series differ in dash and colour.

    `between` gives the ends of a series' band, by its name; `axis` says what the points are.
    """
    with styled():
        _, axes = axes_of(ax, 5.6, 2.6)
        for k, (name, heights) in enumerate(series.items()):
            colour = COLOURS[k % len(COLOURS)]
            axes.plot(range(len(ticks)), heights, DASHES[k % len(DASHES)], color=colour, marker="o", markersize=3)
            if between and name in between:
                axes.fill_between(range(len(ticks)), *between[name], color=colour, alpha=0.18, linewidth=0)
        every = max(1, len(ticks) // 14)
        shown = [literal(t, 14) if i % every == 0 else "" for i, t in enumerate(ticks)]
        turned = {"rotation": 60, "ha": "right"} if max(map(len, shown)) > 4 else {}
        low, high = axes.get_ylim()
        for at, name, colour in _apart(series, 0.07 * (high - low)):
            axes.annotate(
                literal(name, 24), (len(ticks) - 1, at), xytext=(6, 0), textcoords="offset points",
                va="center", color=colour, annotation_clip=False, **PLAIN,
            )  # fmt: skip
        axes.set_xticks(range(len(ticks)), shown, **turned, **PLAIN)
        axes.axhline(0, color=SOFT, linewidth=0.6)
        axes.set_ylabel(_lines(unit, 34), **PLAIN)
        axes.set_xlabel(literal(axis, 40), **PLAIN)
        axes.set_title(literal(title, 90), loc="left", **PLAIN)
    return axes


def _apart(series: Mapping[str, Sequence[float]], least: float) -> list[tuple[float, str, str]]:
    """Height, name and colour of each line's end, so far apart that names do not cover each other."""
    ends = []
    for k, (name, heights) in enumerate(series.items()):
        there = [float(height) for height in heights if np.isfinite(height)]
        ends += [(there[-1], name, COLOURS[k % len(COLOURS)])] if there else []
    placed: list[tuple[float, str, str]] = []
    for at, name, colour in sorted(ends):
        placed.append((max(at, placed[-1][0] + least) if placed else at, name, colour))
    return placed
