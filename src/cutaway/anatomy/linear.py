"""Linear maps: how a module's matrix is stored, and which rows of a projection belong to which head."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .calls_seen import SeenCall
from .compare import relative_error
from .parts import HeadMap, Linear


def measure_linear(call: SeenCall) -> tuple[Linear, float]:
    """The call's module as a `Linear`, with its relative error on the call's own rows."""
    best: tuple[Linear, float] = (Linear(call.name, call.module, True), math.inf)
    matrix, x, y = call.matrix, call.input, call.output
    if matrix is None or x is None or y is None:
        return best
    for transposed in (True, False):
        linear = Linear(call.name, call.module, transposed)
        if linear.shape != (x.shape[-1], y.shape[-1]):
            continue
        answer = x.double().cpu() @ linear.weight.detach().double().cpu()
        if linear.bias is not None:
            answer = answer + linear.bias.detach().double().cpu()
        error = relative_error(answer, y)
        if error < best[1]:
            best = (linear, error)
    return best


def find_head_map(
    target: Tensor, projections: list[tuple[Linear, Tensor]], slack: float
) -> tuple[HeadMap | None, float]:
    """Where the columns of `target` [rows, head, d_head] come from among the projections' outputs [rows, out].

    Each column is matched to the output column of the same direction (a constant factor is allowed: some families
    scale q), and a head's columns must lie at one regular step. Returns the map and its relative error.
    """
    rows, n_heads, d_head = target.shape
    wanted = _unit(target.reshape(rows, -1).double().cpu())
    best: tuple[HeadMap | None, float] = (None, math.inf)
    for linear, output in projections:
        if output.shape[-1] < n_heads * d_head:
            continue
        have = _unit(output.double().cpu())
        index = (wanted.T @ have).argmax(1).reshape(n_heads, d_head)
        steps = (index[:, 1:] - index[:, :-1]).flatten()
        step = int(steps.mode().values) if len(steps) else 1
        starts = (index - step * torch.arange(d_head)).mode(1).values
        regular = starts[:, None] + step * torch.arange(d_head)
        if int(regular.min()) < 0 or int(regular.max()) >= output.shape[-1]:
            continue
        error = relative_error(have[:, regular.flatten()], wanted)
        if error < best[1]:
            best = (HeadMap(linear, tuple(starts.tolist()), step, d_head), error)
    return best if best[1] <= slack else (None, best[1])


def _unit(x: Tensor) -> Tensor:
    """Columns scaled to length one (columns of zeros stay zero)."""
    return x / torch.linalg.vector_norm(x, dim=0, keepdim=True).clamp_min(1e-30)
