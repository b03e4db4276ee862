"""Hooks and stand-ins that are always taken off again, and what a module's output is."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches or changes what a module, or one in it, gets or puts out."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def hidden(output: Any) -> Tensor:
    """The tensor of a module's output. Families differ: a plain tensor, or a tuple whose first entry it is."""
    return output[0] if isinstance(output, tuple | list) else output


def with_hidden(output: Any, new: Tensor) -> Any:
    """`output` with its tensor replaced, in the shape (tensor, tuple, list) that the family uses."""
    return type(output)((new, *output[1:])) if isinstance(output, tuple | list) else new


class Hooks:
    """A set of forward hooks and stand-ins that lives as long as a `with` block, whatever happens inside it."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def before(self, module: nn.Module, hook: Callable[[nn.Module, tuple, dict], Any]) -> None:
        """Call `hook(module, args, kwargs)` before the module; it may return new `(args, kwargs)`."""
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module: nn.Module, hook: Callable[[nn.Module, tuple, dict, Any], Any]) -> None:
        """Call `hook(module, args, kwargs, output)` after the module; it may return a new output."""
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def instead(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let a module answer with `forward` instead of its own; its hooks still run around it."""
        self._handles.append(_Instead(module, forward))

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()


class _Instead:
    """A forward of one instance, which hides its class's (or an earlier one of the instance) until it is removed."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.own = vars(module)
        self.before = self.own.get("forward")
        self.own["forward"] = forward

    def remove(self) -> None:
        if self.before is None:
            del self.own["forward"]
        else:
            self.own["forward"] = self.before


def first_tensor(args: tuple, kwargs: dict) -> Tensor | None:
    """The first tensor among a call's arguments: the hidden states, by position or by name."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value
    return None


def replace_first_tensor(args: tuple, kwargs: dict, new: Tensor) -> tuple[tuple, dict]:
    """The call's arguments with the tensor that `first_tensor` finds replaced."""
    for i, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            return (*args[:i], new, *args[i + 1 :]), kwargs
    for key, value in kwargs.items():
        if isinstance(value, torch.Tensor):
            return args, {**kwargs, key: new}
    raise ValueError("the call has no tensor argument")
