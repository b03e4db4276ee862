"""Published figures as a table, and pass or fail for each that was measured again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A published number. `tolerance` is absolute: the digits printed, and float32 noise between implementations."""

    name: str
    value: float
    tolerance: float


@dataclass(frozen=True)
class Outcome:
    """A figure and what was measured for it (NaN where nothing was)."""

    figure: Figure
    measured: float

    @property
    def passed(self) -> bool:
        return abs(self.measured - self.figure.value) <= self.figure.tolerance  # false for NaN


@dataclass(frozen=True)
class Publication:
    """Figures of one source, and how they are measured on the model they were made with.

    `measure(model)` gives a number for each name; where `prompts` says which prompts it needs and that are not ours to
    ship, it is `measure(model, file)`. `conventions` says where the source does otherwise than this package.
    """

    key: str
    source: str
    model: str
    figures: tuple[Figure, ...]
    measure: Callable[..., Mapping[str, float]]
    conventions: str = ""
    prompts: str = ""


def compare(figures: Sequence[Figure], measured: Mapping[str, float]) -> list[Outcome]:
    """Every figure against what was measured; one that was not measured fails."""
    return [Outcome(figure, measured.get(figure.name, math.nan)) for figure in figures]
