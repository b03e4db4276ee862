"""How numbers and tokens are put into words: the same on a terminal, in a report and in a sentence."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, SupportsFloat

from .tokens import shown


def label(token: str, width: int = 24) -> str:
    """A token with white space visible and nothing that a terminal or a page would obey, shortened in the middle."""
    text = shown(token)
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def quoted(token: str) -> str:
    """A token in a sentence."""
    return f"“{label(token)}”"


def prose(text: str, width: int = 80) -> str:
    """A prompt in a sentence: ordinary spaces stay, everything invisible is shown, a long one loses its middle."""
    visible = shown_text(text)
    half = (width - 1) // 2
    return visible if len(visible) <= width else f"{visible[:half]}…{visible[-half:]}"


def shown_text(text: str) -> str:
    """A whole text whose ordinary spaces stay and in which nothing is invisible."""
    return " ".join(shown(part) if part else "" for part in text.split(" "))


def number(value: SupportsFloat, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent where that reads well; — for none."""
    value = float(value)
    if not math.isfinite(value):
        return "—" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    size = math.floor(math.log10(abs(value)))
    places = min(max(digits - 1 - size, 0), max(digits, -size))  # no more than `digits` behind the point, but the first
    return f"{value:.{places}f}"


def signed(value: SupportsFloat, digits: int = 3) -> str:
    """As `number`, with its sign always; 0 has none."""
    text = number(value, digits)
    return text if text.startswith(("-", "—")) or text == "0" else "+" + text


def fixed(value: SupportsFloat, places: int, sign: bool = False) -> str:
    """A number to so many places behind the point, with its sign always if asked; what is written as 0 has none."""
    text = f"{float(value):{'+' if sign else ''}.{places}f}"
    return text.lstrip("+-") if not text.strip("+-0.") else text


def in_grid(value: SupportsFloat, most: float, sign: bool = True) -> str:
    """A number that fits into a cell of a grid whose largest size is `most`: as many places as tell its cells apart."""
    value = float(value)
    if not math.isfinite(value) or value == 0:
        return number(value)
    if most < 1e-3:
        return f"{value:{'+' if sign else ''}.0e}"
    places = 4 if most < 1e-2 else 3 if most < 0.1 else 2 if abs(value) < 10 else 1 if abs(value) < 1e3 else 0
    return fixed(value, places, sign)


def memory(n_bytes: int) -> str:
    """An amount of memory."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} bytes"


def exact(value: SupportsFloat) -> str:
    """A number with every digit that it has: nine if it came from float32, else what reads back as the same float64."""
    value = float(value)
    single = f"{value:.9g}"
    return (
        single if abs(value) < 1e38 and struct.unpack("f", struct.pack("f", float(single)))[0] == value else repr(value)
    )


def percent(value: SupportsFloat) -> str:
    """A probability as a percentage; `0 %` and `100 %` are said of nothing else."""
    value = float(value)
    if math.isnan(value):
        return "—"
    if value in (0.0, 1.0):
        return "100 %" if value else "0 %"
    return f"{100 * value:.2f} %" if abs(value) >= 1e-4 else f"{100 * value:.1e} %"


def rank(value: SupportsFloat) -> str:
    """A rank, counted from 0; — for none."""
    value = float(value)
    return "—" if math.isnan(value) or value < 0 else str(int(value))


def capital(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def several(count: int, noun: str) -> str:
    """`1 prompt`, `3 prompts`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def between(value: SupportsFloat, low: SupportsFloat, high: SupportsFloat, unit: str = "", digits: int = 3) -> str:
    """An estimate and its interval."""
    return f"{signed(value, digits)}{unit} [{signed(low, digits)}, {signed(high, digits)}]"


def between_in(one: Any, names: Sequence[str] = ("mean", "low", "high"), digits: int = 3) -> str:
    """As `between`, from three names of a mapping or of one cell of a dataset."""
    value, low, high = (float(one[name]) for name in names)
    return between(value, low, high, digits=digits)


def p_value(value: SupportsFloat) -> str:
    """A p-value in a sentence."""
    value = float(value)
    return f"p = {number(value, 2)}" if value >= 1e-3 else f"p = {value:.0e}"
