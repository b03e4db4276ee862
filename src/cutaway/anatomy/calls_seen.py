"""One run of a model, seen module by module: what went in, what came out, in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import Hooks, hidden


@dataclass
class SeenCall:
    """One call of a module. Tensors are copies: some families change them in place afterwards."""

    name: str
    module: nn.Module
    entered: int
    left: int = -1
    inputs: dict[int | str, Tensor] = field(default_factory=dict)  # by argument position or name
    output: Tensor | None = None

    @property
    def is_leaf(self) -> bool:
        return next(self.module.children(), None) is None

    @property
    def input(self) -> Tensor | None:
        return next(iter(self.inputs.values()), None)

    @property
    def matrix(self) -> Tensor | None:
        """The module's two-dimensional weight, if it has one: it may be a linear map."""
        weight = getattr(self.module, "weight", None)
        return weight if isinstance(weight, Tensor) and weight.dim() == 2 else None


def as_rows(x: Any, batch: int, length: int) -> Tensor | None:
    """A tensor that has one row per token, as [batch * length, features]; None for anything else."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
        return None
    if x.dim() >= 3 and x.shape[:2] == (batch, length):
        return x.reshape(batch * length, -1)
    if x.dim() == 4 and x.shape[0] == batch and x.shape[2] == length:  # [batch, head, position, d]
        return x.transpose(1, 2).reshape(batch * length, -1)
    if x.dim() == 2 and x.shape[0] == batch * length:
        return x
    if x.dim() in (2, 3) and x.shape[-2] == length and x.numel() == length * x.shape[-1]:  # the same for each prompt
        return x.reshape(1, length, -1).expand(batch, -1, -1).reshape(batch * length, -1)
    return None


class CallLog:
    """Notes the calls of modules while it is on; `where()` names the innermost module that runs and the moment."""

    def __init__(self, batch: int, length: int) -> None:
        self.batch, self.length = batch, length
        self.calls: list[SeenCall] = []
        self._stack: list[SeenCall] = []
        self._moment = 0
        self.on = True

    def tick(self) -> int:
        self._moment += 1
        return self._moment

    def where(self) -> tuple[str, int]:
        name = next((c.name for c in reversed(self._stack) if not c.is_leaf), "")
        return name, self.tick()

    def watch(self, hooks: Hooks, name: str, module: nn.Module) -> None:
        hooks.before(module, self._entering(name))
        hooks.after(module, self._leaving)

    def _entering(self, name: str) -> Callable[[nn.Module, tuple, dict], None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if not self.on:
                return
            call = SeenCall(name, module, self.tick())
            for key, value in [*enumerate(args), *kwargs.items()]:
                rows = as_rows(value, self.batch, self.length)
                if rows is not None:
                    call.inputs[key] = rows.detach().clone()
            self._stack.append(call)

        return hook

    def _leaving(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not self.on:
            return
        call = self._stack.pop()
        call.left = self.tick()
        rows = as_rows(hidden(output), self.batch, self.length)
        call.output = None if rows is None else rows.detach().clone()
        self.calls.append(call)  # in the order in which they end

    def take(self) -> list[SeenCall]:
        calls, self.calls = self.calls, []
        return calls


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal bit for bit, on whatever devices."""
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b.to(a.device))
