"""What is heard of an answer before it is there: how far it is, and what of it can be shown already."""

from __future__ import annotations

from .answer import Answer


class Teller:
    """Hears of one answer. This one lets everything pass."""

    def __call__(self, done: int, total: int) -> None:
        """So many cells of so many are done."""

    def note(self, words: str) -> None:
        """What is done meanwhile, where that is more than answering."""

    def early(self, answer: Answer) -> None:
        """The answer without what takes longer; the whole one follows."""


class Cancelled(BaseException):
    """The question is no longer asked.

    Like `KeyboardInterrupt` no `Exception`: what turns any failure of a model into a finding must let it pass.
    """
