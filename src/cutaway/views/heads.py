"""Attention head by head: small multiples to choose from, one head large, tokens to point at.

Without the page's script: the first head's pattern where it is small, and where every token looks as a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wording import label
from .attention import pattern
from .figure import Picture
from .nodes import Node, node
from .packed import packed
from .table import Table, scrolling

Array = NDArray[np.float64]
DRAWN, LISTED = 40, 400


def attention(
    weights: Array,
    names: Sequence[str],
    tokens: Sequence[str],
    title: str,
    caption: str,
    places: Sequence[Mapping[str, int]],
    scores: Mapping[str, Sequence[float]] | None = None,
    prompt: Mapping[str, str | int] | None = None,
    code: str = "",
    first: int = 0,
) -> Picture:
    """Heads' attention on one prompt.

    Args:
        weights: [head, query, key], from 0 to 1. names: of heads. tokens: of the prompt.
        places: layer and head of each. scores: what heads can be sorted by, such as {"previous token": [...]}.
        first: which of them is shown first.
    """
    n = len(tokens)
    table = _largest(weights, names, tokens, title)
    shown: Node
    if n <= DRAWN:
        shown = pattern(weights[first], tokens, f"Attention of {names[first]}")
    else:
        shown = scrolling(node("p", f"{len(names)} heads on {n} tokens; the largest weights are below."), title)
    best = np.argsort(-weights[first, -1])[:3]
    seen = ", ".join(f"{label(tokens[j])} (position {j}) {weights[first, -1, j]:.2f}" for j in best)
    words = f"The last token of {names[first]} looks at {seen}."
    data = _data(weights, names, tokens, title, places, scores) | {"first": first}
    return Picture(shown, caption, words, table, code, "attention", data, prompt or {})


def _largest(weights: Array, names: Sequence[str], tokens: Sequence[str], title: str) -> Table:
    """The three keys that each query of each head looks at most; for many, of the last query alone."""
    n = len(tokens)
    queries = range(n) if len(names) * n <= LISTED else [n - 1]
    rows: list[Sequence[str]] = []
    for h, name in enumerate(names):
        for i in queries:
            best = np.argsort(-weights[h, i, : i + 1], kind="stable")[:3]
            where = [f"{label(tokens[j], 14)} ({j}) {weights[h, i, j]:.2f}" for j in best]
            rows.append([name, f"{label(tokens[i], 14)} ({i})", *where, *[""] * (3 - len(where))])
    which = "every token" if len(queries) > 1 else "the last token"
    columns = ["head", "from", "most at", "second", "third"]
    return Table(f"{title}: where {which} looks, with its position and the weight.", columns, rows, columns)


def _data(
    weights: Array,
    names: Sequence[str],
    tokens: Sequence[str],
    title: str,
    places: Sequence[Mapping[str, int]],
    scores: Mapping[str, Sequence[float]] | None,
) -> dict[str, Any]:
    """For the script: the lower triangles, row by row, every bit of them."""
    below = np.tril_indices(len(tokens))
    heads = [
        {
            "name": name,
            **{k: int(v) for k, v in places[h].items()},
            "scores": {k: _round(float(v[h])) for k, v in (scores or {}).items()},
            "weights": packed(np.nan_to_num(weights[h][below])),
        }
        for h, name in enumerate(names)
    ]
    return {"title": title, "tokens": [label(t, 40) for t in tokens], "heads": heads}


def _round(value: float) -> float | None:
    return None if value != value else float(f"{value:.4g}")
