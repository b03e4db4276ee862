"""How far until it flips: the smallest steps that change a stored state's token, and those that change the model's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ... import steering
from ...controls import NULL, Control, pair_flip_probability
from ...prompts import Prompts
from ...readout.flips import MEASURES, readout_flips
from ...readout.linear import LinearReadout
from ...results import run_card
from ...resume.parts import Parts
from ...trace import Trace
from .experiments import CONTEXTS, Bench

STEPS = tuple(2.0**k for k in range(-3, 5))
"""Steps at which shares of flips are given, in multiples of the vector."""


def flip_curves(bench: Bench, controls: Mapping[str, Control], draws: int) -> xr.Dataset:
    """How far a stored state must go until it flips, for the vector, minus it, the boundary, and draws of each null.

    Returns:
        Dataset over context, layer, arm, measure (`pair`, `change`, `target`), step: `share` of items and draws that
        have flipped within so many multiples of the vector's norm; over context, layer, step: `null`, the closed form
        for the pair and isotropic vectors, at the scale that the norm is expected to have; over context, layer, arm,
        measure: `median` step, infinite where fewer than half flip.
    """
    layers = list(range(bench.model.n_layers))
    arms: dict[str, Tensor] = {"vector": bench.direction.vector[None], "minus": -bench.direction.vector[None]}
    if "boundary" in controls:
        arms |= {"boundary": controls["boundary"].vectors}
    nulls = {name: c.vectors[:draws] for name, c in controls.items() if c.kind == NULL and name != "orthogonal"}
    arms |= nulls
    shape = (len(CONTEXTS), len(layers), len(arms), len(MEASURES))
    share, median = np.zeros((*shape, len(STEPS))), np.full(shape, np.inf)
    null = np.zeros((len(CONTEXTS), len(layers), len(STEPS)))
    for c, context in enumerate(CONTEXTS):
        trace = bench.traces[context]
        for a, vectors in enumerate(arms.values()):
            given = vectors if vectors.dim() == 2 else list(vectors)
            few = max(10, draws // 10)
            part = Parts(bench.model, bench.prompts(context), draws, vectors)
            found, changed = part(f"flips, {context}", partial(_flips, trace, given, layers, few))
            for m, measure in enumerate(MEASURES):
                one = changed if measure == "change" else found[measure]
                far = one.transpose("layer", ...).values.reshape(len(layers), -1)
                share[c, :, a, m] = (far[:, None] <= np.asarray(STEPS)[:, None]).mean(-1)
                median[c, :, a, m] = np.quantile(far, 0.5, axis=1, method="inverted_cdf")
            if a == 0:
                null[c] = _closed_form(bench, found)
    return xr.Dataset(
        {
            "share": (("context", "layer", "arm", "measure", "step"), share),
            "median": (("context", "layer", "arm", "measure"), median),
            "null": (("context", "layer", "step"), null),
        },
        {
            "context": list(CONTEXTS),
            "layer": layers,
            "arm": list(arms),
            "measure": list(MEASURES),
            "step": list(STEPS),
        },
        run_card(
            bench.model, bench.test.prompts, operation="readout edit", draws=draws, norm=bench.direction.norm,
            units="share of items and draws; steps are multiples of the vector's norm",
        ),
    )  # fmt: skip


def _flips(trace: Trace, given: Any, layers: list[int], few: int) -> tuple[xr.Dataset, xr.DataArray]:
    """Steps to `pair` and `target` of every vector, and of the first `few` to any change, which is a pass over the
    vocabulary for each token."""
    found = readout_flips(trace, given, layers, limit=STEPS[-1], measure=("pair", "target"))
    changed = readout_flips(trace, given[:few], layers, limit=STEPS[-1], measure=("change",))["change"]
    if isinstance(given, list):  # the boundary is nearest on the side of the token that does not lead
        other = readout_flips(trace, [-v for v in given], layers, limit=STEPS[-1])
        found = found.assign({m: np.minimum(found[m], other[m]) for m in ("pair", "target")})
        changed = changed.where(changed < other["change"], other["change"])
    return found, changed


def _closed_form(bench: Bench, found: xr.Dataset) -> np.ndarray:  # [layer, step]
    """Mean over items of the chance that an isotropic vector of so many norms flips the pair.

    The pair's bias counts at the norm's scale, which a long vector changes: it is taken where its expectation is.
    """
    d, r = bench.model.d_model, bench.direction.norm
    prompts = bench.prompts("asked")
    readout = LinearReadout(bench.model)
    assert prompts.answers is not None and prompts.foils is not None
    bias = readout.pair_bias(prompts.answers, prompts.foils).cpu().numpy()[:, None]
    scale = found["state_scale"].values  # [prompt, layer]
    linear = found["margin"].values - bias * scale
    rows = []
    for step in STEPS:
        longer = np.sqrt(scale**2 + (step * r) ** 2 / d) if readout.norm.module is not None else scale
        margin = np.abs(linear + bias * longer) * np.sign((linear + bias * longer) * found["margin"].values)
        rows.append(pair_flip_probability(margin, step * r, found["readout_norm"].values, d).mean(0))
    return np.stack(rows, axis=1)


def flips_in_runs(bench: Bench, controls: Mapping[str, Control], draws: int) -> xr.Dataset:
    """The smallest strength from which the model itself says something else: the vector with the sign that should work,
    against it, and a few draws of each null, at every layer. Medians and shares over items (and draws).
    """
    layers = list(range(bench.model.n_layers))
    made = []
    for context in CONTEXTS:
        prompts, sign = bench.toward(context)
        arms: dict[str, list[Tensor]] = {"vector": [sign * bench.direction.vector]}
        arms["minus"] = [-sign * bench.direction.vector]
        if "boundary" in controls:
            arms["boundary"] = [sign * v for v in controls["boundary"].vectors]
        for name, control in controls.items():
            if control.kind == NULL and name != "orthogonal":
                arms[name] = list(control.vectors[:draws])
        found = _flipped(bench, prompts, arms, layers)
        owner = np.array([str(name).rsplit("#", 1)[0] for name in found["vector"].values])
        cells = []
        for arm in arms:
            steps = found[list(MEASURES)].isel(vector=np.flatnonzero(owner == arm)).to_array("measure")
            some = steps.transpose("layer", "measure", "prompt", "vector").values
            flat = some.reshape(len(layers), len(MEASURES), -1)
            holds = found["target_holds"].isel(vector=np.flatnonzero(owner == arm)).transpose("layer", ...).values
            holds = holds.reshape(len(layers), -1)
            within = (flat[..., None, :] <= np.asarray(STEPS)[:, None]).mean(-1)  # [layer, measure, step]
            kept = np.array([np.nanmean(h) if np.isfinite(h).any() else np.nan for h in holds])
            cells.append((np.quantile(flat, 0.5, axis=-1, method="inverted_cdf"), within, kept))
        made.append((list(arms), cells))
    arms = made[0][0]  # type: ignore[assignment]
    return xr.Dataset(
        {
            "median": (
                ("context", "layer", "arm", "measure"),
                np.stack([np.stack([c[0] for c in cells], 1) for _, cells in made]),
            ),
            "share": (
                ("context", "layer", "arm", "measure", "step"),
                np.stack([np.stack([c[1] for c in cells], 1) for _, cells in made]),
            ),
            "holds": (("context", "layer", "arm"), np.stack([np.stack([c[2] for c in cells], 1) for _, cells in made])),
        },
        {"context": list(CONTEXTS), "layer": layers, "arm": list(arms), "measure": list(MEASURES), "step": list(STEPS)},
        run_card(
            bench.model, bench.test.prompts, operation="intervention", draws=draws, site=bench.chosen.where.site,
            units="multiples of the vector; shares",
        ),
    )  # fmt: skip


def _flipped(bench: Bench, prompts: Prompts, arms: Mapping[str, list[Tensor]], layers: list[int]) -> xr.Dataset:
    """The grid for all vectors, refined by bisection where there is one vector: draws are only counted by step."""
    made = []
    for several in (False, True):
        flat = {f"{a}#{i}": v for a, some in arms.items() if (len(some) > 1) == several for i, v in enumerate(some)}
        if flat:
            made.append(
                steering.flips(
                    bench.model,
                    prompts,
                    flat,
                    layers,
                    bench.chosen.where.site,
                    limit=STEPS[-1],
                    grid=len(STEPS),
                    rounds=0 if several else 3,
                )
            )
    return xr.concat(made, "vector", combine_attrs="override")
