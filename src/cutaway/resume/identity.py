"""A hash of what a sweep is made of: tensors, prompts, operations, functions. Equal values have equal hashes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np
import torch

from ..edits.cells import Cell, Change
from ..prompts import Prompts

DEPTH = 12
"""How deep values inside values are followed."""


class Identity:
    """Hashes values, each object once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}  # the object is kept, so that its id stays its own

    def of(self, value: Any, depth: int = DEPTH) -> bytes:
        """32 bytes that tell a value. Objects of unknown kinds count by their type alone."""
        if id(value) not in self._known or depth < DEPTH:
            found = hashlib.sha256(b"\x00".join(self._parts(value, depth))).digest()
            if depth < DEPTH:
                return found
            self._known[id(value)] = (value, found)
        return self._known[id(value)][1]

    def _parts(self, value: Any, depth: int) -> Iterable[bytes]:
        yield type(value).__qualname__.encode()
        if depth == 0:
            return
        if isinstance(value, Prompts):
            yield value.hash().encode()
        elif isinstance(value, torch.Tensor):
            flat = value.detach().to("cpu").contiguous()
            yield f"{flat.dtype} {tuple(flat.shape)}".encode()
            yield flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        elif isinstance(value, np.ndarray):
            yield f"{value.dtype} {value.shape}".encode()
            yield value.tobytes()
        elif isinstance(value, str | int | float | complex | bytes | bool | None | np.generic):
            yield repr(value).encode()
        elif isinstance(value, CodeType):
            yield value.co_code
            yield repr((value.co_names, value.co_varnames, value.co_freevars)).encode()
            yield from (self.of(c, depth - 1) for c in value.co_consts)
        elif isinstance(value, set | frozenset):
            yield from sorted(self.of(v, depth - 1) for v in value)
        elif isinstance(value, Mapping):
            yield from (self.of(x, depth - 1) for item in value.items() for x in item)
        elif isinstance(value, Sequence):
            yield from (self.of(v, depth - 1) for v in value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from (self.of(getattr(value, f.name), depth - 1) for f in dataclasses.fields(value))
        elif isinstance(value, functools.partial):
            yield from (self.of(v, depth - 1) for v in (value.func, value.args, value.keywords))
        elif hasattr(value, "__code__"):
            yield f"{value.__module__}.{value.__qualname__}".encode()
            inside = [_content(cell) for cell in value.__closure__ or ()]
            yield from (
                self.of(v, depth - 1) for v in (value.__code__, value.__defaults__, value.__kwdefaults__, inside)
            )
        elif callable(value) and hasattr(type(value).__call__, "__code__"):
            yield from (self.of(v, depth - 1) for v in (type(value).__call__, getattr(value, "__dict__", None)))
        else:
            yield type(value).__module__.encode()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def hash_of(value: Any) -> str:
    """16 hexadecimal digits that tell a value."""
    return Identity().of(value).hex()[:16]


def hash_of_cells(cells: Sequence[Cell]) -> str:
    """As `hash_of`, of everything a grid's cells change: places, vectors, subspaces, scales, sources, functions."""
    identity, digest = Identity(), hashlib.sha256()
    for cell in cells:
        digest.update(b"cell")
        for change in cell:
            digest.update(b"".join(identity.of(getattr(change, f.name)) for f in dataclasses.fields(Change)))
    return digest.hexdigest()[:16]
