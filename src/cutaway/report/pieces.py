"""From labelled results to pictures and tables: the pieces that pages, picture files and spreadsheets share."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .. import views
from ..tokens import shown
from ..wording import label, number, percent, rank, signed
from .page import Cell, Picture, Table

Terms = list[tuple[str, float]]


def largest(terms: xr.DataArray, top: int) -> Terms:
    """The terms of one prompt in the model's order; beyond `top`, the small ones as one, so that the sum stays."""
    names, values = terms.term.values, terms.values
    if len(values) <= top + 1:
        return [(str(n), float(v)) for n, v in zip(names, values, strict=True)]
    kept = sorted(np.argsort(-np.abs(values))[:top])
    chosen = [(str(names[i]), float(values[i])) for i in kept]
    return [*chosen, (f"{len(values) - top} smaller terms", float(values.sum() - values[kept].sum()))]


def contributions(terms: xr.DataArray, prompt: int, top: int = 14) -> Picture:
    """The terms of one prompt as bars that add up."""
    one = terms.isel(prompt=prompt)
    chosen, total = largest(one, top), float(one.sum())
    quantity = shown_text(str(one["quantity"].values))
    title = f"{quantity} = {signed(total)} {terms.attrs['units']}, by {terms.attrs['by']}"
    caption = (
        f"{quantity} = {signed(total)} {terms.attrs['units']}, by {terms.attrs['by']}: each bar starts where "
        "the one above it ends; blue adds, red takes away."
    )
    picture = views.waterfall(chosen, total, title, str(terms.attrs["units"]))
    return Picture(picture, caption, views.spoken(chosen, total))


def contribution_table(terms: xr.DataArray, prompt: int, top: int | None = None) -> Table:
    """The terms of one prompt with what they are made of and what removing them from the readout would do."""
    one = terms.isel(prompt=prompt)
    order = list(range(one.sizes["term"]))
    if top is not None:
        order = sorted(order, key=lambda i: -abs(float(one[i])))[:top]
    rows = [
        [
            str(one.term.values[i]),
            number(one["dot"].values[i], 4),
            signed(one.values[i], 4),
            signed(one["removal_frozen"].values[i]),
            signed(one["removal_true"].values[i]),
            signed(one["removal_difference"].values[i]),
        ]
        for i in order
    ]
    if top is None:
        rows.append(["sum", "", signed(float(one.sum()), 4), "", "", ""])
    which = (
        "Terms" if top is None or top >= one.sizes["term"] else f"The {len(order)} largest of {one.sizes['term']} terms"
    )
    return Table(
        f"{which} by {terms.attrs['by']}; contribution = inner product x 1/s, 1/s = {number(one['inv_norm'], 6)}. "
        "Removal: change of the readout without the term, the norm's scale held or taken anew.",
        ["term", "inner product", "contribution", "removed, scale held", "removed, scale anew", "difference"],
        rows,
        ["term"],
    )


def next_token_table(tokens: list[str], ids: list[int], logits: list[float], probabilities: list[float]) -> Table:
    """The model's first choices."""
    rows: list[list[str | Cell]] = [
        [str(k), str(i), shown(t), number(x, 4), Cell(percent(p), views.shade_of(p))]
        for k, (t, i, x, p) in enumerate(zip(tokens, ids, logits, probabilities, strict=True))
    ]
    return Table("Next token; ranks count from 0.", ["rank", "id", "token", "logit", "probability"], rows, ["token"])


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
        "Logit lens: first choice and its probability if the model ended after this layer, each with its own norm "
        "statistics; the last layer is the model's output. The lens is not calibrated: read it as a projection.",
        ["layer", *heads],
        rows,
    )


def lens_picture(lens: xr.Dataset, prompt: int) -> views.Node:
    """The lens as a picture file."""
    one = lens.isel(prompt=prompt, rank=0)
    positions = [p for p, token in enumerate(one["input_token"].values) if token]
    heads = [f"{p} {label(str(one['input_token'].values[p]), 12)}" for p in positions]
    rows = [f"L{layer}" for layer in one["layer"].values]
    cells = [
        [(label(str(one["token"].values[k, p]), 12), float(one["probability"].values[k, p])) for p in positions]
        for k in range(len(rows))
    ]
    return views.token_grid(rows, heads, cells, "Logit lens: first choice of every layer at every position")


def shown_text(text: str) -> str:
    """A text whose ordinary spaces stay and in which nothing is invisible."""
    return " ".join(shown(part) if part else "" for part in text.split(" "))
