"""Which function answers which kind of question."""

from __future__ import annotations

from .answer import Answer
from .question import Question
from .subject import Subject
from .telling import Teller


def answered(subject: Subject, question: Question, tell: Teller) -> Answer:
    """The answer. This is where the parts of the library that need torch are imported.

    Raises:
        BadInput, Refused: the question does not fit the model or the prompt.
    """
    from . import changing, looking, pairing

    kinds = {
        "tokens": looking.tokens,
        "lens": looking.lens_answer,
        "attribution": looking.attribution,
        "attention": looking.attention,
        "compare": pairing.compare,
        "grid": pairing.grid,
        "edit": changing.edited,
    }
    return kinds[question.kind](subject, question, tell)
