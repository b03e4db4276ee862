"""What the study is asked, and what it is asked in the demo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is asked.

    Args:
        families: lexical draws, four prompts each. frames: keys of the task's frames; default all.
        corruption: of the runs that clean activations are put into: swap, s2, abc or random.
        top: heads looked at closely. smallest: smallest effect of interest, as a share of clean - corrupted.
        rows: rows of repeated random ids for the head scores.
    """

    families: int = 24
    seed: int = 0
    frames: tuple[str, ...] | None = None
    corruption: str = "s2"
    top: int = 6
    smallest: float = 0.05
    level: float = 0.95
    rows: int = 16
    bos: bool | None = None


def demo() -> Settings:
    """Held-out pairs of names for the pocket model, few enough to wait for."""
    return Settings(families=12, top=4, rows=8)
