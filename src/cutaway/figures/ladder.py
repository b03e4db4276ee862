"""A direction against its controls: means with intervals and p-values over draws, and where the draws lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..views import Cell, Picture, Table, interval
from ..wording import number
from .shown import Shown


def ladder_table(table: xr.Dataset, what: str) -> Table:
    """Every arm with every outcome that at least two items count for; `what` was done, in a few words."""
    few = _outcomes(table)
    rows: list[list[str | Cell]] = []
    for arm in table["arm"].values:
        one = table.sel(arm=arm)
        draws = int(one["n_draws"])
        kind = f"{one['kind'].values}, {draws} draws" if draws > 1 else str(one["kind"].values)
        row: list[str | Cell] = [Cell(str(arm), numbers={"draws": draws}, under=kind)]
        for outcome in few:
            cell = one.sel(outcome=outcome)
            found = interval(cell)
            if np.isfinite(cell["p_greater"]):
                numbers = {**found.numbers, "p": float(cell["p_greater"])}
                found = Cell(found.text, found.shade, numbers, f"{found.under}, p {number(cell['p_greater'], 2)}")
            row.append(found)
        rows.append([*row, str(one["meaning"].values)])
    columns = ["arm", *few, "what it is"]
    caption = (
        f"{what}. Means over {int(table['items'].max())} items with t intervals; p: (1 + draws that reach the vector's "
        "mean) / (1 + draws)."
    )
    return Table(caption, columns, rows, ["arm", "what it is"])


def _outcomes(table: xr.Dataset) -> list[str]:
    counted = [str(o) for o in table["outcome"].values if int(table["items"].sel(outcome=o)) >= 2]
    return [o for o in counted if o != "null units"]


def draws_figure(table: xr.Dataset, what: str, outcome: str, unit: str) -> Picture:
    """How the means of the random arms' draws are distributed, and where the vector's lies."""
    one = table.sel(outcome=outcome)
    drawn = {
        str(a): one["draw_mean"].sel(arm=a).values
        for a, n in zip(one["arm"].values, one["n_draws"].values, strict=True)
        if n > 1
    }
    vector = float(one["mean"].sel(arm="vector"))
    title = f"{what}: change by each random vector"
    series = dict(list(drawn.items())[:4])
    picture = views.histogram(series, title, unit, vector, "the vector")
    return Picture(
        picture, f"{title} of the vector's norm, and by the vector.", views.spoken_histogram(series, unit.split(",")[0])
    )


def ladder_shown(table: xr.Dataset) -> list[Shown]:
    """All outcomes as a table; each as points with intervals; of the first, where the draws lie."""
    what = f"{table.attrs.get('direction', 'the direction')} against controls of its norm"
    summary = ladder_table(table, what)
    made: list[Shown] = []
    for k, outcome in enumerate(_outcomes(table)):
        one = table.sel(outcome=outcome)
        arms = [str(a) for a in one["arm"].values]
        low, middle, high = (one[name].values for name in ("low", "mean", "high"))
        title = f"{outcome}: the vector and its controls"
        there = middle[np.isfinite(middle)]
        if k and (len(there) < 2 or not np.ptp(there)):
            continue  # the table says it: every arm does the same
        places: list[dict[str, str | float]] = [{"arm": a} for a in arms]
        drawn = views.stems(middle.tolist(), arms, title, outcome, low.tolist(), high.tolist(), "arm", places)
        words = ", ".join(f"{a} {number(v)}" for a, v in zip(arms, middle, strict=True)) + "."
        picture = Picture(drawn, f"{outcome}: means over items with 95 % t intervals.", words)
        parts: list[Picture | Table] = [summary, picture] if k == 0 else [picture]
        if k == 0 and bool((one["n_draws"].values > 1).any()):
            parts.append(draws_figure(table, outcome, outcome, "mean over items"))

        def plot(
            ax: Any, arms: Any = arms, low: Any = low, middle: Any = middle, high: Any = high, outcome: str = outcome
        ) -> Any:
            return plots.points_plot(arms, middle, low, high, f"{outcome}, vector and controls", outcome, ax)

        made.append(Shown("Against controls", parts, plot, summary))
    return made
