"""Freed memory kept at hand while waves run.

A chunk's activations are some ten megabytes each, allocated and freed thousands of times. Left to itself, glibc hands
such blocks back to the system and is given them again page by page, each page cleared first: 3 to 5 % of a sweep, and
at times far more. It is told, for the rest of the process, to keep up to `KEPT` bytes of an arena. Other allocators are
left as they are, and so is glibc's where its settings were chosen in the environment.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

KEPT = 256 * 2**20
LARGEST = 32 * 2**20  # glibc takes no larger threshold
_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h


@cache
def keep_freed_memory() -> bool:
    """Whether the allocator was told."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP, LARGEST)) and bool(mallopt(_TRIM, KEPT))


__all__ = ["keep_freed_memory"]
