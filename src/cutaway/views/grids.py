"""Grids: tokens shaded by probability, signed numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .frame import drawing, rect, shade_of, text
from .nodes import Node

Array = NDArray[np.float64]
CELL, LEFT = 26, 64


def token_grid(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]], title: str
) -> Node:
    """Tokens in a grid, the cell shaded by probability."""
    wide, left = 92, 60
    body = [text(left + (j + 0.5) * wide, 16, name, "small", "middle") for j, name in enumerate(columns)]
    for i, name in enumerate(rows):
        y = 24 + i * 26
        body.append(text(left - 8, y + 17, name, "small", "end"))
        for j, (token, probability) in enumerate(cells[i]):
            shade = shade_of(probability)
            body.append(rect(left + j * wide, y, wide - 2, 24, f"cell {shade}"))
            body.append(text(left + (j + 0.5) * wide - 1, y + 16, token[:12], f"on-{shade}", "middle"))
    height = 24 + len(rows) * 26
    body.append(text(left, height + 16, "shade: probability of the token shown, 0 to 1", "small"))
    return drawing(left + len(columns) * wide, height + 26, title, body)


def signed_grid(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    certain: NDArray[np.bool_] | None = None,
    full: float = 0.0,
    wide: int = 58,
) -> Node:
    """A grid of signed numbers: blue plus, red minus; `certain` cells framed.

    The strongest colour is the largest number, or `full` where that is more, so that a grid of nothing looks like it.
    """
    most = max(float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0, full)
    body = [text(LEFT + (j + 0.5) * wide, 14, name, "small", "middle") for j, name in enumerate(columns)]
    for i, name in enumerate(rows):
        y = 20 + i * CELL
        body.append(text(LEFT - 8, y + 17, name, "small", "end"))
        for j in range(len(columns)):
            value = float(values[i, j])
            x = LEFT + j * wide
            strength = 0.0 if most == 0 or value != value else abs(value) / most
            kind = "pos" if value >= 0 else "neg"
            body.append(rect(x, y, wide - 2, CELL - 2, kind, fill_opacity=strength))
            if certain is not None and bool(certain[i, j]):
                body.append(rect(x, y, wide - 2, CELL - 2, "axis", fill="none"))
            ink = "on-p8" if strength > 0.62 else ""
            body.append(text(x + wide / 2 - 1, y + 16, _short(value), ink, "middle"))
    foot = 20 + len(rows) * CELL + 16
    note = "blue plus, red minus" + (
        "; framed: differs from 0, corrected over this grid" if certain is not None else ""
    )
    body.append(text(LEFT, foot, note, "small"))
    return drawing(max(LEFT + len(columns) * wide, 440), foot + 8, title, body)


def _short(value: float) -> str:
    """A number that fits into a cell."""
    if value == 0 or value != value:
        return "0" if value == 0 else "—"
    return f"{value:+.2f}" if abs(value) < 10 else f"{value:+.1f}"
