"""The floor of a sweep: the matrix products of its plan and nothing else, with its row counts and the model's weights.

No sweep of unmodified modules can be faster; what one takes beyond is attention, elementwise work, copies and Python.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

import cutaway
from cutaway.anatomy import Block
from cutaway.engine.following import parting
from cutaway.engine.plan import Plan, Variant

Product = tuple[int, Tensor]
"""Rows, and the matrix [in, out] they are multiplied by."""


def matrices(module: nn.Module, without: nn.Module | None = None) -> list[Tensor]:
    """The matrices of the linear maps in a module; `without` those of one of its parts."""
    left_out = set() if without is None else set(without.modules())
    linear = [m for m in module.modules() if m not in left_out and getattr(getattr(m, "weight", None), "ndim", 0) == 2]
    return [m.weight.detach().T if isinstance(m, nn.Linear) else m.weight.detach() for m in linear]


def products(
    model: cutaway.Model, plan: Plan, base: cutaway.Prompts, sources: Sequence[cutaway.Prompts]
) -> list[Product]:
    """Every product of a planned sweep that reads one position, in the order in which they are run."""
    blocks = model.anatomy.blocks
    recorded = [int(base.lengths.sum())] + [int((base.lengths - parting(base, s)).sum()) for s in sources]
    found = [(rows, w) for rows in recorded for b in blocks for w in matrices(b.module)]
    for group in plan.groups:
        for chunk in plan.chunks:
            found += _wave(blocks, [plan.variants[i] for i in chunk], group, plan.end)
    return [(rows, w) for rows, w in found if rows]


def _wave(blocks: Sequence[Block], variants: Sequence[Variant], group: np.ndarray, end: int) -> Iterator[Product]:
    last = len(blocks) - 1
    for block in blocks:
        halfway = [v for v in variants if v.inside and not v.adds and v.entry == block.layer + 1]
        if halfway:
            assert block.attention is not None
            reruns = [v.reruns(group, end).sum(1) for v in halfway]
            rows = int(sum((np.minimum(r, 1) if block.layer == last else r).sum() for r in reruns))
            yield from ((rows, w) for w in matrices(block.module, block.attention.module))
        suffixes = [end - v.first for v in variants if v.entry <= block.layer]
        rows, reads = len(group) * sum(suffixes), len(group) * len(suffixes)
        if block.layer == last and 2 * reads <= rows:
            yield from ((rows, w) for w in _keys(block))
            rows = reads
        yield from ((rows, w) for w in matrices(block.module))


def _keys(block: Block) -> list[Tensor]:
    """What keys and values come from: two maps, or one for both."""
    assert block.attention is not None and block.attention.k is not None and block.attention.v is not None
    modules = {id(m.linear.module): m.linear.module for m in (block.attention.k, block.attention.v)}
    return [w for module in modules.values() for w in matrices(module)]


def flops(found: Sequence[Product]) -> int:
    return sum(2 * rows * weight.numel() for rows, weight in found)


def seconds(found: Sequence[Product]) -> float:
    """How long these products take, one after the other."""
    weight = found[0][1]
    most = max(rows for rows, _ in found)
    inputs = {n: torch.randn(most, n, device=weight.device, dtype=weight.dtype) for n in {w.shape[0] for _, w in found}}
    start = time.perf_counter()
    for rows, w in found:
        inputs[w.shape[0]][:rows] @ w
    if weight.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start
