"""The ledger of an edit: what it did itself and what followed, as sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..views import Cell, Picture, Table, interval
from ..wording import several, signed
from .contributions import place_of
from .families import over_families
from .shown import Shown

PARTS = {
    "direct": "edit itself",
    "downstream": "later parts",
    "norm": "final norm",
    "softcap": "soft-cap",
}
TOP = 14


def ledger_shown(found: xr.Dataset) -> list[Shown]:
    """The change of the readout as a sum of the edit, what followed, and the norm; then part by part."""
    means = {name: over_families(found[name]) for name in (*PARTS, "total", "direct_recomputed", "response")}
    mean = means["total"].attrs["mean"]
    total = float(means["total"]["effect"])
    parts = [(text, float(means[name]["effect"])) for name, text in PARTS.items()]
    if parts[-1][1] == 0.0:
        parts.pop()  # most models have no soft-cap
    edit = f" of {found.attrs['edit']}" if "edit" in found.attrs else ""
    title = f"Change of the logit difference = {signed(total)} logits"
    whole = Picture(
        views.waterfall(parts, total, title),
        f"The ledger{edit}: {mean}, at the final norm's scale of the run without the edit.",
        views.spoken(parts, total),
    )
    terms, places = _largest(found)
    by_part = Picture(
        views.waterfall(terms, total, "The same, part by part", places=places),
        "Each bar starts where the one above it ends; blue adds, red takes away.",
        views.spoken(terms, total),
    )
    table = _table(means)

    def plot(ax: Any) -> Any:
        return plots.waterfall_plot(parts, total, title, "logits", ax)

    return [Shown("Ledger", [whole, by_part, table], plot, table)]


def _largest(found: xr.Dataset) -> tuple[list[tuple[str, float]], list[dict[str, int]]]:
    mean = over_families(found["change"])["effect"].values
    names = [str(t) for t in found["term"].values]
    kept = sorted(i for i in np.argsort(-np.abs(mean))[:TOP] if mean[i])
    terms = [(names[i], float(mean[i])) for i in kept]
    at = found.assign_coords(neuron=("term", np.full(len(names), -1)), key=("term", np.full(len(names), -1)))
    places = [place_of(at, int(i)) for i in kept]
    if len(kept) < len(names):
        terms.append((several(len(names) - len(kept), "smaller term"), float(mean.sum() - mean[kept].sum())))
        places.append({})
    return terms, places


def _table(means: dict[str, xr.Dataset]) -> Table:
    said = {
        "total": "total",
        **PARTS,
        "direct_recomputed": "edit itself, norm anew",
        "response": "downstream response: total less that",
    }
    rows: list[list[str | Cell]] = []
    for name, text in said.items():
        one = means[name]
        if name == "softcap" and not float(one["effect"]):
            continue
        ends = {end: float(one[end]) if end in one else float("nan") for end in ("low", "high")}
        rows.append([text, interval({"mean": float(one["effect"]), **ends}, digits=4)])
    caption = f"Logits, {means['total'].attrs['mean']}, with 95 % intervals where there are several."
    return Table(caption, ["part", "change"], rows, ["part"])
