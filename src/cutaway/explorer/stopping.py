"""Giving up between any two of PyTorch's calls, whatever of the library is at work."""

from __future__ import annotations

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
        if self.unwanted():
            raise Cancelled
        return func(*args, **(kwargs or {}))
