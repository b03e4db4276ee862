"""A text whose tokens are shaded by a number each: words first, colour after, and a legend that says what it means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from ..tokens import shown
from ..wording import label, number, signed
from .frame import shade_of


def colored_text(tokens: Sequence[str], values: Sequence[float], unit: str, most: float | None = None) -> Markup:
    """HTML: the tokens in reading order, each on a ground of blue (plus) or red (minus); no ground where there is none.

    The strongest colour is `most` (default: the largest size). Ink turns to paper on strong grounds; every token tells
    its number on hover; a token whose size is at least a third of `most` carries it as small text, so that nothing is
    said by colour alone. Line breaks are kept and shown.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    top = most if most is not None else float(np.abs(finite).max()) if len(finite) else 0.0
    parts = []
    for i, (token, value) in enumerate(zip(tokens, array, strict=True)):
        parts.append(_token(i, token, float(value), top))
    legend = [_sample(share, top) for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return Markup(
        '<div class="colored" dir="auto">'
        + "".join(parts)
        + f'</div><p class="legend">{escape(unit)}: '
        + " ".join(legend)
        + "</p>"
    )


def _token(position: int, token: str, value: float, most: float) -> str:
    breaks = "\n" in token
    body = str(escape(_words(token)))
    if value != value:
        return f'<span class="tok">{body}</span>' + ("<br>" if breaks else "")
    share = 0.0 if most == 0 else min(abs(value) / most, 1.0)
    told = escape(f"{position} {label(token)}: {signed(value)}")
    small = f"<sub>{escape(signed(value, 2))}</sub>" if share >= 1 / 3 else ""
    return (
        f'<span class="tok {"plus" if value >= 0 else "minus"} {shade_of(share)}" title="{told}">{body}{small}</span>'
        + ("<br>" if breaks else "")
    )


def _words(token: str) -> str:
    """Ordinary spaces stay spaces; everything else invisible is shown."""
    return " ".join(shown(part) if part else "" for part in token.split(" "))


def _sample(share: float, most: float) -> str:
    words = number(0) if share == 0 else signed(share * most, 2)
    return f'<span class="tok {"plus" if share >= 0 else "minus"} {shade_of(abs(share))}">{escape(words)}</span>'
