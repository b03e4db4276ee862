"""Where the sweeps of a longer piece of work keep their shards, so that it can be continued after an interruption.

    with keep_sweeps("ioi.partial"):
        study.run(model, settings)

The first sweep inside gets the folder's `001`, the second `002`, and so on: the same work makes the same sweeps in the
same order, and each checks its own manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import Path

_folders: ContextVar[Iterator[Path] | None] = ContextVar("folders", default=None)


@contextmanager
def keep_sweeps(folder: str | Path) -> Iterator[None]:
    """Sweeps inside, of this thread, are kept in numbered folders below this one."""
    numbered = (Path(folder) / f"{n:03d}" for n in count(1))
    token = _folders.set(numbered)
    try:
        yield
    finally:
        _folders.reset(token)


def next_folder() -> Path | None:
    """Where the sweep that begins now is kept; None where nothing is."""
    folders = _folders.get()
    return None if folders is None else next(folders)
