"""Grids of effects: layer x position or role, layer x head, with intervals and corrected tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import views
from ..views import Picture
from ..wording import number, signed
from .beneath import Pairs, beneath, named_by, told_of

Array = NDArray[np.float64]
FULL = 0.25
"""A share of this size has the strongest colour if nothing in the grid is larger, so that a grid of nothing is pale."""


@dataclass(frozen=True)
class Numbers:
    """A grid's numbers and labels: values and all that goes with them are [row, column]."""

    values: Array
    rows: list[str]
    columns: list[str]
    places: tuple[list[Mapping[str, str | float]], list[Mapping[str, str | float]]]
    certain: NDArray[np.bool_] | None
    between: tuple[Array, Array] | None
    p: Array | None
    under: list[tuple[str, str]] | None
    axes: tuple[str, str]


def grid_numbers(data: xr.Dataset, of: str = "effect") -> Numbers:
    """The grid of `data` over one or two dimensions, layers down the side.

    Args:
        data: `of`, and as far as known its interval (`low`, `high`), `p_corrected`, the attribute `level`, and
            tokens of each position (see `beneath`).
    """
    if data[of].ndim == 1:
        data = data.expand_dims({"all": ["all"]}, axis=-1)
    rows, columns = _axes(data[of])
    grid = data.transpose(..., rows, columns)
    ends = ("low", "high") if of == "effect" else (f"{of}_low", f"{of}_high")
    p = np.asarray(grid["p_corrected"].values, float) if "p_corrected" in grid else None
    down, across = beneath(grid, rows), beneath(grid, columns)
    return Numbers(
        np.asarray(grid[of].values, float),
        named_by(_names(rows, grid), [(here, "") for here, _ in down or ()]),
        _names(columns, grid),
        (_places(rows, grid, down), _places(columns, grid, across)),
        None if p is None else p <= 1 - float(data.attrs.get("level", 0.95)) + 1e-12,
        (grid[ends[0]].values, grid[ends[1]].values) if ends[0] in grid else None,
        p,
        across,
        (_axis(rows), _axis(columns)),
    )


def effect_grid(
    data: xr.Dataset,
    what: str,
    caption: str,
    unit: str = "logits",
    of: str = "effect",
    code: str = "",
    full: float = 0.0,
) -> Picture:
    """A grid of effects as `studies.effects.effects` makes it.

    Args:
        data: see `grid_numbers`; its attribute `least` is 0 where no number can be less.
        what: what was done, in a few words. of: `effect`, or `share` with its own interval.
        full: what has the strongest colour at least, so that grids that are compared share a scale.
    """
    found = grid_numbers(data, of)
    caption += told_of(data, tuple(map(str, data[of].dims)))
    unsigned = bool(full_scale(unit)) or data.attrs.get("least") == 0
    picture = views.signed_grid(
        found.values,
        found.rows,
        found.columns,
        f"{what}: {unit}" if unit else what,
        found.certain,
        max(full, FULL if of == "share" else full_scale(unit)),
        places=found.places,
        between=found.between,
        p=found.p,
        under=found.under,
        wide=_width(found.columns, found.under),
        signs=not unsigned,
        axes=found.axes,
    )
    columns = named_by(found.columns, found.under)
    words = spoken_grid(found.values, found.rows, columns, number if unsigned else signed)
    return Picture(picture, f"{caption} ({unit})" if unit else caption, words, code=code)


def share_unit(how: str, metric: str) -> str:
    """What a share is of, in words. `how`: as the command line has it; "" where it is not known which run is clean."""
    ends = {"denoise": "the corrupted to the clean run", "noise": "the clean to the corrupted run"}
    return f"share of the way from {ends.get(how, 'one run to the other')} in {metric}"


def _axis(dim: str) -> str:
    """What an axis is, where its labels do not say it themselves."""
    return {"read": "position read"}.get(dim, "" if dim in ("layer", "head", "kv_head", "setting", "all") else dim)


def full_scale(unit: str) -> float:
    """The largest number that there can be, where the unit tells; else 0."""
    return 1.0 if unit.startswith(("attention", "probability", "share of prompts")) else 0.0


def _width(names: Sequence[str], under: Sequence[tuple[str, str]] | None) -> int:
    longest = max([len(n) for n in names] + [len(t) for pair in under or () for t in pair])
    return min(max(62 if len(names) <= 14 else 48, 7 * longest + 6), 120)


def _axes(values: xr.DataArray) -> tuple[str, str]:
    dims = [str(d) for d in values.dims]
    rows = "layer" if "layer" in dims else dims[0]
    return rows, next(d for d in dims if d != rows)


def _names(dim: str, data: xr.Dataset) -> list[str]:
    letter = {"layer": "L", "head": "H", "kv_head": "H"}.get(dim, "")
    return [f"{letter}{_plain(value)}" for value in _values(dim, data)]


def _plain(value: object) -> str:
    """A strength without needless digits, with its sign where it takes away; anything else as it is."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(dim: str, data: xr.Dataset) -> Sequence[object]:
    return data[dim].values.tolist() if dim in data.coords else range(data.sizes[dim])


def _places(dim: str, data: xr.Dataset, tokens: Pairs | None) -> list[Mapping[str, str | float]]:
    name = re.sub(r"[^a-z0-9]+", "-", dim.lower()).strip("-") or "axis"
    places: list[Mapping[str, str | float]] = [{name: _plain(value)} for value in _values(dim, data)]
    if tokens is None:
        return places
    return [{**p, f"{name}-token": " ".join(filter(None, t))} for p, t in zip(places, tokens, strict=True)]


def spoken_grid(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], form: Callable[[float], str] = signed
) -> str:
    """A grid in words: its largest cells."""
    order = np.argsort(-np.abs(np.nan_to_num(values)), axis=None)[:5]
    at = [divmod(int(k), len(columns)) for k in order]
    return "Largest: " + ", ".join(f"{rows[i]} {columns[j]} {form(values[i, j])}" for i, j in at) + "."
