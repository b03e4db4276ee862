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
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= most)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [(first + i) * step for i in range(count)]


def around(values: Iterable[float], start: float, end: float, zero: bool = True, pad: float = 0.0) -> Scale:
    """The scale that holds all finite values (and 0, unless told otherwise), with some room at both ends."""
    found = [float(v) for v in values if math.isfinite(float(v))] + ([0.0] if zero else [])
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    room = pad * ((high - low) or abs(high) or 1.0)
    return Scale(low - room, high + room, start, end)


def tick_text(value: float) -> str:
    """A tick without needless digits."""
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.0e}"
