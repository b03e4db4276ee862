"""Spectra of activations: how much of the variance each component holds, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..views import Cell, Picture, Table, num, portion
from .shown import Shown, noted

DRAWN = 8
"""Layers whose spectrum is drawn; the table has all."""
TOP = 24
"""Components of a drawn spectrum."""
PRINTED = 5
"""Components that a terminal lists of each layer."""
LEVELS = (0.5, 0.9, 0.99)
"""Shares of the variance whose number of components is given."""
EXPLAINED = (
    "Variance over tokens, each layer's mean taken out; half, 90 and 99 % of it in the first so many components. "
    "Effective dimensions: (sum of variances)² / sum of squares, the number of equal components as spread."
)


def spectra_table(data: xr.Dataset) -> Table:
    """A row a layer: its total variance, the first component's share, and how many components hold most of it."""
    rows: list[list[str | Cell]] = []
    for layer in data["layer"].values:
        one = data.sel(layer=layer)
        shares, upto = (one[name].values[np.isfinite(one[name].values)] for name in ("share", "cumulative"))
        held = [str(int(np.searchsorted(upto, level - 1e-12)) + 1) for level in LEVELS]
        effective = num(1 / np.square(shares).sum())
        row: list[str | Cell] = [f"L{layer}", num(one["total"]), portion(shares[0], shaded=True), *held, effective]
        rows.append([*row, str(int(one["tokens"]))])
    levels = [f"{100 * level:g} % in" for level in LEVELS]
    columns = ["layer", "variance", "first component", *levels, "effective dimensions", "tokens"]
    places: list[dict[str, str | int]] = [{"layer": int(layer)} for layer in data["layer"].values]
    return Table(f"{_of(data)}, layer by layer. {EXPLAINED}", columns, rows, ["layer"], places=places)


def spectra_shown(data: xr.Dataset) -> list[Shown]:
    """The table of all layers, then the spectrum of each."""
    made: list[Shown] = []
    for k, layer in enumerate(data["layer"].values[:DRAWN]):
        one = data.sel(layer=layer)
        shares, upto = (one[name].values[np.isfinite(one[name].values)].tolist() for name in ("share", "cumulative"))
        upto = upto[:TOP]
        title = f"Spectrum of L{layer}.{data.attrs['site']}"
        caption = f"Share of the variance over {int(one['tokens'])} tokens that each component holds, largest first."
        drawn = views.spectrum({"share": shares}, title, TOP)
        words = views.spoken_spectrum({f"L{layer}": shares})
        picture = Picture(drawn, caption, words, places={"layer": int(layer)})

        def plot(ax: Any, each: Any = shares[:TOP], upto: Any = upto, title: str = title) -> Any:
            ticks = [str(i + 1) for i in range(len(each))]
            series = {"of each": each, "of all up to it": upto}
            return plots.lines_plot(series, ticks, title, "share of the variance", ax, axis="component")

        whole = spectra_table(data)
        few: list[list[str | Cell]] = [
            [str(i + 1), portion(shares[i]), portion(upto[i])] for i in range(min(PRINTED, len(upto)))
        ]
        text = Table(f"{title}. {words}", ["component", "share", "of all up to it"], few) if k else whole
        parts: list[Picture | Table] = [picture] if k else [whole, picture]
        made.append(Shown(_of(data), parts, plot, text))
    count = data.sizes["layer"]
    return made if count <= DRAWN else noted(made, f"The spectra of the first {DRAWN} of {count} layers are drawn.")


def _of(data: xr.Dataset) -> str:
    return f"How {data.attrs['site']} varies over tokens"


__all__ = ["spectra_shown", "spectra_table"]
