"""Attribution patching (Nanda 2023): the effect of every cell of a grid, estimated from one backward pass.

effect = <new - old, d metric / d activation> at the base run. For q and k the softmax is recomputed and the pattern's
change takes their place (AtP*, Kramar et al. 2024): see `softmaxes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..anatomy import steady
from ..calls import Enough
from ..edits.cells import Cell, Change
from ..errors import BadInput, Refused
from ..hooks import Hooks, hidden
from ..metrics import Metric
from ..prompts import Prompts
from ..taps import attach
from .editing import EditTap, Task, whole_rows
from .readings import Readings
from .runs import Recorded
from .softmaxes import SOFTMAX, Softmaxes, defined, unpadded

if TYPE_CHECKING:
    from ..model import Model

Key = tuple[str, int | None]


class _Nudge:
    """A tap that adds a zero to every wanted activation, so that gradients to it can be asked for."""

    def __init__(self, keys: set[Key]) -> None:
        self.keys = keys
        self.zeros: dict[Key, Tensor] = {}

    def wants(self, site: str, layer: int | None) -> bool:
        return (site, layer) in self.keys

    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
        zero = self.zeros[site, layer] = torch.zeros_like(value, requires_grad=True)
        return value + zero


def gradients(
    model: Model, prompts: Prompts, keys: set[Key], metric: Metric, readings: Readings, which: np.ndarray
) -> dict[Key, Tensor]:
    """d metric / d activation of the base run at each key, in the vocabulary's layout, all from one backward pass.

    Nothing of the model is touched: no flag, no `.grad`.

    Raises:
        BadInput: the metric does not follow small changes.
        Refused: the weights were created in inference mode, so nothing can be differentiated.
    """
    if any(p.is_inference() for p in model.hf.parameters()):
        raise Refused(
            "Screening needs gradients, and the weights were created under torch.inference_mode. Load outside it."
        )
    nudge = _Nudge(keys)
    stream: list[Tensor] = []

    def last(module: object, args: tuple, kwargs: dict, output: object) -> None:
        stream.append(hidden(output))
        raise Enough  # the metric is read from here

    with torch.inference_mode(False), steady(model.hf), torch.enable_grad():
        with Hooks() as hooks:  # reading the metric may run the model once more
            watching = attach(hooks, model.anatomy, nudge)
            hooks.after(model.anatomy.blocks[-1].module, last)  # after the nudge of resid_post
            with suppress(Enough), watching:
                model.forward(prompts[list(range(len(prompts)))], all_logits=False)  # no inference tensors
        at = readings.at[torch.from_numpy(which)].to(stream[0].device)
        left = stream[0][torch.arange(len(at), device=at.device)[:, None], at][:, None]
        total = readings.tensor(metric, left, which).sum()
        if not total.requires_grad:
            raise no_slope(metric)
        names = list(nudge.zeros)
        found = torch.autograd.grad(total, [nudge.zeros[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(nudge.zeros[name]) if g is None else g.detach()
        for name, g in zip(names, found, strict=True)
    }


def no_slope(metric: Metric) -> BadInput:
    return BadInput(f"{metric.name} has no slope at the base run, so it cannot be screened. Screen by logit_diff.")


def estimate(
    model: Model, prompts: Prompts, cells: Sequence[Cell], metric: Metric, readings: Readings, runs: Recorded
) -> np.ndarray:
    """The estimated effect of each cell, [cell, prompt], for one group of prompts.

    `runs` holds every changed site, and the pattern of every layer where a query or key is changed.

    Raises:
        BadInput: the metric has no gradient at the base run, or an edit is an arbitrary function.
        Refused: the weights were created in inference mode.
    """
    if metric.needs_base:  # at its smallest there
        raise no_slope(metric)
    changes = [c for cell in cells for c in cell]
    if any(not c.operation.by_token for c in changes):
        raise BadInput("An arbitrary function cannot be screened. Sweep it without screen=.")
    keys: set[Key] = {("pattern" if c.site in SOFTMAX else c.site, c.layer) for c in changes}
    slopes = gradients(model, prompts, keys, metric, readings, runs.chosen.numpy())
    parts = _Parts(prompts, slopes, runs, Softmaxes(model, prompts, slopes, runs))
    parts.softmaxes.run([c for c in changes if c.site in SOFTMAX])
    return np.stack([sum(parts.effect(change) for change in cell) for cell in cells])


class _Parts:
    """<new - old, slope> of whole sites, split by token and head or neuron: a cell is a sum over some of these."""

    def __init__(self, prompts: Prompts, slopes: dict[Key, Tensor], runs: Recorded, softmaxes: Softmaxes) -> None:
        self.prompts, self.slopes, self.runs, self.softmaxes = prompts, slopes, runs, softmaxes
        self.group = runs.chosen.numpy()
        self.split: dict[tuple, np.ndarray] = {}
        self.by_token: dict[tuple, np.ndarray] = {}

    def effect(self, change: Change) -> np.ndarray:  # [prompt]
        if change.site in SOFTMAX:
            heads = self.softmaxes.effect(change)  # [prompt, head]
            return heads.sum(1) if change.heads is None else heads[:, list(change.heads)].sum(1)
        by_token = self._by_token(change)
        where = change.where[self.group][:, : by_token.shape[1]]
        return (by_token * where).sum(1)

    def _by_token(self, change: Change) -> np.ndarray:  # [prompt, position]
        whole = (change.site, change.layer, id(change.operation), id(change.origin))
        chosen = change.neurons if change.heads is None else change.heads
        key = (*whole, chosen, id(change.keys))
        if key not in self.by_token:
            if whole not in self.split:
                self.split[whole] = self._split(change)
            split = self.split[whole]  # [prompt, position, 1 or head or neuron, 1 or key]
            if chosen is not None:
                split = split[:, :, list(chosen)]
            if change.keys is not None:
                split = split * change.keys[self.group][:, None, None, : split.shape[3]]
            self.by_token[key] = split.sum((2, 3))
        return self.by_token[key]

    def _split(self, change: Change) -> np.ndarray:
        site, layer = change.site, change.layer
        everywhere = np.ones_like(change.where) & defined(self.runs, self.prompts, change)
        whole = replace(change, where=everywhere, heads=None, neurons=None, keys=None)
        tap = EditTap([Task(0, whole)], whole_rows(1, len(self.prompts), self.prompts.n_positions), self.runs)
        old, slope = unpadded(self.runs, self.prompts, site, layer), self.slopes[site, layer]
        gain = ((tap(site, layer, old) - old).to(slope) * slope).double()
        if site == "pattern":  # [prompt, head, query, key]
            return gain.transpose(1, 2).cpu().numpy()
        if gain.dim() == 4:  # [prompt, position, head, d_head]
            return gain.sum(-1)[..., None].cpu().numpy()
        split = gain if site in ("mlp_act", "mlp_pre") else gain.sum(-1, keepdim=True)
        return split[..., None].cpu().numpy()
