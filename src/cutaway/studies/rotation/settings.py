"""What the study is asked, and what it is asked in the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is asked.

    Args:
        targets: words; each is a type of target. Default: those of the study's own sentences.
        texts: sentences, each with one target. file: the same, a sentence a line, or .jsonl (see `tasks.sentences`).
            Default: sentences of our own with a pronoun as object.
        fillers: sentences without a target, from which controls may be taken too.
        task, role: the token of a role in the prompts of a task, instead of sentences.
        control: a word (of a task: a role) that is in every sentence once, as a further control.
        families: of our own sentences, or of the task.
        frequencies: word -> frequency, or a file of them. Default: counted in the sentences.
        caliper: largest difference of frequency between a target and its control, in octaves.
        draws: of random updates.
    """

    targets: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    file: str | None = None
    fillers: tuple[str, ...] = ()
    task: str | None = None
    role: str | None = None
    control: str | None = None
    families: int = 100
    frequencies: Mapping[str, float] | str | None = None
    caliper: float = 3.0
    draws: int = 200
    seed: int = 0
    level: float = 0.95
    bos: bool | None = None


def demo() -> Settings:
    """The study's own sentences."""
    return Settings()
