"""What must hold on these very sentences before the angles mean anything."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ...anatomy import steady
from ...anatomy.compare import tolerance
from ...errors import Refused
from ...geometry.standards import stream
from ...prompts import Prompts
from ..study import Check
from .work import Work

LOOKED_AT = 24
"""Occurrences that are run once more."""


def checks(work: Work, turns: xr.Dataset) -> list[Check]:
    """States of the stream itself; angles by another formula; nothing after a target matters."""
    some = sorted({o.sentence for o in work.found[:LOOKED_AT]})
    rows = [(some.index(o.sentence), o.position) for o in work.found[:LOOKED_AT]]
    prompts = work.given.prompts[some]
    index, at = (torch.tensor(x) for x in zip(*rows, strict=True))
    states = stream(work.model.trace(prompts))[:, index, at]  # [depth, occurrence, d_model]
    allowed = tolerance(work.model.dtype)
    made = [_formula(turns), _prefix(work, prompts, rows, states)]
    try:
        return [_last(work, prompts, states[-1], index, at, allowed), *made]
    except Refused as error:
        work.refused["check of the last state against the logits"] = str(error)
        return made


def _last(
    work: Work, prompts: Prompts, last: torch.Tensor, index: torch.Tensor, at: torch.Tensor, allowed: float
) -> Check:
    """The last state, put through the final norm once, gives the model's logits: the norm is not in it already."""
    model = work.model
    with steady(model.hf), torch.no_grad():
        logits = model.forward(prompts, all_logits=True)[index, at].cpu()
        read = model.read(last.to(model.device)).cpu()
    error = float((read - logits).abs().max() / logits.abs().max())
    statement = "the last state through the final norm and the unembedding gives the model's own logits"
    return Check("before the final norm", statement, error, allowed)


def _formula(turns: xr.Dataset) -> Check:
    """tan(angle) = tangential / (norm + radial): the parts and the angle come from different formulas."""
    norm = turns["norm"].isel(depth=slice(None, -1)).rename(depth="layer").assign_coords(layer=turns["layer"])
    other = np.arctan2(turns["tangential"], norm + turns["radial"])
    error = np.abs(other - np.deg2rad(turns["angle"]))
    statement = "the angle follows from the radial and the tangential part of the update; largest difference in radians"
    return Check("angle by another formula", statement, float(error.max()), 1e-6)


def _prefix(work: Work, prompts: Prompts, rows: list[tuple[int, int]], states: torch.Tensor) -> Check:
    """Each target with nothing after it."""
    alone = Prompts(ids=[prompts.ids[i, : at + 1].tolist() for i, at in rows])
    short = stream(work.model.trace(alone))[:, torch.arange(len(rows)), alone.lengths - 1]
    error = float(((short - states).double().norm(dim=-1) / states.double().norm(dim=-1)).max())
    statement = (
        f"the states of {len(rows)} targets are the same when nothing follows them, so sentences with equal beginnings "
        "are one measurement; relative to their norm"
    )
    return Check("only the beginning matters", statement, error, 30 * tolerance(work.model.dtype))
