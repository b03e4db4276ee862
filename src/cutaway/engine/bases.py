"""The base run of the last sweep, kept for sweeps and edited runs of the same prompts that follow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

from ..prompts import Prompts
from .runs import Key, Run, inner

if TYPE_CHECKING:
    from ..anatomy import Anatomy
    from ..model import Model


class LastBase:
    """At most one base run: what a sweep holds anyway. It is that of an anatomy, which is another where a model was
    altered."""

    def __init__(self) -> None:
        self._kept: tuple[Anatomy, Prompts, Any, Run] | None = None

    def keep(self, model: Model, prompts: Prompts, rules: Any, run: Run) -> None:
        """Have a run in the place of the one before; of one that ran beside others nothing, as it rounds otherwise."""
        self._kept = (model.anatomy, prompts, rules, run) if run.batch == len(prompts) else None

    def find(
        self, model: Model, prompts: Prompts, wanted: Iterable[Key], rules: Any, answers: Iterable[int]
    ) -> tuple[Run, Any] | None:
        """A run of these prompts that has all of this, and the rules it was recorded by; None where there is none.

        Its numbers are, bit for bit, those of recording the prompts again by themselves.
        """
        if self._kept is None or self._kept[0] is not model.anatomy:
            return None
        _, known, by, run = self._kept
        same = torch.equal(known.ids, prompts.ids) and torch.equal(known.lengths, prompts.lengths)
        has = set(inner(wanted)) <= set(run.sites) and set(answers) <= set(run.answers)
        return (run, by) if same and has and (by is rules or rules is None) else None


_last: ContextVar[LastBase | None] = ContextVar("last", default=None)


@contextmanager
def reusing(last: LastBase) -> Iterator[None]:
    """Inside, of this thread, no base is recorded that is kept here."""
    token = _last.set(last)
    try:
        yield
    finally:
        _last.reset(token)


def last_base() -> LastBase | None:
    """Where base runs are kept at the moment; None: nowhere."""
    return _last.get()
