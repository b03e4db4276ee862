"""A sweep (or part of a study) in progress on disk: a manifest, and a file for every finished shard (or the part).

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
    """What is finished of one sweep or part, in a folder that nobody else uses."""

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
        data = self.read(path.name, 10_000 + sum(8 * int(np.prod(shape)) for shape in like.values()))
        if data is None:
            return None
        from safetensors.numpy import load

        try:
            found = load(data)
        except Exception:  # noqa: BLE001 - a checksum can be made for anything
            damaged(path, "it holds no arrays")
            return None
        if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (s, np.float64) for k, s in like.items()}:
            damaged(path, "its arrays do not fit")
            return None
        return found

    def save(self, group: int, block: int, arrays: Arrays) -> None:
        """Keep a finished shard.

        Raises:
            NoRoom: the disk is full. BadInput: the folder cannot be written to.
        """
        from safetensors.numpy import save

        self.write(self._path(group, block).name, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))

    def read(self, name: str, most: int) -> bytes | None:
        """What was written under a name, up to `most` bytes. None if it is not there, or damaged."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                data = file.read(most + 33)
        except FileNotFoundError:
            return None
        except OSError as error:
            damaged(path, error.strerror or str(error))
            return None
        if len(data) > most + 32 or data[-32:] != self._digest(path, data[:-32]):
            damaged(path, "its checksum does not fit")
            return None
        return data[:-32]

    def write(self, name: str, data: bytes) -> None:
        """Keep some bytes with their checksum.

        Raises:
            NoRoom: the disk is full. BadInput: the folder cannot be written to.
        """
        path = self.folder / name
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


def damaged(path: Path, why: str) -> None:
    """Tell of a file that is not used."""
    print(f"cutaway: {path} is damaged ({why}); that part is run again.", file=sys.stderr)


@contextmanager
def opened(folder: Path, facts: Facts, budget: int) -> Iterator[Store]:
    """The store of a sweep or part, begun or continued; nobody else can open it inside.

    Raises:
        BadInput: it is in use, holds another one (the message names what differs), or is no store.
        NoRoom: the disk is full.
    """
    with exclusive(folder):
        if (folder / MANIFEST).is_file():
            store = Store(folder, facts, _continued(folder, facts, budget))
            store._tidy()
        else:
            others = [p.name for p in folder.iterdir() if p.name not in NAMES and not p.name.endswith(UNDONE)]
            if others:
                raise BadInput(f"{folder} is a folder with other things in it. Name a new or an empty one as store.")
            store = Store(folder, facts, [budget])
            store._write_manifest()
        yield store


def _continued(folder: Path, facts: Facts, budget: int) -> list[int]:
    """The budgets of a sweep in progress, if it is the same sweep."""
    whole = read_json(folder / MANIFEST)
    then, budgets = whole.get("facts"), whole.get("budgets")
    if whole.get("kind") != KIND or whole.get("schema_version") != SCHEMA_VERSION or not isinstance(then, dict):
        raise BadInput(f"{folder / MANIFEST} is no manifest of a sweep that this version can continue.")
    unlike = differences(then, facts)
    if unlike:
        what = "part of a study" if "part" in facts else "sweep"
        raise BadInput(
            f"{folder} holds another {what}, and what it has cannot be used here: {'; '.join(unlike)}. Repeat the call "
            "as it was, choose another folder, or delete this one to begin anew."
        )
    if not _halved(budgets, budget):
        raise BadInput(f"{folder / MANIFEST} has no budgets of this sweep. Delete {folder} to begin anew.")
    return budgets


def _halved(budgets: Any, first: int) -> TypeGuard[list[int]]:
    """Whether these are the budgets of a sweep: what was asked for, and smaller ones where memory ran out."""
    if not isinstance(budgets, list) or not budgets or not all(type(b) is int and b > 0 for b in budgets):
        return False
    return budgets[0] == first and all(after == before // 2 for before, after in pairwise(budgets))
