"""Many variants in one run: their suffixes one after the other in one sequence, or each in a row of its own.

In one sequence keys are the recorded prefix up to the largest first position, then the packed tokens. A query sees the
prefix before its variant's own first position, and its own variant's tokens; what the model's own mask forbids (the
future, a window, padding) is applied on top, at absolute positions. Variants that all begin at one position can be
rows: attention then does a fraction of the work, and the rest of a block sees the same tokens in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..calls import Tokens
from .editing import Slots
from .plan import as_rows


@dataclass(frozen=True)
class Packed:
    """The layout of some variants: per packed token its variant and absolute position, and how long the prefix is."""

    variant: np.ndarray  # [token]
    position: np.ndarray  # [token]
    start: np.ndarray  # [variant] where its tokens begin
    first: np.ndarray  # [variant]
    end: int
    prefix: int

    @property
    def n_tokens(self) -> int:
        return len(self.variant)


def pack(first: Sequence[int], end: int) -> Packed:
    """The layout of variants with these first positions, each running up to `end`."""
    lengths = [end - f for f in first]
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(int)
    variant = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(f, end) for f in first]) if len(lengths) else np.zeros(0, int)
    return Packed(variant, position, start, np.asarray(first, int), end, max(first, default=0))


def slots(packed: Packed, n_prompts: int) -> Slots:
    """Where the packed tokens lie, for edits."""
    n = len(packed.first)
    query = np.full((n, packed.end), -1)
    key = np.where(np.arange(packed.end) < packed.first[:, None], np.arange(packed.end), -1)
    query[packed.variant, packed.position] = np.arange(packed.n_tokens)
    key[packed.variant, packed.position] = packed.prefix + np.arange(packed.n_tokens)
    every = (n, n_prompts, packed.end)
    row = np.broadcast_to(np.arange(n_prompts), (n, n_prompts))
    return Slots(row, np.broadcast_to(query[:, None], every), np.broadcast_to(key[:, None], every), packed.first)


def tokens(packed: Packed, n_prompts: int, batch: int, device: torch.device) -> Tokens:
    """What a block is called on for all packed tokens."""
    sees_prefix = np.arange(packed.prefix) < packed.first[packed.variant][:, None]
    sees_packed = packed.variant[:, None] == packed.variant
    return _tokens(
        np.broadcast_to(packed.position, (n_prompts, packed.n_tokens)),
        np.broadcast_to(np.concatenate([sees_prefix, sees_packed], 1), (n_prompts, *_shape(packed))),
        packed,
        batch,
        device,
    )


def _shape(packed: Packed) -> tuple[int, int]:
    return packed.n_tokens, packed.prefix + packed.n_tokens


@dataclass(frozen=True)
class Layout:
    """How a block is called on packed tokens [prompt, token]: as how many rows of each prompt, and where each lies."""

    rows: int
    tokens: Tokens
    slots: Slots


def layout(packed: Packed, n_prompts: int, batch: int, device: torch.device, rows_from: int) -> Layout:
    """Rows where all variants have the same tokens and at least `rows_from` of them, otherwise one sequence.

    Every row has a copy of the prefix's keys and values, so a long one is not (`plan.as_rows`).
    """
    n, alike = len(packed.first), bool((packed.first == packed.prefix).all())
    if not alike or not as_rows(n, packed.prefix, packed.end - packed.prefix, rows_from):
        return Layout(1, tokens(packed, n_prompts, batch, device), slots(packed, n_prompts))
    one, every = pack(packed.first[:1].tolist(), packed.end), (n, n_prompts, packed.end)  # each packed by itself
    row = np.arange(n_prompts * n).reshape(n_prompts, n)  # prompts slowest
    prompt = torch.arange(n_prompts).repeat_interleave(n).to(device)
    alone = slots(one, n_prompts)
    return Layout(
        n,
        replace(tokens(one, n_prompts * n, batch, device), prompt=prompt),
        Slots(row.T, np.broadcast_to(alone.query, every), np.broadcast_to(alone.key, every), packed.first),
    )


def only_reads(packed: Packed, reads: np.ndarray, batch: int, device: torch.device) -> tuple[Tokens, np.ndarray]:
    """The last block's call on read positions only: `reads` [prompt, read].

    Returns the tokens and, for each, its index among the packed ones [prompt, variant * read]. A read before a
    variant's first position is the base's; its place is filled with the first token and not used."""
    n_prompts, n = len(reads), len(packed.first)
    position = np.maximum(reads[:, None, :], packed.first[None, :, None])  # [prompt, variant, read]
    chosen = (position - packed.first[None, :, None] + packed.start[None, :, None]).reshape(n_prompts, -1)
    variant = np.repeat(np.arange(n), reads.shape[1])
    sees_prefix = np.arange(packed.prefix) < packed.first[variant][:, None]
    sees_packed = variant[:, None] == packed.variant
    allowed = np.concatenate([sees_prefix, sees_packed], 1)
    allowed = np.broadcast_to(allowed, (n_prompts, *allowed.shape))
    return _tokens(position.reshape(n_prompts, -1), allowed, packed, batch, device), chosen


def _tokens(position: np.ndarray, allowed: np.ndarray, packed: Packed, batch: int, device: torch.device) -> Tokens:
    n_prompts = len(position)
    keys = np.concatenate([np.arange(packed.prefix), packed.position])

    def on(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x).to(device)

    return Tokens(
        prompt=torch.arange(n_prompts, device=device),
        queries=on(position),
        keys=on(np.broadcast_to(keys, (n_prompts, len(keys)))),
        allowed=on(allowed),
        batch=batch,
    )
