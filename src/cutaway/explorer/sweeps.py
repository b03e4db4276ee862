"""The sweeps behind one answer, an edit's and its controls', with one progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import sweep
from ..edits.cells import Edit
from ..prompts import Prompts

if TYPE_CHECKING:
    from ..model import Model

Progress = Callable[[int, int], None]


def sweeps(
    model: Model, base: Prompts, edits: Mapping[str, Edit], metric: str | Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Each edit's sweep by its name, one after the other; `progress` hears of the cells of all."""
    sizes = {name: len(edit.compile(model, base).cells) for name, edit in edits.items()}
    whole, before, found = sum(sizes.values()), 0, {}
    for name, edit in edits.items():

        def told(done: int, _: int, before: int = before) -> None:
            progress(before + done, whole)

        found[name] = sweep(model, base, edit, metric=metric, progress=told)
        before += sizes[name]
    return found
