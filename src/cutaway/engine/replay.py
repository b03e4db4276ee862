"""The wave: variants enter at their layers and climb the model's own blocks together.

`climb` runs one chunk on the recorded base: suffixes only, prefix keys and values shared, the last block for the read
positions alone. `forward` is the plain way to the same numbers: one full pass with ordinary hooks, for models whose
blocks cannot be called like that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..anatomy import Block, steady
from ..calls import Behind, BlockCall, Enough, Instead, Keep, Tokens
from ..hooks import Hooks
from ..prompts import Prompts
from ..taps import Inside, Recorder, Tap, attach
from .activations import quicken_activation
from .editing import EditTap, Slots, Task, whole_rows
from .entering import enter
from .packing import Layout, Packed, layout, only_reads, pack, slots, tokens
from .plan import ROWS_FROM, Variant
from .recording import together
from .runs import Recorded

if TYPE_CHECKING:
    from ..model import Model


def tasks_of(variants: Sequence[Variant]) -> list[Task]:
    return [Task(i, change) for i, variant in enumerate(variants) for change in variant.changes]


class Wave:
    """One group of prompts on which chunks of variants are run. `reads` [prompt, read] are the positions wanted."""

    def __init__(self, model: Model, runs: Recorded, prompts: Prompts, reads: np.ndarray, end: int) -> None:
        self.model, self.runs, self.prompts, self.reads, self.end = model, runs, prompts, reads, end
        self.rows_from = ROWS_FROM
        self.projected: dict[int, bool] = {}  # layers whose attention puts out its output projection's output
        self.blocks = model.anatomy.blocks
        self.n_layers = len(self.blocks)

    def base(self) -> Tensor:
        """What the base run left at the read positions, [prompt, 1, read, d_model] (or logits: see `Run.left`)."""
        stream = self.runs.base.left
        at = torch.from_numpy(self.reads).to(stream.device)
        return stream[torch.arange(len(at), device=stream.device)[:, None], at][:, None]

    def climb(self, variants: Sequence[Variant]) -> Tensor:
        """What each variant leaves at the read positions, [prompt, variant, read, d_model]."""
        low = [i for i, v in enumerate(variants) if v.entry < self.n_layers]
        top = [i for i, v in enumerate(variants) if v.entry == self.n_layers]
        parts = ([self._climb([variants[i] for i in low])] if low else []) + (
            [self._after([variants[i] for i in top])] if top else []
        )
        order = torch.from_numpy(np.argsort([*low, *top]))
        return torch.cat([p.to(parts[0].device) for p in parts], dim=1)[:, order.to(parts[0].device)]

    def _climb(self, variants: Sequence[Variant]) -> Tensor:
        """Variants that enter before some block, in the order of their entry."""
        entered = 0
        x = torch.empty(0)
        for layer in range(variants[0].entry, self.n_layers):
            new = [v for v in variants[entered:] if v.entry == layer]
            if new:
                parts = ([x] if entered else []) + enter(self, new)
                entered += len(new)
                here = variants[:entered]
                x = torch.cat([p.to(parts[0].device) for p in parts], dim=1)
                packed = pack([v.first for v in here], self.end)
                tap = EditTap(tasks_of(here), slots(packed, len(self.prompts)), self.runs)
                lay = layout(packed, len(self.prompts), self.runs.base.batch, x.device, self.rows_from)
                inside = EditTap(tasks_of(here), lay.slots, self.runs)
                gathered: dict = {}
            x = self._stream(x, layer, tap)
            if layer == self.n_layers - 1 and self._worth_two_calls(packed, here):
                return self._last_block(x, packed, here)
            x = self._block(self.blocks[layer], x, packed, lay, gathered, inside)
        return self._at_reads(self._stream(x, self.n_layers, tap), packed)

    def _after(self, variants: Sequence[Variant]) -> Tensor:
        """Variants that enter after the last block."""
        packed = pack([v.first for v in variants], self.end)
        tap = EditTap(tasks_of(variants), slots(packed, len(self.prompts)), self.runs)
        x = torch.cat(enter(self, variants), dim=1)
        return self._at_reads(self._stream(x, self.n_layers, tap), packed)

    def _stream(self, x: Tensor, layer: int, tap: EditTap) -> Tensor:
        """Changes of the stream itself before a block (or after the last)."""
        if layer == 0:
            x = tap("embed", None, x)
        else:
            x = tap("resid_post", layer - 1, x)
        return tap("resid_pre", layer, x) if layer < self.n_layers else x

    def _prefix(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        kept = self.runs.base.cache[layer]
        assert kept is not None
        return kept[0][:, :, :length], kept[1][:, :, :length]

    def _call(self, block: Block, x: Tensor, tokens: Tokens, cache: object, gathered: dict, tap: Tap) -> Tensor:
        call: BlockCall = self.runs.base.calls[block.layer]
        with Hooks() as hooks, attach(hooks, self.model.anatomy, Inside(tap), [block]):
            quicken_activation(hooks, block, x.device)
            return call.on(x, tokens, cache, gathered)

    def _block(self, block: Block, x: Tensor, packed: Packed, lay: Layout, gathered: dict, tap: Tap) -> Tensor:
        k, v = (
            kept[:, None].expand(-1, lay.rows, -1, -1, -1).flatten(0, 1)
            for kept in self._prefix(block.layer, packed.prefix)
        )
        rows = x.reshape(len(x) * lay.rows, -1, x.shape[-1])
        return self._call(block, rows, lay.tokens, Behind(k, v), gathered, tap).reshape(x.shape)

    # -- the last block: only the read positions are wanted ----------------------------------------------------------

    def _worth_two_calls(self, packed: Packed, variants: Sequence[Variant]) -> bool:
        by_token = all(c.operation.by_token for v in variants for c in v.changes if c.layer == self.n_layers - 1)
        return by_token and 2 * len(packed.first) * self.reads.shape[1] <= packed.n_tokens

    def _last_block(self, x: Tensor, packed: Packed, variants: Sequence[Variant]) -> Tensor:
        """Two calls: all tokens until their keys and values are there; then the read positions with those."""
        block, n_prompts = self.blocks[-1], len(self.prompts)
        keep, whole = Keep(enough=True), tokens(packed, n_prompts, self.runs.base.batch, x.device)
        with contextlib.suppress(Enough):
            self.runs.base.calls[block.layer].on(x, whole, keep, {})
        assert keep.k is not None and keep.v is not None
        k, v = self._prefix(block.layer, packed.prefix)
        cache = Instead(torch.cat([k, keep.k], dim=2), torch.cat([v, keep.v], dim=2))
        few, chosen = only_reads(packed, self.reads, self.runs.base.batch, x.device)
        at = torch.from_numpy(chosen).to(x.device)
        y = x[torch.arange(n_prompts, device=x.device)[:, None], at]
        places = self._read_slots(packed)
        tap = EditTap(tasks_of(variants), places, self.runs)
        y = self._call(block, y, few, cache, {}, tap)
        y = tap("resid_post", block.layer, y)
        prompt, variant = np.arange(n_prompts)[:, None, None], np.arange(len(packed.first))[None, :, None]
        index = places.query[variant, prompt, self._positions(packed)]  # [prompt, variant, read]
        return y[torch.from_numpy(prompt), torch.from_numpy(index).to(y.device)]

    def _positions(self, packed: Packed) -> np.ndarray:  # [prompt, variant, read]
        return np.maximum(self.reads[:, None, :], packed.first[None, :, None])

    def _read_slots(self, packed: Packed) -> Slots:
        """Where the read positions lie among the queries of the last call; keys are where they were."""
        usual = slots(packed, len(self.prompts))
        position = self._positions(packed)
        n_prompts, n, n_reads = position.shape
        query = np.full(usual.query.shape, -1)
        index = np.broadcast_to(np.arange(n * n_reads).reshape(n, n_reads), position.shape)
        prompt, variant = np.arange(n_prompts)[:, None, None], np.arange(n)[None, :, None]
        query[variant, prompt, position] = index
        return Slots(usual.row, query, usual.key, usual.first)

    def _at_reads(self, x: Tensor, packed: Packed) -> Tensor:
        _, chosen = only_reads(packed, self.reads, self.runs.base.batch, x.device)
        at = torch.from_numpy(chosen).to(x.device)
        y = x[torch.arange(len(self.prompts), device=x.device)[:, None], at]
        return y.unflatten(1, (len(packed.first), -1))

    # -- the plain way ------------------------------------------------------------------------------------------------

    def forward(self, variants: Sequence[Variant]) -> Tensor:
        """As `climb`, by full passes over each variant's prompts; logits where the stream cannot be read."""
        n, n_prompts = len(variants), len(self.prompts)
        changes = [Task(i, c) for i, v in enumerate(variants) for c in v.all_changes]
        inner = [t for t in changes if t.change.site != "final_norm"]
        tap = EditTap(inner, whole_rows(n, n_prompts, self.prompts.n_positions), self.runs)
        last = Recorder([("resid_post", self.n_layers - 1)])
        reads_stream = self.model.reads_stream
        with steady(self.model.hf), Hooks() as hooks, attach(hooks, self.model.anatomy, tap):
            attach(hooks, self.model.anatomy, last, [self.blocks[-1]])
            logits = self.model.forward(together([self.prompts] * n), all_logits=not reads_stream)
        x = last.kept["resid_post", self.n_layers - 1] if reads_stream else logits
        x = x.unflatten(0, (n, n_prompts)).transpose(0, 1)
        at = torch.from_numpy(self.reads).to(x.device)[:, None].expand(-1, n, -1)
        return x.gather(2, at[..., None].expand(-1, -1, -1, x.shape[-1]))
