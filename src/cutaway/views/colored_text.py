"""A text whose tokens are shaded by a number each: words first, colour after, and a legend that says what it means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tokens import shown, special
from ..wording import label, number, signed
from .frame import marked, shade_of
from .nodes import Node, node


def colored_text(tokens: Sequence[str], values: Sequence[float], unit: str, most: float | None = None) -> Node:
    """The tokens in reading order, each on a ground of blue (plus) or red (minus); no ground where there is no number.

    The strongest colour is `most` (default: the largest size). Ink turns to paper on strong grounds; every token tells
    its number when pointed at, and one whose size is at least a third of `most` carries it as small text, so that
    nothing is said by colour alone. Line breaks are kept and shown.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    top = most if most is not None else float(np.abs(finite).max()) if len(finite) else 0.0
    text = [_token(i, t, float(v), top) for i, (t, v) in enumerate(zip(tokens, array, strict=True))]
    legend = [_sample(share, top) for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return node(
        "div",
        node("div", text, class_="colored", dir="auto"),
        node("p", f"{unit}: ", [(one, " ") for one in legend], class_="legend"),
    )


def _token(position: int, token: str, value: float, most: float) -> Node:
    words = _words(token) + ("\n" if "\n" in token else "")
    chip = " special" if special(token) else ""
    if value != value:
        return node("span", words, class_=f"tok{chip}")
    share = 0.0 if most == 0 else min(abs(value) / most, 1.0)
    number_too = node("span", signed(value, 2), class_="small") if share >= 1 / 3 else None
    told = f"{position} {label(token)}: {signed(value)}"
    one = node("span", words, number_too, class_=_ground(value, share) + chip, title=told)
    return marked(one, (0, position), position=str(position), shown=label(token, 40), value=value)


def _ground(value: float, share: float) -> str:
    return f"tok {'plus' if value >= 0 else 'minus'} {shade_of(share)}"


def _words(token: str) -> str:
    """Ordinary spaces stay spaces; everything else invisible is shown."""
    return " ".join(shown(part) if part else "" for part in token.split(" "))


def _sample(share: float, most: float) -> Node:
    words = number(0) if share == 0 else signed(share * most, 2)
    return node("span", words, class_=_ground(share, abs(share)))
