"""Activation functions in one step, or on a few rows at a time: either way each number crosses the memory bus once.

Families write theirs as up to eight elementwise steps. On a whole chunk each step goes to memory and back. Where
measuring in float64 finds that a function is one PyTorch has a kernel for, that kernel takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..anatomy import Block
from ..hooks import Hooks

SLICE = 2**18
"""Numbers that an activation function is given at once on a CPU: 1 MB in float32."""

KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu, tanh form": partial(functional.gelu, approximate="tanh"),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}

SAME = 1e-10
"""How far a kernel may be from a function, in float64: a thousandth of what float32 can tell apart."""

_found: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def quicken_activation(hooks: Hooks, block: Block, device: torch.device) -> None:
    """While the hooks are on, the block's activation function is computed in one step, or on its rows in slices.

    In slices the numbers are the same; in one step they differ by the rounding of the steps that were left out. In
    half precision that rounding would show, so there it is slices.
    """
    if block.mlp is None or block.mlp.act is None or device.type != "cpu":
        return
    act = block.mlp.act
    name = kernel_of(act)
    hooks.instead(act, in_slices(act.forward) if name is None else in_one_step(act.forward, KERNELS[name]))


def kernel_of(act: nn.Module) -> str | None:
    """Which of `KERNELS` a module computes, measured once a module; None where it is none of them."""
    if act not in _found:
        _found[act] = _measured(act)
    return _found[act]


def _measured(act: nn.Module) -> str | None:
    far = torch.tensor([30.0, 1e2, 1e3, 1e4], dtype=torch.float64)
    x = torch.cat([torch.linspace(-20, 20, 3996, dtype=torch.float64), far, -far]).view(7, -1)
    with torch.no_grad():
        try:
            y = act.forward(x.clone())  # some write into what they are given
        except Exception:  # noqa: BLE001 - a module that takes no float64, or more than one argument
            return None
        if not isinstance(y, Tensor) or y.shape != x.shape:
            return None
        return next(
            (name for name, kernel in KERNELS.items() if ((kernel(x) - y).abs() / (1 + x.abs())).max() <= SAME), None
        )


def in_one_step(forward: Callable[..., Any], kernel: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A function by its kernel, where that makes no difference that could be seen."""

    def quick(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if len(args) == 1 and not kwargs else None
        plain = not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64) or x.requires_grad
        return sliced(*args, **kwargs) if plain else kernel(x)  # type: ignore[arg-type]

    sliced = in_slices(forward)
    return quick


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
