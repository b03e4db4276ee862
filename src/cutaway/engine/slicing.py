"""Activation functions on a few rows at a time, so that their steps stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..anatomy import Block
from ..hooks import Hooks

SLICE = 2**18
"""Numbers that an activation function is given at once on a CPU: 1 MB in float32."""


def slice_activation(hooks: Hooks, block: Block, device: torch.device) -> None:
    """While the hooks are on, the block's activation function sees its rows in slices; the numbers are the same.

    Families write theirs as up to eight elementwise steps. On a whole chunk each step goes to memory and back.
    """
    if block.mlp is not None and block.mlp.act is not None and device.type == "cpu":
        hooks.instead(block.mlp.act, in_slices(block.mlp.act.forward))


def in_slices(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of rows [..., width], called on some of them after the other."""

    def sliced(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(x, Tensor) or x.dim() < 2 or x.numel() <= SLICE or x.requires_grad:
            return forward(*args, **kwargs)
        rows = x.flatten(0, -2)
        parts = rows.split(max(1, SLICE // x.shape[-1]))
        new = torch.empty_like(rows)
        for old, place in zip(parts, new.split(len(parts[0])), strict=True):
            place.copy_(forward(old))
        return new.view(x.shape)

    return sliced
