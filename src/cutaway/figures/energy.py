"""Which tokens a subspace's energy comes from."""

from __future__ import annotations

from typing import Any

import xarray as xr

from .. import plots
from ..tokens import shown
from ..views import Cell, Table, portion
from ..wording import label, number
from .shown import Shown


def energy_tables(data: xr.Dataset) -> tuple[Table, Table]:
    """The single tokens with most, and tokens of one text taken together."""
    rows: list[list[str | Cell]] = [
        [Cell(label(shown(str(t))), token=True), str(int(p)), str(int(i)), portion(s)]
        for t, p, i, s in zip(*(data[k].values for k in ("token", "prompt_of", "position", "share")), strict=True)
    ]
    kinds: list[list[str | Cell]] = [
        [Cell(label(shown(str(t))), token=True), str(int(n)), portion(s)]
        for t, n, s in zip(*(data[k].values for k in ("kind", "kind_tokens", "kind_share")), strict=True)
    ]
    single = "Single fitted tokens with the largest share of what is removed."
    return (
        Table(single, ["token", "text", "position", "share"], rows, ["token"]),
        Table("Tokens of one text taken together.", ["token", "times", "share"], kinds, ["token"]),
    )


def effective(data: xr.Dataset) -> str:
    """How many tokens it comes from, in a sentence."""
    return f"Equal tokens that would make it: {number(data.attrs['effective_tokens'])} of {data.attrs['tokens']}."


def energy_shown(data: xr.Dataset) -> list[Shown]:
    """Both tables."""
    terms = [(shown(str(t)), float(s)) for t, s in zip(data["kind"].values, data["kind_share"].values, strict=True)]

    def plot(ax: Any) -> Any:
        return plots.waterfall_plot(terms, None, "Tokens of one text together", "share of the energy", ax)

    first, second = energy_tables(data)
    return [Shown("Which tokens it comes from", [first, second], plot, note=effective(data))]
