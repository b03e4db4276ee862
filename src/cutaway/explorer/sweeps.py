"""The sweeps behind one answer, an edit's and its controls', with one progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import sweep
from ..edits.cells import Edit
from ..prompts import Prompts
from .telling import Teller

if TYPE_CHECKING:
    from ..model import Model


def sweeps(
    model: Model, base: Prompts, edits: Mapping[str, Edit], metric: str | Sequence[str], tell: Teller
) -> dict[str, Any]:
    """Each edit's sweep by its name, one after the other; `tell` hears of the cells of all."""
    sizes = {name: len(edit.compile(model, base).cells) for name, edit in edits.items()}
    whole, before, found = sum(sizes.values()), 0, {}
    for name, edit in edits.items():

        def told(done: int, _: int, before: int = before) -> None:
            tell(before + done, whole)

        found[name] = sweep(model, base, edit, metric=metric, progress=told)
        before += sizes[name]
    return found
