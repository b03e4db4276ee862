"""Freed memory: kept at hand while waves run, given back between parts.

A chunk's activations are some ten megabytes each, allocated and freed thousands of times. Left to itself, glibc hands
such blocks back to the system and is given them again page by page, each page cleared first: 3 to 5 % of a sweep, and
at times far more. It is told, for the rest of the process, to keep up to `KEPT` bytes of an arena. Other allocators are
left as they are, and so is glibc's where its settings were chosen in the environment.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

KEPT = 256 * 2**20
LARGEST = 32 * 2**20  # glibc takes no larger threshold
_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h


@cache
def keep_freed_memory() -> bool:
    """Whether the allocator was told."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_MMAP, LARGEST)) and bool(mallopt(_TRIM, KEPT))


def give_back_freed() -> None:
    """Freed memory goes back to the system. Parts free blocks of megabytes among small ones that stay, and glibc would
    keep as much again as is alive."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_glibc(name: str) -> Any:
    """A function of glibc's allocator; None where it is another one."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


__all__ = ["give_back_freed", "keep_freed_memory"]
