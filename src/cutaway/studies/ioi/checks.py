"""What must hold on these very prompts before the study's numbers mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...anatomy.compare import tolerance
from ...edits.making import patch
from ..effects import swept
from ..study import Check
from .sweeps import Sweeper


def checks(sweeper: Sweeper, arrays: Mapping[str, Any]) -> list[Check]:
    """Alignment, sums, a patch whose answer is known, and sweeps against runs of the whole model."""
    allowed = tolerance(sweeper.model.dtype)
    made = [_alignment(sweeper), *_sums(arrays, allowed)]
    if "patch_resid_pre" in arrays:
        made.append(_everything(sweeper, allowed))
    if "ledger" in arrays:
        made += _ledger(arrays, allowed)
    return made


def _alignment(sweeper: Sweeper) -> Check:
    clean, wrong = sweeper.task.clean, 0
    for prompts in sweeper.task.corruptions.values():
        wrong += int((prompts.lengths != clean.lengths).sum())
        wrong += int(((prompts.ids != clean.ids).sum(1) > 3).sum())
    statement = (
        "every corrupted prompt has its clean prompt's length and differs from it in names alone; number that do not"
    )
    return Check("alignment", statement, float(wrong), 1e-9)


def _sums(arrays: Mapping[str, Any], allowed: float) -> list[Check]:
    own = arrays["behaviour"]["logit_difference"].sel(run="clean").values
    steps = arrays["cumulative"]
    size = float(np.abs(own).max())
    end = np.abs(steps.values[:, -1] + steps["bias"].values - own).max() / size if size else 0.0
    made = [
        Check("depth", "the last cumulative value plus the readout's bias is the logit difference", float(end), allowed)
    ]
    for by in ("layer", "component", "head"):
        if f"by_{by}" in arrays:
            error = float(arrays[f"by_{by}"].attrs["completeness_error"])
            made.append(Check(f"sum by {by}", "terms add up to the model's own logit difference", error, allowed))
    return made


def _everything(sweeper: Sweeper, allowed: float) -> Check:
    """Patching all of what enters block 0 turns the corrupted run into the clean one."""
    edits = patch("resid_pre", source=sweeper.task.clean, layers=0, positions="all")
    found = swept(sweeper.model, sweeper.task.corrupt(sweeper.corruption), edits)
    size = max(float(np.abs(sweeper.clean_value).max()), 1.0)
    error = float(np.abs(found["value"].values - sweeper.clean_value).max()) / size
    statement = (
        "clean values at every position before block 0 give the clean logit difference; error relative to the largest"
    )
    return Check("patching everything", statement, error, allowed)


def _ledger(arrays: Mapping[str, Any], allowed: float) -> list[Check]:
    table, ablation = arrays["ledger"], arrays["ablation"]
    heads = [str(h) for h in table["ablated"].values]
    effect = (ablation["value"] - ablation["base"]).sel(ablated=heads).transpose("prompt", "how", "ablated").values
    total = table["value"].sel(part="total").transpose("prompt", "how", "ablated").values
    size = max(float(np.abs(ablation["value"].values).max()), 1.0)
    return [
        Check("ledger", "its parts add up to the whole change", float(table.attrs["completeness_error"]), allowed),
        Check(
            "sweeps against whole runs",
            f"the change in logit difference of {total.size // len(total)} ablations, computed from the edited block "
            "upwards and by running the whole model edited; relative to the largest logit difference",
            float(np.abs(effect - total).max()) / size,
            allowed,
        ),
    ]
