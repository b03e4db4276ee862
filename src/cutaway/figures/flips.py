"""How far until it flips: median smallest steps by layer, and how many prompts flip at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..views import Cell, Curve, Picture, Table
from ..wording import number, percent, several
from .shown import Shown

MEASURES = {
    "pair": "the wanted token leads the other of its pair",
    "change": "another token is on top",
    "target": "the wanted token is on top",
}
CURVES = 4
"""Vectors drawn as curves; the table has all."""


def flips_shown(found: xr.Dataset) -> list[Shown]:
    """For each measure a curve a vector over layers, and a table with the share of prompts that flip."""
    return [_one(found, name) for name in MEASURES if name in found]


def _one(found: xr.Dataset, name: str) -> Shown:
    data = found[name] if "vector" in found[name].dims else found[name].expand_dims(vector=["the vector"], axis=2)
    steps = data.transpose("prompt", "layer", "vector").values
    vectors = (
        [str(v) for v in data["vector"].values] if "vector" in data.coords else list(map(str, range(steps.shape[2])))
    )
    ticks = [f"L{n}" for n in data["layer"].values]
    middle, share = np.median(steps, axis=0), np.isfinite(steps).mean(0)  # [layer, vector]
    drawn = np.where(np.isfinite(middle), middle, np.nan)
    curves = [Curve(v, drawn[:, j].tolist()) for j, v in enumerate(vectors[:CURVES])]
    title = f"Step from which on {MEASURES[name]}"
    limit = float(found.attrs.get("limit", np.inf))
    more = f"; the first {CURVES} of {len(vectors)} vectors" if len(vectors) > CURVES else ""
    caption = (
        f"Median over {several(len(steps), 'prompt')} of the smallest step, in multiples of the vector{more}. "
        f"No point: fewer than half flip{f' within {limit:g}' if np.isfinite(limit) else ''}."
    )
    words = " ".join(views.spoken_line(c.name, c.middle, ticks, False) for c in curves)
    picture = Picture(views.bands(curves, ticks, title, "multiples of the vector", axis="layer"), caption, words)
    lines = {c.name: list(c.middle) for c in curves}

    def plot(ax: Any) -> Any:
        return plots.lines_plot(lines, ticks, title, "multiples of the vector", ax)

    table = _table(middle, share, ticks, vectors, title)
    there = bool(np.isfinite(middle).any())
    return Shown("How far until it flips", [picture, table] if there else [table], plot if there else None, table)


def _table(middle: np.ndarray, share: np.ndarray, ticks: list[str], vectors: list[str], title: str) -> Table:
    rows: list[list[str | Cell]] = []
    for k, tick in enumerate(ticks):
        row: list[str | Cell] = [tick]
        for j in range(len(vectors)):
            value, reached = float(middle[k, j]), float(share[k, j])
            there = np.isfinite(value)
            numbers = {"": value if there else float("nan"), "share": reached}
            row.append(Cell(number(value) if there else "never", views.shade_of(reached), numbers, percent(reached)))
        rows.append(row)
    places: list[dict[str, str | int]] = [{"layer": int(tick.removeprefix("L"))} for tick in ticks]
    caption = f"{title}: median, and under it the share of prompts for which there is one. Never: for fewer than half."
    return Table(caption, ["layer", *vectors], rows, places=places)
