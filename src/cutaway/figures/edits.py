"""Readout edits: layer by strength, vector or position, one map for each measure; the score of update vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..views import Cell, Curve, Picture, Table
from ..wording import percent
from .families import over_families
from .shown import Shown, first_few
from .sweeps import grids

MEASURED = {
    "logit_diff": ("change of logit(answer) - logit(foil)", "logits", True),
    "rank": ("change of the answer's rank", "ranks", True),
    "kl": ("KL from the unedited state", "nats", False),
    "top_token": ("another token on top", "share of prompts", False),
}
"""Measure -> what is drawn of it, in which unit, and whether it is tested against 0; the others are never below it."""
SHARES = ("before", "after", "score")


def edits_shown(found: xr.Dataset) -> list[Shown]:
    """What an edit changes of each measure, means over families of prompts."""
    made: list[Shown] = []
    for name, (title, unit, tested) in MEASURED.items():
        if name not in found:
            continue
        data = found[name]
        if name == "top_token":
            data = (data != found["base_top_token"]).where(data >= 0)
        elif f"base_{name}" in found:
            data = data - found[f"base_{name}"]
        data = data.transpose("prompt", "layer", ...)
        mean = over_families(data.astype(float), tested)
        if name == "top_token":
            mean = mean.drop_vars(["low", "high"], errors="ignore")  # a share of few prompts has no t interval
        attrs = {"units": unit, "title": title, "label": name, **({} if tested else {"least": 0})}
        made += grids(mean.assign_attrs({**mean.attrs, **attrs}))
    return made


def score_shown(found: xr.Dataset) -> list[Shown]:
    """The score of every vector; over strengths as curves, else as points with intervals."""
    vectors = [str(v) for v in found["vector"].values] if "vector" in found.dims else [""]
    strengths = (
        [f"{float(s):g}" if _is_number(s) else str(s) for s in found["scale"].values] if "scale" in found.dims else []
    )
    table = _score_table(found, vectors, strengths)
    if strengths:

        def one(v: int) -> Shown:
            mine = found.isel(vector=v) if "vector" in found.dims else found
            means = {name: _mean(mine[name]) for name in SHARES}
            curves = [
                Curve(name, m["effect"].values.tolist(), **_ends(m)) for name, m in means.items()
            ]  # fmt: skip
            title = f"Share of layers turned{f', {vectors[v]}' if vectors[v] else ''}"
            drawn = views.bands(curves, strengths, title, "share of layers", limits=(0.0, 1.0), axis="strength")
            words = " ".join(views.spoken_line(c.name, c.middle, strengths, True) for c in curves)
            lines = {c.name: list(c.middle) for c in curves}
            picture = Picture(drawn, f"{means['score'].attrs['mean'].capitalize()}; bands: 95 % intervals.", words)
            parts: list[Picture | Table] = [picture, table] if v == 0 else [picture]
            return Shown(
                "Score",
                parts,
                lambda ax: plots.lines_plot(lines, strengths, title, "share of layers", ax, None, "strength"),
                table,
            )

        return first_few("vectors", len(vectors), one)
    means = _mean(found["score"] if "vector" in found.dims else found["score"].expand_dims(vector=["vector"], axis=1))
    low, high = (means[end].values if end in means else None for end in ("low", "high"))
    names = [v or "the vector" for v in vectors]

    def plot(ax: Any) -> Any:
        return plots.points_plot(names, means["effect"].values, low, high, "Score", "share of layers", ax)

    return [Shown("Score", [table], plot)]


EXPLAINED = (
    "Before: of the layers before the switch at which the argument has the say, the share that turn to the answer when "
    "the vector is added; after: of those from the switch on at which the answer has it, the share that fall back when "
    "it is subtracted; score: the mean of both."
)


def _score_table(found: xr.Dataset, vectors: list[str], strengths: list[str]) -> Table:
    rows: list[list[str | Cell]] = []
    for v, vector in enumerate(vectors):
        for s, strength in enumerate(strengths or [""]):
            at = {d: i for d, i in (("vector", v), ("scale", s)) if d in found.dims}
            one = found.isel(at)
            row: list[str | Cell] = [f"{vector}{f' x {strength}' if strength else ''}".strip() or "the vector"]
            for name in SHARES:
                values = one[name].values
                mean = _mean(one[name])
                row += [_share(mean), str(int(np.isfinite(values).sum()))]
            rows.append(row)
    columns = ["vector"]
    for name in SHARES:
        columns += [name, f"items, {name}"]
    never = int((found["switch"].values < 0).sum())
    caption = f"{EXPLAINED} The model never switches on {never} of {found.sizes['prompt']} items."
    return Table(caption, columns, rows, ["vector"])


def _mean(values: xr.DataArray) -> xr.Dataset:
    """Over the items for which there is a share at all."""
    there = np.isfinite(values.values.reshape(len(values), -1)).any(1)
    return over_families(values.isel(prompt=np.flatnonzero(there))) if there.any() else over_families(values)


def _share(mean: xr.Dataset) -> Cell:
    value = float(mean["effect"])
    numbers = {"": value, **{end: float(mean[end]) for end in ("low", "high") if end in mean}}
    under = f"[{percent(mean['low'])}, {percent(mean['high'])}]" if "low" in mean else ""
    return Cell(percent(value), views.shade_of(value), numbers, under)


def _ends(mean: xr.Dataset) -> dict[str, Any]:
    return {end: mean[end].values.tolist() for end in ("low", "high") if end in mean}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)
