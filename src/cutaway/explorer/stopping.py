"""Giving up between any two of PyTorch's calls, whatever is at work: the library, or the loading of a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

from .telling import Cancelled


class Stoppable(TorchFunctionMode):
    """Inside, every call of PyTorch in this thread asks first whether the answer is still wanted.

    Raises:
        Cancelled: it is not.
    """

    def __init__(self, unwanted: Callable[[], bool]) -> None:
        super().__init__()
        self.unwanted = unwanted

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.unwanted() and not _importing():
            raise Cancelled
        return func(*args, **(kwargs or {}))


def _importing() -> bool:
    """Whether a module is being imported by this thread: one that is left half-way could not be imported again."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and getattr(frame.f_globals.get("__spec__"), "_initializing", False):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
