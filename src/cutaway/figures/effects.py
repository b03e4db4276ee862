"""Grids of effects: layer x position or role, layer x head, with intervals and corrected tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from .. import views
from ..views import Picture
from ..wording import label, signed

FULL = 0.25
"""A share of this size has the strongest colour if nothing in the grid is larger, so that a grid of nothing is pale."""


def effect_grid(
    data: xr.Dataset,
    what: str,
    caption: str,
    unit: str = "logits",
    of: str = "effect",
    under: Sequence[tuple[str, str]] | None = None,
    code: str = "",
) -> Picture:
    """A grid of effects as `studies.effects.effects` makes it.

    Args:
        data: over layer and one more dimension: `of`, its interval and `p_corrected`; attribute `level`.
        what: what was done, in a few words. of: `effect`, or `share` with its own interval.
        under: clean and corrupt token of every column.
    """
    rows, columns = _axes(data[of])
    grid = data.transpose(..., rows, columns)
    values = np.asarray(grid[of].values, float)
    ends = ("low", "high") if of == "effect" else (f"{of}_low", f"{of}_high")
    between = (grid[ends[0]].values, grid[ends[1]].values) if ends[0] in grid else None
    p = grid["p_corrected"].values if "p_corrected" in grid else None
    certain = None if p is None else p <= 1 - float(data.attrs.get("level", 0.95)) + 1e-12
    if under is None and "clean_token" in grid.coords:
        tokens = [[label(str(t), 12) for t in grid[f"{run}_token"].values] for run in ("clean", "other")]
        under = list(zip(*tokens, strict=True))
        caption += "; beneath, the first prompt's token, and the other run's where it differs"
    names = _names(rows, grid), _names(columns, grid)
    places = [_places(dim, grid) for dim in (rows, columns)]
    title = f"{what}: {unit}"
    picture = views.signed_grid(
        values,
        *names,
        title,
        certain,
        FULL if of == "share" else 0.0,
        places=(places[0], places[1]),
        between=between,
        p=p,
        under=under,
        wide=_width(names[1], under),
    )
    return Picture(picture, f"{caption} ({unit})", spoken_grid(values, *names), code=code)


def _width(names: Sequence[str], under: Sequence[tuple[str, str]] | None) -> int:
    longest = max([len(n) for n in names] + [len(t) + 2 for pair in under or () for t in pair])
    return min(max(62, 7 * longest + 6), 120)


def _axes(values: xr.DataArray) -> tuple[str, str]:
    dims = [str(d) for d in values.dims]
    rows = "layer" if "layer" in dims else dims[0]
    return rows, next(d for d in dims if d != rows)


def _names(dim: str, data: xr.Dataset) -> list[str]:
    letter = {"layer": "L", "head": "H", "kv_head": "H"}.get(dim, "")
    return [f"{letter}{value}" for value in data[dim].values]


def _places(dim: str, data: xr.Dataset) -> list[Mapping[str, str | float]]:
    return [{dim.replace("_", "-"): str(value)} for value in data[dim].values]


def spoken_grid(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> str:
    """A grid in words: its largest cells."""
    order = np.argsort(-np.abs(np.nan_to_num(values)), axis=None)[:5]
    at = [divmod(int(k), len(columns)) for k in order]
    return "Largest: " + ", ".join(f"{rows[i]} {columns[j]} {signed(values[i, j])}" for i, j in at) + "."
