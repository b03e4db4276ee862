"""A sweep in progress on disk: a manifest, and a file for every finished shard.

A shard is the block of chunks of a group of prompts that the plan names. Its file is a safetensors blob and a SHA-256
of that blob, the manifest and the shard's name, so that a file that was cut short, altered, renamed or brought from
elsewhere is never used: it is reported and its shard is run again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ..disk import UNDONE, cannot_write, read_json, replace_file
from ..errors import BadInput
from ..saving import SCHEMA_VERSION
from .locking import NAMES, exclusive
from .manifest import Facts, differences

MANIFEST, SUFFIX = "manifest.json", ".shard"
KIND = "sweep in progress"
_NAME = re.compile(r"b(\d+)-g\d+-c\d+\.shard")

Arrays = dict[str, np.ndarray]


class Store:
    """The shards of one sweep in a folder that nobody else uses."""

    def __init__(self, folder: Path, facts: Facts, budgets: list[int]) -> None:
        self.folder, self.facts, self.budgets = folder, facts, budgets

    @property
    def budget(self) -> int:
        """Tokens that travel together now: what was asked for, or less since memory ran out."""
        return self.budgets[-1]

    def split(self, budget: int) -> None:
        """Memory ran out: begin again with a smaller budget, and keep in mind that it was so."""
        self.budgets.append(budget)
        self._write_manifest()
        self._tidy()

    def load(self, group: int, block: int, like: Mapping[str, tuple[int, ...]]) -> Arrays | None:
        """A finished shard: float64 arrays of the shapes in `like`. None if it is not there, or damaged."""
        path = self._path(group, block)
        most = 10_000 + sum(8 * int(np.prod(shape)) for shape in like.values())
        try:
            with path.open("rb") as file:
                data = file.read(most + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            _report(path, error.strerror or str(error))
            return None
        if len(data) > most or data[-32:] != self._digest(path, data[:-32]):
            _report(path, "its checksum does not fit")
            return None
        from safetensors.numpy import load

        try:
            found = load(data[:-32])
        except Exception:  # noqa: BLE001 - a checksum can be made for anything
            _report(path, "it holds no arrays")
            return None
        if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (s, np.float64) for k, s in like.items()}:
            _report(path, "its arrays do not fit")
            return None
        return found

    def save(self, group: int, block: int, arrays: Arrays) -> None:
        """Keep a finished shard.

        Raises:
            NoRoom: the disk is full. BadInput: the folder cannot be written to.
        """
        from safetensors.numpy import save

        path = self._path(group, block)
        data = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        try:
            replace_file(path, data + self._digest(path, data))
        except OSError as error:
            raise cannot_write(path, error) from None

    # -- files ----------------------------------------------------------------------------------------------------

    def _path(self, group: int, block: int) -> Path:
        return self.folder / f"b{self.budget}-g{group:05d}-c{block:05d}{SUFFIX}"

    def _digest(self, path: Path, data: bytes) -> bytes:
        known = json.dumps([self.facts, self.budgets, path.name], sort_keys=True)
        return hashlib.sha256(known.encode() + b"\n" + data).digest()

    def _write_manifest(self) -> None:
        whole = {"schema_version": SCHEMA_VERSION, "kind": KIND, "facts": self.facts, "budgets": self.budgets}
        path = self.folder / MANIFEST
        try:
            replace_file(path, (json.dumps(whole, indent=1) + "\n").encode())
        except OSError as error:
            raise cannot_write(path, error) from None

    def _tidy(self) -> None:
        """Away with what died while it was written, and with shards of a larger budget."""
        for path in self.folder.iterdir():
            old = _NAME.fullmatch(path.name)
            if path.name.endswith(UNDONE) or (old and int(old[1]) != self.budget):
                with suppress(OSError):
                    path.unlink()


def _report(path: Path, why: str) -> None:
    print(f"cutaway: {path} is damaged ({why}); that part is run again.", file=sys.stderr)


@contextmanager
def opened(folder: Path, facts: Facts, budget: int) -> Iterator[Store]:
    """The store of a sweep, begun or continued; nobody else can open it inside.

    Raises:
        BadInput: it is in use, holds another sweep (the message names what differs), or is no store.
        NoRoom: the disk is full.
    """
    with exclusive(folder):
        if (folder / MANIFEST).is_file():
            store = Store(folder, facts, _continued(folder, facts))
            store._tidy()
        else:
            others = [p.name for p in folder.iterdir() if p.name not in NAMES and not p.name.endswith(UNDONE)]
            if others:
                raise BadInput(f"{folder} is a folder with other things in it. Name a new or an empty one as store.")
            store = Store(folder, facts, [budget])
            store._write_manifest()
        yield store


def _continued(folder: Path, facts: Facts) -> list[int]:
    """The budgets of a sweep in progress, if it is the same sweep."""
    whole = read_json(folder / MANIFEST)
    then, budgets = whole.get("facts"), whole.get("budgets")
    if whole.get("kind") != KIND or whole.get("schema_version") != SCHEMA_VERSION or not isinstance(then, dict):
        raise BadInput(f"{folder / MANIFEST} is no manifest of a sweep that this version can continue.")
    unlike = differences(then, facts)
    if unlike:
        raise BadInput(
            f"{folder} holds another sweep, and what it has cannot be used here: {'; '.join(unlike)}. Repeat the call "
            "as it was, choose another folder, or delete this one to begin anew."
        )
    if not _halved(budgets, facts["budget"]):
        raise BadInput(f"{folder / MANIFEST} has no budgets of this sweep. Delete {folder} to begin anew.")
    return budgets


def _halved(budgets: Any, first: Any) -> TypeGuard[list[int]]:
    """Whether these are the budgets of a sweep: what was asked for, and smaller ones where memory ran out."""
    if not isinstance(budgets, list) or not budgets or not all(type(b) is int and b > 0 for b in budgets):
        return False
    return budgets[0] == first and all(after == before // 2 for before, after in pairwise(budgets))
