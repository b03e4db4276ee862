"""A hash of what a sweep is made of: tensors, prompts, operations, functions. Equal values have equal hashes."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from ..edits.cells import Cell, Change
from ..fingerprints import digest
from ..prompts import Prompts

DEPTH = 12
"""How deep values inside values are followed."""


class Identity:
    """Hashes values, each object once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}  # the object is kept, so that its id stays its own
        self._open: list[int] = []  # functions and classes being hashed: those that call each other are read once

    def of(self, value: Any, depth: int = DEPTH) -> bytes:
        """32 bytes that tell a value. Objects of unknown kinds count by their type alone."""
        code = isinstance(value, FunctionType | type)
        if code and id(value) in self._open:
            return f"{value.__qualname__}, {self._open.index(id(value))}".encode()
        if id(value) in self._known and (code or depth == DEPTH):
            return self._known[id(value)][1]
        self._open.append(id(value))
        found = hashlib.sha256(b"\x00".join(self._parts(value, depth))).digest()
        self._open.pop()
        if code or depth == DEPTH:
            self._known[id(value)] = (value, found)
        return found

    def _parts(self, value: Any, depth: int) -> Iterable[bytes]:
        yield type(value).__qualname__.encode()
        if depth == 0:
            return
        if isinstance(value, Prompts):
            yield value.hash().encode()
        elif isinstance(value, torch.Tensor):
            yield digest(value)
        elif isinstance(value, np.ndarray):
            yield f"{value.dtype} {value.shape}".encode()
            yield value.tobytes() if value.dtype.kind != "O" else self.of(value.tolist(), depth - 1)
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
            yield self.of(type(value), depth - 1)
            yield from (self.of(getattr(value, f.name), depth - 1) for f in dataclasses.fields(value))
        elif isinstance(value, functools.partial):
            yield from (self.of(v, depth - 1) for v in (value.func, value.args, value.keywords))
        elif isinstance(value, ModuleType):
            yield value.__name__.encode() + _source(value)
        elif inspect.ismethod(value):
            yield from (self.of(v, depth - 1) for v in (value.__func__, getattr(value.__self__, "__dict__", None)))
        elif isinstance(value, FunctionType):
            yield f"{value.__module__}.{value.__qualname__}".encode()
            inside = [_content(cell) for cell in value.__closure__ or ()]
            parts = (value.__code__, value.__defaults__, value.__kwdefaults__, inside, dict(_read_globals(value)))
            yield from (self.of(v, depth - 1) for v in parts)
        elif isinstance(value, type):
            yield f"{value.__module__}.{value.__qualname__}".encode()
            if not _of_a_library(value.__module__):
                own = (v for v in vars(value).values() if isinstance(v, FunctionType | staticmethod | classmethod))
                yield from (self.of(getattr(v, "__func__", v), depth - 1) for v in own)
        elif callable(value) and hasattr(type(value).__call__, "__code__"):
            yield from (self.of(v, depth - 1) for v in (*type(value).__mro__[:-1], getattr(value, "__dict__", None)))
        else:
            yield f"{type(value).__module__} {getattr(value, '__qualname__', '')}".encode()


def _read_globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a user's function reads; a library's functions are told by their code and its version."""
    if _of_a_library(function.__module__):
        return
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _global_names(code: CodeType) -> set[str]:
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_global_names(c) for c in code.co_consts if isinstance(c, CodeType)))


_LIBRARIES = {Path(p) for p in (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), site.getusersitepackages())}
_HERE = __name__.partition(".")[0]


def _of_a_library(module: str) -> bool:
    """Whether a module is installed rather than a user's own."""
    if module.partition(".")[0] == _HERE:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module in sys.builtin_module_names
    return any(folder in Path(file).parents for folder in _LIBRARIES)


def _source(module: ModuleType) -> bytes:
    """The text of a user's own module, of which any name may be read; nothing of a library's."""
    if _of_a_library(module.__name__) or not module.__file__:
        return b""
    try:
        return Path(module.__file__).read_bytes()
    except OSError:
        return b""


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
