"""The pattern under changed queries or keys, for every set of positions at once, from one or two runs of a layer.

A softmax is a poor subject for a slope, so for q and k the new pattern itself is used (AtP*, Kramar et al. 2024). A
query moves its own row only, so one run with all queries changed holds every row. A key moves its column's scores and
the normaliser of every row. With weights w = pattern at the old columns and w = exp(new score) / (old normaliser) at
the changed ones, the new row is w / sum(w). These w are read off two runs, each with every second key changed: a column
that stays says what became of the normaliser. So nothing is assumed of scales, caps, biases or masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..anatomy import steady
from ..calls import Behind, Enough
from ..edits.cells import Change
from ..hooks import Hooks
from ..prompts import Prompts
from ..taps import Inside, attach
from .editing import EditTap
from .packing import pack, slots, tokens
from .plan import Variant
from .replay import tasks_of
from .runs import Recorded

if TYPE_CHECKING:
    from ..model import Model

SOFTMAX = frozenset({"q", "k"})
"""Sites whose effect passes the softmax at once."""
SINK = 1e-4
"""A row's sum below 1 by more than this is a share that no key gets, and more than rounding."""
CHUNK = 2**22
"""Numbers [prompt, head, query, set of keys] that are held at once: 32 MB."""


def unpadded(runs: Recorded, prompts: Prompts, site: str, layer: int) -> Tensor:
    """The base's activation, without the padding that longer sources brought."""
    n = prompts.n_positions
    value = runs.base.site(site, layer)
    return value[..., :n, :n] if site == "pattern" else value[:, :n]


def defined(runs: Recorded, prompts: Prompts, change: Change) -> np.ndarray:
    """[prompt, position] over all the sweep's prompts: where the operation of a change is defined, for the group at
    hand: its real tokens (of a value that is taken from elsewhere: its own)."""
    if change.origin is not None:
        return change.where
    real = np.zeros_like(change.where)
    real[runs.chosen.numpy(), : prompts.n_positions] = prompts.mask.numpy()
    return real


@dataclass
class _Moved:
    """One operation at q or k of one layer, everywhere."""

    by_query: Tensor | None = None  # q: <new - old pattern, slope>, [prompt, query, head]
    weights: Tensor | None = None  # k: w of changed columns, [prompt, head, query, key]


class Softmaxes:
    """What changes of q and k do to a metric through the pattern; `slopes` holds d metric / d pattern."""

    def __init__(
        self, model: Model, prompts: Prompts, slopes: dict[tuple[str, int | None], Tensor], runs: Recorded
    ) -> None:
        self.model, self.prompts, self.slopes, self.runs = model, prompts, slopes, runs
        self.group, self.end = runs.chosen.numpy(), prompts.n_positions
        self.moved: dict[tuple, _Moved] = {}
        self.by_set: dict[tuple, np.ndarray] = {}  # [prompt, head or kv_head] of each set of positions

    def effect(self, change: Change) -> np.ndarray:  # [prompt, head or kv_head]
        """The estimated effect of a change of all heads; they do not see each other. `run` must have had it."""
        key = (*_operation(change), id(change.where))
        if key not in self.by_set:
            rows = self.moved[_operation(change)].by_query
            assert rows is not None
            where = torch.from_numpy(change.where[self.group][:, : self.end])
            self.by_set[key] = (rows * where[..., None]).sum(1).numpy()
        return self.by_set[key]

    def run(self, changes: Sequence[Change]) -> None:
        """The attention of each layer runs once for its queries, and twice for its keys."""
        one = {_operation(c): c for c in changes}
        every = {key: replace(c, heads=None, where=defined(self.runs, self.prompts, c)) for key, c in one.items()}
        for layer in sorted({c.layer for c in every.values()}):
            here = {key: c for key, c in every.items() if c.layer == layer}
            halves = [(key, half) for key, c in here.items() for half in _halves(c)]
            step = max(1, 1024 // max(1, len(self.prompts) * self.end))
            patterns = []
            for start in range(0, len(halves), step):
                some = [c for _, c in halves[start : start + step]]
                packed = _patterns(self.model, self.prompts, some, layer, self.end, self.runs)
                spans = (slice(i * self.end, (i + 1) * self.end) for i in range(len(some)))
                patterns += [packed[..., span, span].double() for span in spans]
            old = unpadded(self.runs, self.prompts, "pattern", layer).double()
            slope = self.slopes["pattern", layer].double()
            for key, change in here.items():
                found = [(p, half.where) for p, (other, half) in zip(patterns, halves, strict=True) if other == key]
                if change.site == "q":
                    gain = ((found[0][0] - old) * slope).sum(3).mT
                    self.moved[key] = _Moved(by_query=gain.cpu())
                else:
                    self.moved[key] = _Moved(weights=self._weights(old, found))
            self._sets([c for c in changes if c.layer == layer and c.site == "k"], old, slope)

    def _weights(self, old: Tensor, halves: Sequence[tuple[Tensor, np.ndarray]]) -> Tensor:
        """exp(new score) / old normaliser, [prompt, head, query, key]."""
        weights = torch.zeros_like(old)
        for new, where in halves:
            changed = torch.from_numpy(where[self.group][:, : self.end]).to(old.device)[:, None, None]
            stays, stayed = (torch.cat([p.masked_fill(changed, 0), _unseen(p)], 3) for p in (old, new))
            at = stays.argmax(3, keepdim=True)
            before, after = stays.gather(3, at), stayed.gather(3, at)
            ratio = torch.where(before > 0, after / before, 1)  # old normaliser / new one; 1: nothing else is seen
            weights += (new / ratio.clamp_min(1e-30)).masked_fill(~changed, 0)
        return weights

    def _sets(self, changes: Sequence[Change], old: Tensor, slope: Tensor) -> None:
        """The effect of changed keys at each set of positions."""
        by_operation: dict[tuple, dict[int, np.ndarray]] = {}
        for c in {(_operation(c), id(c.where)): c for c in changes}.values():
            by_operation.setdefault(_operation(c), {})[id(c.where)] = c.where[self.group][:, : self.end]
        attention = None if not changes else self.model.anatomy.blocks[changes[0].layer].attention
        for operation, sets in by_operation.items():
            weights = self.moved[operation].weights
            assert weights is not None and attention is not None
            more = weights - old
            total, sum_ = (old + 0).sum(3, keepdim=True) + _unseen(old), (old * slope).sum(3, keepdim=True)
            names, masks = list(sets), torch.from_numpy(np.stack(list(sets.values()), 2)).to(old)  # [prompt, key, set]
            step = max(1, CHUNK // max(1, old.numel() // max(1, self.end)))
            for start in range(0, len(names), step):
                some = masks[:, None, :, start : start + step]
                norm, top = total + more @ some, sum_ + (more * slope) @ some  # [prompt, head, query, set]
                heads = (top / norm.clamp_min(1e-12) - sum_).sum(2)  # [prompt, head, set]
                # a kv head moves the patterns of all query heads that read it
                heads = heads.unflatten(1, (attention.n_kv_heads, -1)).sum(2).cpu()
                for i, name in enumerate(names[start : start + step]):
                    self.by_set[*operation, name] = heads[..., i].numpy()


def _unseen(pattern: Tensor) -> Tensor:
    """[..., 1]: the share of each row that goes to no key (a sink inside the softmax)."""
    rest = 1 - pattern.sum(-1, keepdim=True)
    return torch.where(rest > SINK, rest, 0)


def _operation(change: Change) -> tuple:
    """Changes with the same key differ in their heads and positions only."""
    return (change.site, change.layer, id(change.operation), id(change.origin))


def _halves(change: Change) -> list[Change]:
    """What is run for an operation at all positions."""
    if change.site == "q":
        return [change]
    even = np.arange(change.where.shape[1]) % 2 == 0
    return [replace(change, where=change.where & half) for half in (even, ~even)]


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
