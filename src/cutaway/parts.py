"""Many prompts in parts: so many at a time that memory does not grow with their number.

A part's size follows from a stated number of tokens, never from free memory, so that the same call gives the same bits;
only where memory runs out it is halved, and the work goes on with the prompts that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from .heap import give_back_freed
from .prompts import Prompts

TOKENS = 4096
"""Tokens run at once."""
LOGITS = 2**24
"""Logits held at once: 64 MB in float32."""

Made = TypeVar("Made")


def at_once(prompts: Prompts, tokens: int = TOKENS) -> int:
    """How many prompts have that many tokens together; at least one."""
    return max(1, tokens // prompts.n_positions)


def logits_at_once(vocab: int) -> int:
    """How many rows of that many logits are held at once; at least one."""
    return max(1, LOGITS // vocab)


def slices(n: int, size: int) -> Iterator[slice]:
    """n rows, `size` at a time in order."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def in_parts(n: int, size: int, work: Callable[[list[int]], Made]) -> Iterator[tuple[list[int], Made]]:
    """(indices, work(indices)) of n prompts, `size` at a time in order.

    Where memory runs out the size is halved for all that is left; what was made before stays. One prompt alone that
    does not fit raises what the allocator raised.
    """
    start = 0
    while start < n:
        some = list(range(start, min(start + size, n)))
        try:
            made = work(some)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(some) == 1:
                raise
            size = len(some) // 2
            continue
        start += len(some)
        yield some, made
        del made  # before the next part is made
        if len(some) < n:
            give_back_freed()


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: PyTorch's on a GPU or on the CPU, or NumPy's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


__all__ = ["LOGITS", "TOKENS", "at_once", "in_parts", "logits_at_once", "out_of_memory", "slices"]
