"""What the study is asked, and what it is asked in the demo."""

from __future__ import annotations

from dataclasses import dataclass

from ...prompts import Token


@dataclass(frozen=True)
class Settings:
    """What is asked. Answers and foils: one for all prompts, or one each. Without answers, the model's own first
    choice. Without foils, the answer is contrasted with the mean of the vocabulary.
    """

    prompts: tuple[str, ...]
    answers: tuple[Token, ...] = ()
    foils: tuple[Token, ...] = ()
    bos: bool | None = None
    top: int = 10


def demo() -> Settings:
    """A fact that the pocket model knows, against another capital."""
    return Settings(("The capital of Poland is",), (" Warsaw",), (" Berlin",))
