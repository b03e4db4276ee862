"""The errors a user meets. Each says what is wrong, why, and what to do; none needs a traceback."""

from __future__ import annotations


class CutawayError(Exception):
    """Base of every error raised on purpose. `str(error)` is the whole message, `exit_code` a command's."""

    exit_code = 2


class BadInput(CutawayError, ValueError):
    """Something given by the caller cannot be used: a prompt, an answer, a layer, a file."""


class Refused(CutawayError):
    """The model was measured and what an analysis needs did not hold; the message names the identity that failed."""


class NoRoom(CutawayError):
    """The disk is full, or a limit on file sizes or quotas was reached. What was finished is kept."""

    exit_code = 1


class Unfinished(CutawayError):
    """Some of the work could not be done: the message says which part, why, and how to go on. The rest was finished."""

    exit_code = 1


def did_you_mean(word: str, known: list[str]) -> str:
    """A short hint naming the closest known word, or listing all of them when nothing is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
