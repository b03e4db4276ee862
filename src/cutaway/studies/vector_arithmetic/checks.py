"""What must hold on these very prompts before the study's numbers mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...anatomy.compare import Distance, tolerance
from ...controls import Control
from ...metrics import logit_diff
from ...readout.editing import readout_edit
from ...steering import Outcomes
from ..own_logits import last_logits
from ..study import Check
from .experiments import CONTEXTS, Bench, matched_norms


def checks(bench: Bench, controls: Mapping[str, Control], arrays: Mapping[str, Any]) -> list[Check]:
    """One norm, once; readout edits and interventions against plain decoding and whole runs; controls; no circle."""
    allowed = tolerance(bench.model.dtype)
    return [
        _norm_once(bench, allowed),
        _readout(bench, allowed),
        _whole_runs(bench, allowed),
        _nothing(bench, arrays),
        Check(
            "norms",
            "every control but nothing has the vector's norm; largest relative deviation",
            matched_norms(bench.direction, controls),
            allowed,
        ),
        Check(
            "no circle",
            "number of tested prompts that the vector was taken from, by token ids or item",
            float(sum(len(bench.test) - len(bench.direction.independent(p)) for p in (bench.test.prompts,))),
            1e-9,
        ),
    ]


def _norm_once(bench: Bench, allowed: float) -> Check:
    """Decoding the last block's output gives the model's own logits."""
    trace, prompts, apart = bench.traces["asked"], bench.test.prompts, Distance()
    rows = trace.rows("resid_post", bench.model.n_layers - 1, prompts.at(-1))
    for some, own in last_logits(bench.model, prompts):
        apart.add(bench.model.read(rows[some]), own)
    return Check(
        "final norm once",
        "the last block's output, decoded, is the model's own logits",
        apart.relative,
        allowed,
    )


def _readout(bench: Bench, allowed: float) -> Check:
    """Readout edits by products against the same state, edited by hand and decoded by the model's own modules."""
    worst, size = 0.0, 0.0
    for context in CONTEXTS:
        trace = bench.traces[context]
        prompts = trace.prompts
        assert prompts.answers is not None and prompts.foils is not None
        found = readout_edit(trace, bench.direction, [bench.strength, -bench.strength], measure=("logit_diff",))
        index = torch.arange(len(prompts))
        for layer in range(bench.model.n_layers):
            rows = trace.rows("resid_post", layer, prompts.at(-1))
            for scale in (bench.strength, -bench.strength):
                logits = bench.model.read(rows + (scale * bench.direction.vector).to(rows)).double().cpu()
                by_hand = (logits[index, prompts.answers] - logits[index, prompts.foils]).numpy()
                here = found["logit_diff"].sel(layer=layer, scale=scale).values
                worst = max(worst, float(np.abs(here - by_hand).max()))
                size = max(size, float(logits.abs().max()))
    return Check(
        "readout edits",
        "pair margins by products against states edited by hand and decoded by the model, relative to a logit",
        worst / size,
        allowed,
    )


def _whole_runs(bench: Bench, allowed: float) -> Check:
    """Interventions from the edited block upwards against runs of the whole model, edited."""
    worst, size = 0.0, 1.0
    for context in CONTEXTS:
        prompts, sign = bench.toward(context)
        found = Outcomes(bench.model, prompts, bench.where(sign))(bench.direction.vector[None])["logit change"][:, 0]
        whole = bench.model.trace(prompts, edits=bench.where(sign).edit(bench.direction))
        edited = logit_diff(whole.logits_at(-1), prompts)
        own = logit_diff(bench.model.trace(prompts).logits_at(-1), prompts)
        by_hand = (edited.double() - own.double()).cpu().numpy()
        worst = max(worst, float(np.abs(found - by_hand).max()))
        size = max(size, float(whole.logits_at(-1).abs().max()))
    return Check(
        "interventions against whole runs",
        "change in logit difference from the edited block upwards and by the whole model, relative to a logit",
        worst / size,
        allowed,
    )


def _nothing(bench: Bench, arrays: Mapping[str, Any]) -> Check:
    moved = [
        float(np.abs(arrays[name]["value"].sel(outcome="logit change", arm="nothing")).max())
        for name in (f"intervention_{c}" for c in CONTEXTS)
    ]
    return Check("nothing added", "a zero vector changes no logit", max(moved), 1e-9)
