"""Who looks where: one head's attention on one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..wording import label
from .frame import drawing, marked, rect, shade_of, text
from .nodes import Node

Array = NDArray[np.float64]


def pattern(attention: Array, tokens: Sequence[str], title: str) -> Node:
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
            told = f"{label(tokens[i], 12)} to {label(tokens[j], 12)}: {attention[i, j]:.2f}"
            box = rect(left + j * cell, top + i * cell, cell - 1, cell - 1, f"cell {shade}", told)
            body.append(marked(box, (i, j), query=i, key=j, value=float(attention[i, j])))
    foot = top + len(tokens) * cell + 16
    body.append(text(left, foot, "row: who looks; column: where; shade: attention, 0 to 1", "small"))
    return drawing(left + len(tokens) * cell + 50, foot + 8, title, body)
