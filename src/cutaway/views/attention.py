"""Who looks where: one head's attention on one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from ..wording import label
from .frame import drawing, shade_of, text

Array = NDArray[np.float64]


def pattern(attention: Array, tokens: Sequence[str], title: str) -> Markup:
    """One head's attention on one prompt: a row a query, a column a key."""
    cell, left, top = 19, 96, 84
    body = []
    for j, token in enumerate(tokens):
        shown = label(token, 12)
        body.append(text(left + (j + 0.6) * cell, top - 6, shown, "small", turn=-60))
        body.append(text(left - 6, top + j * cell + 14, shown, "small", "end"))
    for i in range(len(tokens)):
        for j in range(i + 1):
            shade = shade_of(float(attention[i, j]))
            box = f'x="{left + j * cell}" y="{top + i * cell}" width="{cell - 1}" height="{cell - 1}"'
            told = f"{label(tokens[i], 12)} to {label(tokens[j], 12)}: {attention[i, j]:.2f}"
            body.append(f'<rect {box} class="cell {shade}"><title>{escape(told)}</title></rect>')
    foot = top + len(tokens) * cell + 16
    body.append(text(left, foot, "row: who looks; column: where; shade: attention, 0 to 1", "small"))
    return drawing(left + len(tokens) * cell + 50, foot + 8, title, body)
