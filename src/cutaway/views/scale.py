"""From numbers to places on the paper, and the round numbers to write beside an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` laid out from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """At most `most` + 1 round numbers within the scale, a step of 1, 2 or 5 times a power of ten apart."""
        return round_steps(self.low, self.high, most)


def round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about so many: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(about, 1)
    if not rough > 0:
        return [low]
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(m for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step + 0.0 for k in range(first, last + 1)]


def around(values: Iterable[float], start: float, end: float, zero: bool = True, pad: float = 0.0) -> Scale:
    """The scale that holds all finite values (and 0, unless told otherwise), with some room at both ends."""
    found = [float(v) for v in values if math.isfinite(float(v))] + ([0.0] if zero else [])
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    room = pad * ((high - low) or abs(high) or 1.0)
    return Scale(low - room, high + room, start, end)


def tick_text(value: float) -> str:
    """A tick without needless digits."""
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.0e}"
