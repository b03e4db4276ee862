"""What a result becomes: figures with their headings, for a page, a terminal and matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..views import Picture, Table

SHOWN = 8
"""Prompts or grids shown of one result; the result has them all."""


@dataclass(frozen=True)
class Shown:
    """One figure of a result: its heading, its parts for a page, how matplotlib draws it on given axes, the table that
    stands for it on a terminal (default: that of the first part), and a sentence before it."""

    heading: str
    parts: Sequence[Picture | Table]
    plot: Callable[[Any], Any] | None = None
    text: Table | None = None
    note: str = ""


def first_few(what: str, count: int, one: Callable[[int], Shown]) -> list[Shown]:
    """What `one` makes of the first few of so many prompts or grids, and a note where there are more."""
    made = [one(i) for i in range(min(count, SHOWN))]
    return made if count <= SHOWN else noted(made, f"The first {SHOWN} of {count} {what}; the result has them all.")


def noted(made: list[Shown], note: str) -> list[Shown]:
    """With a sentence before the first."""
    return [replace(made[0], note=note), *made[1:]]
