"""Lenses as tables and pictures."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .. import views
from ..views import Cell, Picture, Readings, Table
from ..wording import label, percent, rank

CAPTION = (
    "Logit lens: first choice and its probability if the model ended after this layer, each with its own norm "
    "statistics; the last layer is the model's output. The lens is not calibrated: read it as a projection."
)


def readings(lens: xr.Dataset, prompt: int) -> Readings:
    """One prompt of a lens, without padding."""
    one = lens.isel(prompt=prompt)
    at = [p for p, token in enumerate(one["input_token"].values) if token]
    grid = {k: one[k].values[:, at] for k in ("entropy", "kl", "next_token_rank", "next_token_probability")}
    tokens, chances = one["token"].values[:, at], one["probability"].values[:, at]
    choices = [
        [[(str(t), float(x)) for t, x in zip(*cell, strict=True)] for cell in zip(*row, strict=True)]
        for row in zip(tokens, chances, strict=True)
    ]
    followed = {}
    for k, token in enumerate(followed_tokens(one)):
        mine = one.isel(of=k)
        followed[token] = (mine["of_probability"].values[:, at], mine["of_rank"].values[:, at])
    return Readings(
        [str(one["input_token"].values[p]) for p in at],
        [int(layer) for layer in one["layer"].values],
        choices,
        np.asarray(grid["entropy"], float),
        np.asarray(grid["kl"], float),
        [str(one["next_token"].values[p]) for p in at],
        np.asarray(grid["next_token_rank"], float),
        np.asarray(grid["next_token_probability"], float),
        followed,
    )


def followed_tokens(one: xr.Dataset) -> list[str]:
    """Texts of the tokens that one prompt's lens follows."""
    if "of" not in one:
        return []
    return [str(t) for t in one["of_token" if "of_token" in one.coords else "of"].values]


def lens_figure(lens: xr.Dataset, prompt: int, code: str = "") -> Picture:
    """What every layer would predict at every position, to be pointed at, coloured anew and followed."""
    found = readings(lens, prompt)
    best = found.choices[-1][-1][0]
    words = f"The last layer's first choice at the last position is {label(best[0])} with {percent(best[1])}."
    return views.lens_grid(found, CAPTION, words, {"prompt": prompt}, code)


def lens_table(lens: xr.Dataset, prompt: int) -> Table:
    """What every layer would predict at every position, and what did follow."""
    one = lens.isel(prompt=prompt)
    positions = [p for p, token in enumerate(one["input_token"].values) if token]
    rows: list[list[str | Cell]] = []
    for layer in one["layer"].values:
        best = one.sel(layer=layer).isel(rank=0)
        cells = [(str(best["token"].values[p]), float(best["probability"].values[p])) for p in positions]
        rows.append([f"L{layer}", *(Cell(f"{label(t, 14)} {100 * p:.0f} %", views.shade_of(p)) for t, p in cells)])
    after = one["next_token"].values
    rows.append(["follows", *(label(str(after[p]), 14) if after[p] else "—" for p in positions)])
    last = one.isel(layer=-1)
    rows.append(["its rank", *(rank(float(last["next_token_rank"].values[p])) for p in positions)])
    heads = [f"{p} {label(str(one['input_token'].values[p]), 14)}" for p in positions]
    return Table(
        CAPTION,
        ["layer", *heads],
        rows,
    )


def lens_drawing(lens: xr.Dataset, prompt: int) -> views.Node:
    """The lens as a drawing, for a file."""
    one = lens.isel(prompt=prompt, rank=0)
    positions = [p for p, token in enumerate(one["input_token"].values) if token]
    heads = [f"{p} {label(str(one['input_token'].values[p]), 12)}" for p in positions]
    rows = [f"L{layer}" for layer in one["layer"].values]
    cells = [
        [(label(str(one["token"].values[k, p]), 12), float(one["probability"].values[k, p])) for p in positions]
        for k in range(len(rows))
    ]
    return views.token_grid(rows, heads, cells, "Logit lens: first choice of every layer at every position")
