"""The stages of a prediction: ranks of argument and answer through the layers, and where each stage begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..views import Cell, Curve, Picture, Table
from ..wording import prose, several
from .shown import Shown

LISTED = 200
SINGLE = 60
"""Prompts drawn as thin lines at most."""
WHEN = {
    "argument on top": ("formation", None),
    "switch, on top": ("switch", "top"),
    "switch, pair": ("switch", "pair"),
    "ranks cross": ("crossing", None),
    "answer stays": ("saturation", None),
}


def stages_shown(found: xr.Dataset) -> list[Shown]:
    """Reciprocal ranks and the margin over layers, medians over prompts; a table of stages by prompt."""
    ticks = [f"L{n}" for n in found["layer"].values]
    count = found.sizes["prompt"]
    ranks = {name: found[f"{name}_reciprocal_rank"] for name in ("argument", "answer")}
    over = f"Median of {several(count, 'prompt')}, and their middle half. " if count > 1 else ""
    first = _picture(
        ranks,
        ticks,
        "Reciprocal rank of argument and answer",
        "1 / (rank + 1)",
        f"{over}Where a function is applied to an argument, one falls as the other rises, in the form of an X.",
        (0.0, 1.0),
    )
    second = _picture(
        {"margin": found["margin"]},
        ticks,
        "logit(answer) - logit(argument)",
        "logits",
        f"{over}Above 0 the answer leads.",
    )
    table = _table(found)
    middles = {name: _quartiles(data) for name, data in ranks.items()}
    lines = {name: middle.tolist() for name, (_, middle, _) in middles.items()}
    ends = {name: (low, high) for name, (low, _, high) in middles.items()} if count > 1 else None

    def plot(ax: Any) -> Any:
        return plots.lines_plot(lines, ticks, "Reciprocal rank, layer by layer", "1 / (rank + 1)", ax, ends)

    return [Shown("Stages", [first, second, table], plot, table)]


def _quartiles(data: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over prompts, [layer] each."""
    low, middle, high = np.quantile(data.transpose("prompt", "layer").values, [0.25, 0.5, 0.75], axis=0)
    return low, middle, high


def _picture(
    series: dict[str, xr.DataArray],
    ticks: list[str],
    title: str,
    unit: str,
    caption: str,
    limits: tuple[float, float] | None = None,
) -> Picture:
    curves = []
    for name, data in series.items():
        low, middle, high = _quartiles(data)
        single = data.transpose("prompt", "layer").values[:SINGLE].tolist()
        ends: dict[str, Any] = {"low": low.tolist(), "high": high.tolist(), "each": single} if len(single) > 1 else {}
        curves.append(Curve(name, middle.tolist(), **ends))
    drawn = views.bands(curves, ticks, title, unit, limits=limits, axis="layer")
    words = " ".join(views.spoken_line(c.name, c.middle, ticks, False) for c in curves)
    return Picture(drawn, caption, words)


def _table(found: xr.Dataset) -> Table:
    rows: list[list[str | Cell]] = []
    for i, text in enumerate(found["text"].values[:LISTED]):
        row: list[str | Cell] = [prose(str(text), 60)]
        for name, reading in WHEN.values():
            data = found[name] if reading is None else found[name].sel(reading=reading)
            layer = int(data.values[i])
            row.append(Cell(f"L{layer}", numbers={"": layer}) if layer >= 0 else "never")
        rows.append(row)
    count = found.sizes["prompt"]
    some = "" if count <= LISTED else f" The first {LISTED} of {count} prompts; the result has all."
    caption = (
        "From which layer on. Argument on top: of the whole vocabulary. Switch: the answer has the say for good, the "
        f"argument having had it before. Ranks cross: the answer's stays above the argument's.{some}"
    )
    return Table(caption, ["prompt", *WHEN], rows, ["prompt"])
