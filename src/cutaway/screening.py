"""Estimating every cell of a grid by gradients, so that only the cells that matter need be computed exactly.

Attribution patching (Nanda 2023): effect of a change = <new - old, d metric / d activation> at the base run; one
forward and one backward of the base, one forward of each source. For q and k the softmax is recomputed and the
pattern's change is used in place of theirs (AtP*, Kramar et al. 2024). An estimate is not a bound: how far it can be
trusted is measured on a random sample of the cells that were left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .anatomy import steady
from .calls import Behind, Enough
from .editing import EditTap, Task, whole_rows
from .edits import Cell, Change
from .errors import BadInput, Refused
from .hooks import Hooks
from .metrics import Metric
from .packing import pack, slots, tokens
from .plan import Variant
from .prompts import Prompts
from .readings import Readings
from .replay import tasks_of
from .runs import Recorded
from .stats import rate_interval
from .taps import Inside, attach

if TYPE_CHECKING:
    from .model import Model

Key = tuple[str, int | None]
SOFTMAX = frozenset({"q", "k"})
"""Sites whose effect passes the softmax at once, so that its gradient is a poor guide."""


@dataclass(frozen=True)
class Chosen:
    """Which cells are computed exactly: the largest estimates, and a random sample of the others."""

    top: np.ndarray
    sample: np.ndarray

    @property
    def cells(self) -> np.ndarray:
        return np.concatenate([self.top, self.sample])


def choose(estimate: np.ndarray, share: float, seed: int, sample: float = 0.02) -> Chosen:
    """The `share` of cells with the largest |mean estimate| [cell, prompt], and a random `sample` of the rest.

    Raises:
        BadInput: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise BadInput(f"screen={share} must be a share of the cells, between 0 and 1.")
    n = len(estimate)
    order = np.argsort(-np.abs(estimate.mean(1)), kind="stable")
    k = min(n, max(1, round(share * n)))
    rest = order[k:]
    drawn = np.random.default_rng(seed).choice(rest, min(len(rest), max(30, round(sample * n))), replace=False)
    return Chosen(order[:k], np.sort(drawn))


def missed(effect: np.ndarray, chosen: Chosen, above: float | None, n_cells: int) -> dict[str, Any]:
    """What the random sample says of the cells left out, as attributes: how many reach an effect, with a 95 % limit.

    `effect` [cell] is the mean effect of the cells in `chosen.cells`; `above` defaults to the 20th largest exact one.
    A rate bounds how many were missed, not how large the largest of them is.
    """
    size = np.abs(effect)
    if above is None:
        above = float(np.sort(size)[::-1][min(19, len(size) - 1)])
    hits, drawn = int((size[len(chosen.top) :] >= above).sum()), len(chosen.sample)
    left = n_cells - len(chosen.top)
    found: dict[str, Any] = {"screened_above": above, "screened_sample": drawn, "screened_missed": hits}
    if drawn:
        rate = rate_interval(hits, drawn, side="upper", population=left)
        found |= {"screened_missed_rate": hits / drawn, "screened_missed_rate_at_most": float(rate.high)}
    return found


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
    """d metric / d activation of the base run at each key, in the vocabulary's layout. Nothing of the model is touched:
    no flag, no `.grad`.

    Raises:
        Refused: the weights were created in inference mode, so nothing can be differentiated.
    """
    if any(p.is_inference() for p in model.hf.parameters()):
        raise Refused(
            "Screening needs gradients, and the weights were created under torch.inference_mode. Load outside it."
        )
    nudge = _Nudge(keys)
    stream: list[Tensor] = []
    final = model.anatomy.blocks[-1].module
    with torch.inference_mode(False), steady(model.hf), torch.enable_grad(), Hooks() as hooks:
        with attach(hooks, model.anatomy, nudge):
            hooks.after(final, lambda m, a, k, out: stream.append(out[0] if isinstance(out, tuple) else out))
            model.forward(prompts[list(range(len(prompts)))], all_logits=False)
        at = readings.at[torch.from_numpy(which)].to(stream[0].device)
        left = stream[0][torch.arange(len(at), device=at.device)[:, None], at][:, None]
        total = readings.tensor(metric, left, which).sum()
        names = list(nudge.zeros)
        found = torch.autograd.grad(total, [nudge.zeros[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(nudge.zeros[name]) if g is None else g.detach()
        for name, g in zip(names, found, strict=True)
    }


def estimate(
    model: Model, prompts: Prompts, cells: Sequence[Cell], metric: Metric, readings: Readings, runs: Recorded
) -> np.ndarray:
    """The estimated effect of each cell, [cell, prompt], for one group of prompts.

    Raises:
        BadInput: the metric has no gradient at the base run, or an edit is an arbitrary function.
    """
    if metric.needs_base or metric.name == "rank":
        raise BadInput(f"{metric.name} has no slope at the base run, so it cannot be screened. Screen by logit_diff.")
    changes = [c for cell in cells for c in cell]
    if any(not c.operation.by_token for c in changes):
        raise BadInput("An arbitrary function cannot be screened. Sweep it without screen=.")
    keys: set[Key] = {("pattern" if c.site in SOFTMAX else c.site, c.layer) for c in changes}
    slopes = gradients(model, prompts, keys, metric, readings, runs.chosen.numpy())
    parts = _Parts(model, prompts, slopes, runs)
    parts.run_attention([c for c in changes if c.site in SOFTMAX])
    return np.stack([sum(parts.effect(change) for change in cell) for cell in cells])


class _Parts:
    """<new - old, slope> of whole sites, split by token and head or neuron: a cell is a sum over some of these."""

    def __init__(self, model: Model, prompts: Prompts, slopes: dict[Key, Tensor], runs: Recorded) -> None:
        self.model, self.prompts, self.slopes, self.runs = model, prompts, slopes, runs
        self.group = runs.chosen.numpy()
        self.by_token: dict[tuple, np.ndarray] = {}
        self.by_head: dict[tuple, np.ndarray] = {}

    def effect(self, change: Change) -> np.ndarray:  # [prompt]
        if change.site in SOFTMAX:
            heads = self.by_head[_same_run(change)]
            return heads.sum(1) if change.heads is None else heads[:, list(change.heads)].sum(1)
        key = (change.site, change.layer, id(change.operation), id(change.origin))
        if key not in self.by_token:
            self.by_token[key] = self._split(change)
        split = self.by_token[key]  # [prompt, position, 1 or head or neuron, 1 or key]
        chosen = change.neurons if change.heads is None else change.heads
        if chosen is not None:
            split = split[:, :, list(chosen)]
        if change.keys is not None:
            split = split * change.keys[self.group][:, None, None, : split.shape[3]]
        where = change.where[self.group][:, : split.shape[1]]
        return (split.sum((2, 3)) * where[:, : split.shape[1]]).sum(1)

    def _split(self, change: Change) -> np.ndarray:
        site, layer = change.site, change.layer
        everywhere = np.ones_like(change.where) & self._real(change)
        whole = replace(change, where=everywhere, heads=None, neurons=None, keys=None)
        tap = EditTap([Task(0, whole)], whole_rows(1, len(self.prompts), self.prompts.n_positions), self.runs)
        old, slope = self._old(site, layer), self.slopes[site, layer]
        gain = ((tap(site, layer, old) - old).to(slope) * slope).double()
        if site == "pattern":  # [prompt, head, query, key]
            return gain.transpose(1, 2).cpu().numpy()
        if gain.dim() == 4:  # [prompt, position, head, d_head]
            return gain.sum(-1)[..., None].cpu().numpy()
        split = gain if site in ("mlp_act", "mlp_pre") else gain.sum(-1, keepdim=True)
        return split[..., None].cpu().numpy()

    def _old(self, site: str, layer: int) -> Tensor:
        """The base's activation, without the padding that longer sources brought."""
        n = self.prompts.n_positions
        value = self.runs.base.site(site, layer)
        return value[..., :n, :n] if site == "pattern" else value[:, :n]

    def _real(self, change: Change) -> np.ndarray:
        """Where the operation is defined for every prompt of the sweep: real tokens (of a moved value: its own)."""
        if change.origin is not None:
            return change.where
        real = np.zeros_like(change.where)
        real[self.group, : self.prompts.n_positions] = self.prompts.mask.numpy()
        return real

    def run_attention(self, changes: Sequence[Change]) -> None:
        """The pattern's change under each change of q or k, all heads at once (they do not see each other): each
        layer's attention is run with them, and no more."""
        runs = {_same_run(c): replace(c, heads=None) for c in changes}
        end = self.prompts.n_positions
        step = max(1, 1024 // max(1, len(self.prompts) * end))
        for layer in sorted({c.layer for c in runs.values()}):
            here = [(key, c) for key, c in runs.items() if c.layer == layer]
            old, slope = self._old("pattern", layer), self.slopes["pattern", layer]
            attention = self.model.anatomy.blocks[layer].attention
            assert attention is not None
            for start in range(0, len(here), step):
                some = here[start : start + step]
                pattern = _patterns(self.model, self.prompts, [c for _, c in some], layer, end, self.runs)
                for i, (key, change) in enumerate(some):
                    mine = pattern[..., i * end : (i + 1) * end, i * end : (i + 1) * end]
                    heads = ((mine - old).to(slope) * slope).double().sum((2, 3))  # [prompt, head]
                    if change.site == "k":  # a kv head moves the patterns of all query heads that read it
                        heads = heads.unflatten(1, (attention.n_kv_heads, -1)).sum(-1)
                    self.by_head[key] = heads.cpu().numpy()


def _same_run(change: Change) -> tuple:
    """Changes with the same key differ in their heads only."""
    return (change.site, change.layer, id(change.operation), change.where.tobytes(), id(change.origin))


def _patterns(
    model: Model, prompts: Prompts, changes: Sequence[Change], layer: int, end: int, runs: Recorded
) -> Tensor:
    """The patterns [prompt, head, packed query, packed key] of one layer under several changes, one after the other.

    The block stops where its attention has them.
    """
    variants = [Variant(i, layer, 0, (), (c,), np.ones(len(prompts), bool)) for i, c in enumerate(changes)]
    packed = pack([0] * len(changes), end)
    x = runs.base.stream[layer][:, :end].repeat(1, len(changes), 1)
    whole = tokens(packed, len(prompts), runs.base.batch, x.device)
    edit = EditTap(tasks_of(variants), slots(packed, len(prompts)), runs)
    seen: list[Tensor] = []

    class Stop:
        def wants(self, site: str, at: int | None) -> bool:
            return (site, at) == ("pattern", layer) or edit.wants(site, at)

        def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
            if site == "pattern":
                seen.append(value)
                raise Enough
            return edit(site, layer, value)

    kept = runs.base.cache[layer]
    assert kept is not None
    cache = Behind(kept[0][:, :, :0], kept[1][:, :, :0])
    with steady(model.hf), Hooks() as hooks:
        try:
            with attach(hooks, model.anatomy, Inside(Stop()), [model.anatomy.blocks[layer]]):
                runs.base.calls[layer].on(x, whole, cache, {})
        except Enough:
            pass
    return seen[0]


__all__ = ["Chosen", "choose", "estimate", "gradients", "missed"]
