"""Where the sweeps and parts of a longer piece of work are kept, so that it can be continued after an interruption.

    with keep_sweeps("ioi.partial"):
        study.run(model, settings)

The first sweep or part (`parts.Parts`) inside gets the folder's `001`, the second `002`, and so on: the same work makes
the same ones in the same order, and each checks its own manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import Model


class _Work:
    """Numbered folders, and the models whose weights were read."""

    def __init__(self, folder: Path, models: list[Model]) -> None:
        self.folders = (folder / f"{n:03d}" for n in count(1))
        self.models = models


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


@contextmanager
def keep_sweeps(folder: str | Path) -> Iterator[None]:
    """Sweeps and parts inside, of this thread, are kept in numbered folders below this one."""
    outer = _work.get()
    token = _work.set(_Work(Path(folder), [] if outer is None else outer.models))
    try:
        yield
    finally:
        _work.reset(token)


def next_folder() -> Path | None:
    """Where the sweep or part that begins now is kept; None where nothing is."""
    work = _work.get()
    return None if work is None else next(work.folders)


def fingerprint_of(model: Model) -> str:
    """The hash of a model's weights, with every one of them read; inside `keep_sweeps` once, and then where PyTorch
    knows of a change."""
    work = _work.get()
    if work is None or not any(seen is model for seen in work.models):
        if work is not None:
            work.models.append(model)
        return model.weights_hash()
    return model.fingerprint
