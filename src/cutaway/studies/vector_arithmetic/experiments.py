"""What the study of vector arithmetic runs, on items that the vector was not taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats as sps
from torch import Tensor

from ... import steering
from ...controls import Control, against, norm_matched
from ...directions import Direction
from ...edits.making import add
from ...model import Model
from ...prompts import Prompts
from ...readout.comparison import before_after
from ...readout.editing import readout_edit
from ...readout.score import readout_score
from ...readout.stages import READINGS, stages
from ...results import run_card
from ...resume.parts import Parts
from ...stats import max_t, mean_interval
from ...steering import Outcomes, Where
from ...trace import Trace
from .items import Relation
from .vectors import Chosen, cosine

CONTEXTS = ("elsewhere", "asked")
"""Prompts that never ask for the relation, where adding should bring the answer; prompts that ask for it, where
subtracting should bring the argument back."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, the tested items in both contexts, and the vector with its place."""

    model: Model
    test: Relation
    chosen: Chosen
    level: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "traces", {c: self.model.trace(self.prompts(c)) for c in CONTEXTS})

    traces: dict[str, Trace] = None  # type: ignore[assignment]

    @property
    def direction(self) -> Direction:
        return self.chosen.direction

    @property
    def strength(self) -> float:
        scale = self.chosen.where.scale
        assert isinstance(scale, float)
        return scale

    def prompts(self, context: str) -> Prompts:
        return self.test.elsewhere if context == "elsewhere" else self.test.prompts

    def toward(self, context: str) -> tuple[Prompts, float]:
        """Prompts whose answer is what the vector should bring out, and the sign with which it is used."""
        return (self.test.elsewhere, 1.0) if context == "elsewhere" else (turned(self.test.prompts), -1.0)

    def where(self, sign: float) -> Where:
        w = self.chosen.where
        return Where(w.layers, w.positions, w.mode, w.site, sign * self.strength)


def turned(prompts: Prompts) -> Prompts:
    """The same prompts, asked the other way round: the argument is the answer."""
    same = prompts[list(range(len(prompts)))]
    same.answers, same.foils = prompts.foils, prompts.answers
    return same


# -- stages ----------------------------------------------------------------------------------------------------------


def all_stages(model: Model, relations: Sequence[Relation]) -> xr.Dataset:
    """`stages` of every item of every relation, asked and elsewhere, one after the other along `prompt`."""
    made = []
    for relation in relations:
        for context, prompts in (("asked", relation.prompts), ("elsewhere", relation.elsewhere)):
            found = stages(model.trace(prompts))
            labels = {"relation": ("prompt", [relation.name] * len(prompts))}
            made.append(found.assign_coords({**labels, "context": ("prompt", [context] * len(prompts))}))
    joined = xr.concat(made, "prompt", combine_attrs="override")
    return joined.assign_coords(prompt=np.arange(joined.sizes["prompt"]))


# -- ladders ---------------------------------------------------------------------------------------------------------


def ladders(bench: Bench, controls: Mapping[str, Control]) -> dict[str, xr.Dataset]:
    """The vector and every control: as an intervention and as a readout edit, in both contexts."""
    made = {}
    for context in CONTEXTS:
        prompts, sign = bench.toward(context)
        outcomes = Outcomes(bench.model, prompts, bench.where(sign))
        found = against(outcomes, bench.direction, controls, prompts.families, bench.level)
        made[f"intervention_{context}"] = _carded(bench, found, prompts, "intervention", sign)
        found = against(_Shares(bench, context), bench.direction, controls, prompts.families, bench.level)
        made[f"readout_{context}"] = _carded(bench, found, prompts, "readout edit", sign)
    return made


def _carded(bench: Bench, found: xr.Dataset, prompts: Prompts, operation: str, sign: float) -> xr.Dataset:
    where = bench.chosen.where
    card = run_card(
        bench.model, prompts, operation=operation, site=where.site, strength=sign * bench.strength,
        layer=where.layers[0] if operation == "intervention" else None, units="by outcome",
    )  # fmt: skip
    return found.assign_attrs({**card, **found.attrs})


@dataclass(frozen=True, eq=False)
class _Shares:
    """Readout edits at every layer: the shares of layers that turn, by reading, and relative to the model's switch."""

    bench: Bench
    context: str

    @cached_property
    def stage(self) -> xr.Dataset:
        return stages(self.bench.traces[self.context])

    def __call__(self, vectors: Tensor) -> dict[str, np.ndarray]:
        part = Parts(self.bench.model, self.bench.prompts(self.context), self.bench.strength)
        return part(f"readout edits, {self.context}", lambda: self._turned(vectors), vectors)

    def _turned(self, vectors: Tensor) -> dict[str, np.ndarray]:
        trace, stage = self.bench.traces[self.context], self.stage
        given = vectors if vectors.dim() == 2 else list(vectors)
        made: dict[str, np.ndarray] = {}
        part = "before" if self.context == "elsewhere" else "after"
        for reading in READINGS:
            found = readout_score(trace, given, self.bench.strength, reading, stage, anywhere=True, parts=[part])
            made[f"{reading}: layers turned"] = self._of(found[part], len(vectors))
            if self.context == "asked":
                found = readout_score(trace, given, self.bench.strength, reading, stage)
                for name in ("before", "after", "score"):
                    made[f"{reading}: {name}"] = self._of(found[name], len(vectors))
        return made

    def _of(self, share: xr.DataArray, n: int) -> np.ndarray:  # [prompt, vector]
        values = share.values if share.ndim == 2 else np.repeat(share.values[:, None], n, axis=1)
        return values.astype(np.float64)


# -- layer x strength ------------------------------------------------------------------------------------------------


def strength_map(bench: Bench, strengths: Sequence[float]) -> xr.Dataset:
    """The vector at every layer and strength, both signs: as a readout edit and as an intervention, in both contexts.

    Returns:
        Dataset over operation, context, layer, scale: `change` in logit(answer) - logit(argument) with its t interval,
        `p_corrected` (max-T over layers and strengths), `answer_top`, `argument_top` (shares of items).
    """
    scales = sorted({s * sign for s in strengths for sign in (1.0, -1.0)})
    layers = list(range(bench.model.n_layers))
    cells: dict[str, list[np.ndarray]] = {}
    for operation in ("readout edit", "intervention"):
        for context in CONTEXTS:
            prompts, trace = bench.prompts(context), bench.traces[context]
            assert prompts.answers is not None and prompts.foils is not None
            if operation == "readout edit":
                found = readout_edit(trace, bench.direction, scales, layers)
                found = found.transpose("prompt", "layer", "scale", ...)
                change = found["logit_diff"].values - found["base_logit_diff"].values[:, :, None]
                top = found["top_token"].values
            else:
                edit = add(bench.chosen.where.site, bench.direction, scales, layers=layers, positions=-1)
                ran = steering.swept(bench.model, prompts, edit, ["logit_diff", "top_token"])
                ran = ran.transpose("prompt", "layer", "scale", "metric")
                change = ran["effect"].sel(metric="logit_diff").values
                top = ran["value"].sel(metric="top_token").values
            interval = mean_interval(change, prompts.families, level=bench.level)
            test = max_t(change, prompts.families, alpha=1 - bench.level)
            answer, argument = (ids.numpy()[:, None, None] for ids in (prompts.answers, prompts.foils))
            for name, value in (
                ("change", interval.estimate),
                ("low", interval.low),
                ("high", interval.high),
                ("p_corrected", test.p_corrected),
                ("answer_top", (top == answer).mean(0)),
                ("argument_top", (top == argument).mean(0)),
            ):
                cells.setdefault(name, []).append(np.asarray(value))
    shape = (2, len(CONTEXTS), len(layers), len(scales))
    dims = ("operation", "context", "layer", "scale")
    return xr.Dataset(
        {name: (dims, np.stack(v).reshape(shape)) for name, v in cells.items()},
        {
            "operation": ["readout edit", "intervention"],
            "context": list(CONTEXTS),
            "layer": layers,
            "scale": [float(s) for s in scales],
        },
        run_card(bench.model, bench.test.prompts, units="logits; share of items", level=bench.level),
    )


# -- replace or add, last position or all, which layers --------------------------------------------------------------


def factors(bench: Bench, controls: Mapping[str, Control], draws: int) -> xr.Dataset:
    """Every combination of replace or add, last position or all positions, and three sets of layers, elsewhere.

    Returns:
        Dataset over mode, place, layers, arm: `change` with its t interval, `success` (answer on top), `kl`.
    """
    first, end = bench.chosen.where.layers[0], bench.model.n_layers
    sets = [[first], list(range(first, min(first + 2, end))), list(range(first, end))]
    sets = [s for i, s in enumerate(sets) if s not in sets[:i]]
    arms: dict[str, list[Tensor]] = {"vector": [bench.direction.vector]}
    for name in ("nothing", "mean write", "another relation", "minus"):
        if name in controls:
            arms[name] = [controls[name].vectors[0]]
    arms |= {n: list(controls[n].vectors[:draws]) for n in ("isotropic", "covariance") if n in controls}
    flat = {f"{name}#{i}": v for name, some in arms.items() for i, v in enumerate(some)}
    found = steering.factorial(
        bench.model, bench.test.elsewhere, flat, sets, bench.chosen.where.site, scale=bench.strength,
        metric=("logit_diff", "rank", "kl"),
    )  # fmt: skip
    owner = np.array([str(name).rsplit("#", 1)[0] for name in found["vector"].values])
    parts = []
    for arm in arms:
        some = found.isel(vector=np.flatnonzero(owner == arm))
        change = some["effect"].sel(metric="logit_diff").mean("vector")
        interval = mean_interval(change.values, bench.test.elsewhere.families, level=bench.level)
        success = (some["value"].sel(metric="rank") == 0).mean(("prompt", "vector")).values
        kl = some["value"].sel(metric="kl").mean(("prompt", "vector")).values
        parts.append((interval.estimate, interval.low, interval.high, success, kl))
    names = ("change", "low", "high", "success", "kl")
    dims = ("mode", "place", "layers", "arm")
    data = {name: (dims, np.stack([p[i] for p in parts], axis=-1)) for i, name in enumerate(names)}
    coords: dict[str, Any] = {d: found[d].values for d in dims[:3]} | {"arm": list(arms)}
    card = run_card(
        bench.model, bench.test.elsewhere, operation="intervention", strength=bench.strength, draws=draws,
        units="logits; share of items; nats",
    )  # fmt: skip
    return xr.Dataset(data, coords, card)


# -- what it does where it should do nothing -------------------------------------------------------------------------


def specificity(bench: Bench, others: Sequence[Relation]) -> xr.Dataset:
    """The vector added on items of its own and of other relations, toward each one's own answers.

    Returns:
        Dataset over relation, context: `change` in logit(answer) - logit(argument) with its t interval, `success`, `kl`
        with its interval (what it costs where it should do nothing); `own_minus` with a Welch interval: the change on
        its own relation's items minus that on these.
    """
    groups = [bench.test, *others]
    names = ("change", "low", "high", "success", "kl", "kl_low", "kl_high", "own_minus", "own_low", "own_high")
    data = {name: np.full((len(groups), len(CONTEXTS)), np.nan) for name in names}
    for c, context in enumerate(CONTEXTS):
        own: np.ndarray | None = None
        for g, group in enumerate(groups):
            prompts = group.elsewhere if context == "elsewhere" else group.prompts
            found = Outcomes(bench.model, prompts, bench.where(1.0))(bench.direction.vector[None])
            change, kl = found["logit change"][:, 0], found["kl"][:, 0]
            interval, cost = (mean_interval(x, prompts.families, level=bench.level) for x in (change, kl))
            data["change"][g, c], data["low"][g, c], data["high"][g, c] = (
                interval.estimate, interval.low, interval.high,
            )  # fmt: skip
            data["kl"][g, c], data["kl_low"][g, c], data["kl_high"][g, c] = cost.estimate, cost.low, cost.high
            success = found["success"][:, 0]
            data["success"][g, c] = np.nanmean(success) if np.isfinite(success).any() else np.nan
            if own is None:
                own = change
                continue
            gap = sps.ttest_ind(own, change, equal_var=False).confidence_interval(bench.level)
            data["own_minus"][g, c] = own.mean() - change.mean()
            data["own_low"][g, c], data["own_high"][g, c] = gap.low, gap.high
    return xr.Dataset(
        {name: (("relation", "context"), v) for name, v in data.items()},
        {"relation": [g.name for g in groups], "context": list(CONTEXTS)},
        run_card(bench.model, bench.test.prompts, operation="intervention", units="logits; share of items; nats"),
    )


def other_ways(bench: Bench, kinds: Mapping[str, Direction]) -> xr.Dataset:
    """Vectors for the same relation that were taken in other ways, with the same norm, elsewhere.

    Returns:
        Dataset over kind: `change` with its t interval, `success`, `cosine` with the study's vector, and where each was
        read (`place`).
    """
    outcomes = Outcomes(bench.model, bench.test.elsewhere, bench.where(1.0))
    found = outcomes(torch.stack([k.vector.to(bench.direction.vector) for k in kinds.values()]))
    interval = mean_interval(found["logit change"], bench.test.elsewhere.families, level=bench.level)
    places = [f"L{k.layer}" + ("" if k.head is None else f"H{k.head}") + f".{k.site}" for k in kinds.values()]
    return xr.Dataset(
        {
            "change": ("kind", interval.estimate),
            "low": ("kind", interval.low),
            "high": ("kind", interval.high),
            "success": ("kind", np.nanmean(found["success"], axis=0)),
            "cosine": ("kind", [cosine(k.vector, bench.direction.vector) for k in kinds.values()]),
            "place": ("kind", places),
        },
        {"kind": list(kinds)},
        run_card(bench.model, bench.test.elsewhere, operation="intervention", units="logits; share of items"),
    )


def compared(bench: Bench, items: int = 4) -> dict[str, xr.Dataset]:
    """Before | after of the first items, elsewhere, layer by layer: as a readout edit and as an intervention."""
    some = bench.test.elsewhere[list(range(min(items, len(bench.test))))]
    trace = bench.model.trace(some)
    edit = bench.where(1.0).edit(bench.direction)
    after = bench.model.trace(some, edits=edit)
    return {
        "compare_readout": before_after(trace, bench.direction, bench.strength),
        "compare_intervention": before_after(trace, after=after),
    }


def matched_norms(direction: Direction, controls: Mapping[str, Control]) -> float:
    """The largest relative deviation of a control's norm from the vector's."""
    worst = 0.0
    for control in controls.values():
        if control.name != "nothing":
            wanted = norm_matched(control.vectors, direction.norm)
            worst = max(worst, float((control.vectors.double() - wanted).norm(dim=-1).max()) / direction.norm)
    return worst
