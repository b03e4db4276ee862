"""Which heads matter: chosen on one half of the families, described and tested on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ...errors import BadInput
from ...stats import Split, max_t, mean_interval, ranking_stability, smallest_effect, split_families
from ..effects import part
from .sweeps import Head, Sweeper, name_of

MEASURES = ("patch_z", "direct", "patch_v", "patch_pattern", "interaction", "denoise_abc_z", "noise_abc_z")
"""What is said of a chosen head, where this model permits it."""


def halves(families: Sequence[str], seed: int) -> Split | None:
    """Families for choosing and families for testing; None where there are fewer than four."""
    try:
        return split_families(families, seed=seed)
    except BadInput:
        return None


def choose(arrays: Mapping[str, xr.Dataset], prompts: Sequence[int], top: int) -> list[Head]:
    """The heads with the largest total or direct effect on some of the prompts, in the order of the model.

    Both count, because they are different: a head whose write nothing else needs has a direct effect alone, one that
    works through others has a total effect alone.
    """
    index = list(prompts)
    sizes = []
    for name in ("patch_z", "direct"):
        one = arrays[name].isel(prompt=index)
        mean = (one["value"] - one["base"]).mean("prompt")
        sizes.append(np.abs(mean.transpose("layer", "head").values))
    score = np.maximum(*sizes)
    order = np.argsort(-score, axis=None)[: min(top, int((score > 0).sum()))]
    return sorted((int(i) // score.shape[1], int(i) % score.shape[1]) for i in order)


def head_table(
    sweeper: Sweeper, arrays: Mapping[str, Any], heads: Sequence[Head], prompts: Sequence[int], smallest: float
) -> xr.Dataset:
    """The chosen heads on the other half of the prompts, over dims measure and chosen.

    `effect` with `low` and `high` in logits; `share` of the difference between clean and corrupted runs with its
    interval; `p_corrected` over all chosen heads, measure by measure; `verdict`: is the effect larger or smaller than
    `smallest` x |difference|, or undecided.
    """
    layers, columns = (list(x) for x in zip(*heads, strict=True))
    index = list(prompts)
    families = [sweeper.families[i] for i in index]
    measures = [m for m in MEASURES if m in arrays and {"layer", "head"} <= set(arrays[m].dims)]
    found: dict[str, list[Any]] = {}
    for measure in measures:
        one = arrays[measure]
        source = sweeper.abc_value if measure == "noise_abc_z" else sweeper.clean_value
        pick = {"layer": xr.DataArray(layers, dims="chosen"), "head": xr.DataArray(columns, dims="chosen")}
        chosen = one[["value", "base"]].isel(pick).drop_vars(["layer", "head"])
        some = part(chosen.transpose("prompt", "chosen"), index, source, sweeper.level)
        change = (some["value"] - some["base"]).values
        gap = abs(float((sweeper.clean_value - sweeper.corrupt_value)[index].mean()))
        for key in ("effect", "low", "high", "share", "share_low", "share_high"):
            found.setdefault(key, []).append(some[key].values)
        test = max_t(change, families, alpha=1 - sweeper.level)
        found.setdefault("p_corrected", []).append(test.p_corrected)
        verdict = smallest_effect(change, families, smallest=smallest * gap, alpha=1 - sweeper.level).verdict
        found.setdefault("verdict", []).append(verdict)
    data = {key: (("measure", "chosen"), np.stack(values)) for key, values in found.items()}
    coords = {
        "measure": measures,
        "chosen": [name_of(h) for h in heads],
        "layer": ("chosen", layers),
        "head": ("chosen", columns),
    }
    attrs = {"families": len(set(families)), "prompts": len(index), "smallest": smallest}
    return xr.Dataset(data, coords, {**attrs, "smallest_p": test.smallest_p, "warning": test.warning})


def attention_table(attention: xr.DataArray, heads: Sequence[Head], prompts: Sequence[int], level: float) -> xr.Dataset:
    """Mean attention of the chosen heads between roles with t intervals over families, dims chosen and pair."""
    one = attention.isel(prompt=list(prompts))
    families = [str(f) for f in one["family"].values]
    values = np.stack([one.sel(layer=layer, head=head).values for layer, head in heads], axis=1)
    interval = mean_interval(values, families, level=level)
    dims = ("chosen", "pair")
    data = {"mean": (dims, interval.estimate), "low": (dims, interval.low), "high": (dims, interval.high)}
    return xr.Dataset(data, {"chosen": [name_of(h) for h in heads], "pair": attention["pair"].values})


def stability(found: xr.Dataset, top: int) -> dict[str, Any] | None:
    """How stable the set of the largest heads is over resampled families; None where too few heads move."""
    change = (found["value"] - found["base"]).transpose("prompt", "layer", "head").values
    k = min(top, int((change != 0).any(axis=0).sum()))
    if k < 1:
        return None
    ranked = ranking_stability(change, [str(f) for f in found["family"].values], k=k)
    return {"k": k, "jaccard": ranked.jaccard, "top_share": ranked.top_share}
