"""What the study of the indirect object runs: patching by layer and role, by head, and ablation of chosen heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import xarray as xr

from ...edits.cells import Edits
from ...edits.making import ablate, patch
from ...engine.gridding import edited_traces
from ...errors import Refused
from ...ledger import additivity, of_traces
from ...model import Model
from ...parts import at_once, in_parts
from ...prompts import Prompts
from ...readout.attribution import attribute
from ...results import joined
from ...resume.parts import Parts
from ...stats import max_t, mean_interval
from ...tasks.ioi import ROLES
from ...tasks.task import Task
from ...trace import Trace
from ..effects import Array, effects, swept, with_example

METHODS = ("zero", "mean", "resample")
PARTS = ("total", "direct", "downstream", "norm", "direct_recomputed", "response")
Head = tuple[int, int]


def name_of(head: Head) -> str:
    return f"L{head[0]}H{head[1]}"


@torch.no_grad()
def logit_difference(model: Model, prompts: Prompts) -> Array:  # [prompt]
    """logit(answer) - logit(foil) at the last token."""
    return np.concatenate(model.over(prompts, _difference))


def _difference(trace: Trace) -> Array:
    prompts = trace.prompts
    assert prompts.answers is not None and prompts.foils is not None
    pairs, parts = torch.stack([prompts.answers, prompts.foils], dim=1), []
    for some, logits in trace.each_logits(prompts.at(-1)):
        parts.append(logits.gather(1, pairs[some].to(logits.device)).double().cpu())
    mine, other = torch.cat(parts).T
    return (mine - other).numpy()


@dataclass
class Sweeper:
    """A model and a task, what the plain runs answer, and a record of what this model does not permit.

    Attributes:
        clean, corrupt: the prompts of the two runs. They are traced in parts by each analysis, and no trace is kept.
        clean_value, corrupt_value, abc_value: logit differences [prompt].
    """

    model: Model
    task: Task
    corruption: str
    level: float = 0.95
    refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.families = self.task.clean.families
        self.part = Parts(self.model, self.task, self.corruption, self.level)
        self.clean, self.corrupt = self.task.clean, self.task.corrupt(self.corruption)
        plain = (self.clean, self.corrupt, self.task.corrupt("abc"))
        self.clean_value, self.corrupt_value, self.abc_value = (logit_difference(self.model, p) for p in plain)

    def denoise(self, site: str, **where: Any) -> xr.Dataset:
        """Clean activations put into the corrupted run."""
        found = self._effects(self.corrupt, patch(site, source=self.clean, **where), self.clean_value)
        return with_example(found, self.clean, self.corrupt)

    def against_abc(self, noising: bool) -> xr.Dataset:
        """Heads patched between the clean run and one of three unrelated names.

        Under `swap` and `s2` the corrupted prompts are the family's other prompts, so noising would be the mirror image
        of denoising by construction. Here it is not.
        """
        clean, abc = self.clean, self.task.corrupt("abc")
        if noising:
            return self._effects(clean, patch("z", source=abc), self.abc_value)
        return self._effects(abc, patch("z", source=clean), self.clean_value)

    def _effects(self, base: Any, edits: Edits, source: Array) -> xr.Dataset:
        found = swept(self.model, base, edits)
        value = found["value"]
        if value.sizes.get("kv_head") == self.model.n_heads:  # every head has values of its own
            value = value.rename(kv_head="head")
        return effects(value, found["base"].values, source, self.families, self.level)

    def attempt(self, what: str, run: Callable[[], Any]) -> Any:
        """The result, or None with the reason noted where this model does not permit it."""
        try:
            return run()
        except Refused as error:
            self.refused[what] = str(error)
            return None

    # -- the grids ------------------------------------------------------------------------------------------------

    def patching(self) -> dict[str, xr.Dataset]:
        """Every grid of patching that this model permits."""
        roles = list(ROLES)
        runs: dict[str, Callable[[], xr.Dataset]] = {}
        for site in ("resid_pre", "attn_out", "mlp_out"):
            runs[f"patch_{site}"] = partial(self.denoise, site, positions=roles)
        for site in ("z", "v", "pattern"):
            runs[f"patch_{site}"] = partial(self.denoise, site)
        runs |= {"denoise_abc_z": lambda: self.against_abc(False), "noise_abc_z": lambda: self.against_abc(True)}
        kept = {name: partial(self.part, name, run) for name, run in runs.items()}
        found = {name: self.attempt(name.replace("_", " of "), run) for name, run in kept.items()}
        done = {name: one for name, one in found.items() if one is not None}
        if {"patch_z", "patch_v", "patch_pattern"} <= set(done) and "head" in done["patch_z"].dims:
            self._interaction(done)
        return done

    def _interaction(self, done: dict[str, xr.Dataset]) -> None:
        """z = pattern x v: what patching z does beyond patching either factor alone."""
        z, v, pattern = (done[f"patch_{site}"]["value"] for site in ("z", "v", "pattern"))
        if "kv_head" in v.dims:
            self.refused["interaction of value and pattern"] = (
                f"{v.sizes['kv_head']} value heads serve {z.sizes['head']} heads: patching a value moves a whole group."
            )
            return
        base = done["patch_z"]["base"].values
        shape = (-1, 1, 1)
        left = z.values - v.values - pattern.values + base.reshape(shape)  # (z-b) - (v-b) - (p-b)
        both = z.copy(data=left + base.reshape(shape))
        done["interaction"] = effects(both, base, self.clean_value, self.families, self.level)

    def direct(self, by_head: xr.DataArray, of_corrupt: xr.DataArray) -> xr.Dataset:
        """The direct effect of the same edit as `patch_z`: each head's own change, at the corrupted run's scale."""
        kept = np.flatnonzero(by_head["kind"].values == "head")
        one, other = by_head.isel(term=kept), of_corrupt.isel(term=kept)
        moved = (one["dot"].values - other["dot"].values) * other["inv_norm"].values[:, None]
        n_layers, n_heads = self.model.n_layers, self.model.n_heads
        value = moved.reshape(-1, n_layers, n_heads) + self.corrupt_value[:, None, None]
        coords = {k: by_head[k] for k in ("prompt", "text", "family")}
        grid = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
        array = xr.DataArray(value, dims=("prompt", "layer", "head"), coords={**coords, **grid})
        return effects(array, self.corrupt_value, self.clean_value, self.families, self.level)


# -- ablation of chosen heads -------------------------------------------------------------------------------------


def ablation(method: str, head: Head, reference: Any) -> Edits:
    """One head taken out at every position.

    `zero`; `mean` over the reference prompts of the same template, position by position; `resample`: the value of the
    prompt's own reference, which has the same words but three unrelated names.
    """
    where: dict[str, Any] = {"layers": head[0], "heads": head[1]}
    if method == "zero":
        return ablate("z", how="zero", **where)
    if method == "mean":
        return ablate("z", mean_of=reference, by=("position", "template"), **where)
    return patch("z", source=reference, **where)


def ablations(model: Model, task: Task, heads: Sequence[Head], level: float) -> tuple[xr.Dataset, xr.Dataset]:
    """Each head, and all of them together, taken out in three ways; and the ledger of every single one.

    Returns:
        `ablation`: `value` over prompt, how and head (the last is `all`), `effect` with interval, `gap`, the effect
        of all together minus the sum of the single ones, with interval. `ledger`: `value` over prompt, how, head and
        part, its mean with interval, `p_corrected` of each part over all methods and heads, and the mean `change` of
        every term.
    """
    clean, reference, families = task.clean, task.corrupt("abc"), task.clean.families
    single = {(m, name_of(h)): ablation(m, h, reference) for m in METHODS for h in heads}
    together = {
        (m, "all"): reduce(lambda a, b: a & b, (ablation(m, h, reference) for h in heads)) for m in METHODS
    }  # fmt: skip
    every = single | (together if len(heads) > 1 else {})
    found = swept(model, clean, {f"{head} {method}": edit for (method, head), edit in every.items()})
    names = [name_of(h) for h in heads] + (["all"] if len(heads) > 1 else [])
    base = found["base"].values.astype(np.float64)
    value = np.stack(
        [np.stack([found["value"].sel(edit=f"{h} {m}").values for h in names], -1) for m in METHODS], 1
    ).astype(np.float64)  # [prompt, method, head]
    coords = {
        **{k: found[k] for k in ("prompt", "text", "family")},
        "how": list(METHODS),
        "ablated": names,
    }
    dims = ("prompt", "how", "ablated")
    effect = value - base[:, None, None]
    interval = mean_interval(effect, families, level=level)
    data: dict[str, Any] = {"value": (dims, value), "base": ("prompt", base)}
    data |= {k: (dims[1:], getattr(interval, v)) for k, v in (("effect", "estimate"), ("low", "low"), ("high", "high"))}
    data["p_corrected"] = (dims[1:], max_t(effect, families).p_corrected)
    if len(heads) > 1:
        gap = np.stack([additivity(effect[:, m, -1], effect[:, m, :-1]) for m in range(len(METHODS))], 1)
        over = mean_interval(gap, families, level=level)
        data |= {
            f"gap{k}": ("how", getattr(over, v)) for k, v in (("", "estimate"), ("_low", "low"), ("_high", "high"))
        }
    return xr.Dataset(data, coords, {"level": level}), _ledgers(model, task, heads, single, level)


def _ledgers(
    model: Model, task: Task, heads: Sequence[Head], single: dict[tuple[str, str], Edits], level: float
) -> xr.Dataset:
    """The base run of a part of the prompts and its attribution are made once, for all ablations of that part."""
    clean, families = task.clean, task.clean.families
    cells = [(method, head) for method in METHODS for head in heads]
    edited = [edited_traces(model, clean, single[method, name_of(head)]) for method, head in cells]

    def part(some: list[int]) -> list[xr.Dataset]:
        before = model.trace(clean.padded(some))
        terms = attribute(before, by="head", toward="contrast")
        return [
            of_traces(before, trace(some), "z", head[0], base_terms=terms)
            for (_, head), trace in zip(cells, edited, strict=True)
        ]

    parts = [made for _, made in in_parts(len(clean), at_once(clean), part)]
    every = [joined(model, clean, list(column)) for column in zip(*parts, strict=True)]
    tables = [every[i * len(heads) : (i + 1) * len(heads)] for i in range(len(METHODS))]
    value = np.stack([np.stack([np.stack([t[p].values for p in PARTS], -1) for t in row], 1) for row in tables], 1)
    interval = mean_interval(value, families, level=level)
    tests = [max_t(value[..., i], families).p_corrected for i in range(len(PARTS))]
    terms = list(dict.fromkeys(str(name) for row in tables for t in row for name in t.term.values))
    change = np.stack(
        [np.stack([t["change"].mean("prompt").reindex(term=terms).values for t in row]) for row in tables]
    )
    worst = max(t.attrs["completeness_error"] for row in tables for t in row)
    dims = ("prompt", "how", "ablated", "part")
    data: dict[str, Any] = {"value": (dims, value), "change": (("how", "ablated", "term"), change)}
    data |= {k: (dims[1:], getattr(interval, v)) for k, v in (("mean", "estimate"), ("low", "low"), ("high", "high"))}
    data["p_corrected"] = (dims[1:], np.stack(tests, -1))
    ratio = np.stack([np.stack([t["scale_ratio"].values.mean() for t in row]) for row in tables])
    data["scale_ratio"] = (("how", "ablated"), ratio)
    coords = {
        **{k: tables[0][0][k] for k in ("prompt", "text", "family")},
        "how": list(METHODS),
        "ablated": [name_of(h) for h in heads],
        "part": list(PARTS),
        "term": terms,
    }
    return xr.Dataset(data, coords, {"level": level, "completeness_error": worst})
