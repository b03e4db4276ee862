"""The lens table: what every layer would say at every position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wording import label, number, percent, rank
from .figure import Picture
from .frame import shade_of
from .nodes import Node, node
from .packed import packed
from .table import scrolling
from .token import token_span

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Readings:
    """What a lens read of one prompt: arrays are [layer, position], `choices[layer][position]` the best tokens.

    `follows` is the token that follows each position ("" for none), `rank` and `chance` are its rank and probability;
    `followed` gives rank and probability of further tokens.
    """

    tokens: Sequence[str]
    layers: Sequence[int]
    choices: Sequence[Sequence[Sequence[tuple[str, float]]]]
    entropy: Array
    kl: Array
    follows: Sequence[str]
    rank: Array
    chance: Array
    followed: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)


def lens_grid(found: Readings, caption: str, words: str, places: Mapping[str, str | int], code: str = "") -> Picture:
    """A row a layer, a column a position; in the cell the first choice, shaded by its probability.

    The page's script colours by other quantities, follows tokens through the layers and leaves layers out.
    """
    heads = [node("th", "layer", scope="col", class_="text")]
    for p, token in enumerate(found.tokens):
        named = token_span(label(token, 14), token)
        heads.append(node("th", node("span", str(p), class_="index"), " ", named, scope="col", data_position=p))
    rows = [_row(found, k) for k in range(len(found.layers))]
    last = [node("th", "follows", scope="row", class_="text")]
    last += [node("td", token_span(label(t, 14), t) if t else "—", class_="follows", dir="auto") for t in found.follows]
    ranks = [node("th", "its rank", scope="row", class_="text")]
    ranks += [node("td", rank(float(r)), class_="follows") for r in found.rank[-1]]
    table = node(
        "table",
        node("caption", caption),
        node("thead", node("tr", heads)),
        node("tbody", rows),
        node("tfoot", node("tr", last), node("tr", ranks)),
        class_="lens",
    )
    return Picture(
        scrolling(table, "Logit lens"), "", words, code=code, kind="lens", data=lens_data(found), places=places
    )


def _row(found: Readings, k: int) -> Node:
    layer = found.layers[k]
    cells = [node("th", f"L{layer}", scope="row", data_layer=layer)]
    for p, best in enumerate(found.choices[k]):
        token, probability = best[0]
        several = ", ".join(f"{label(t, 16)} {percent(x)}" for t, x in best)
        told = (
            f"L{layer}, position {p} {label(found.tokens[p], 16)}: {several}; "
            f"entropy {number(found.entropy[k, p])}, KL {number(found.kl[k, p])} nats"
        )
        cells.append(
            node(
                "td",
                token_span(label(token, 14), token),
                " ",
                node("span", _short(probability), class_="value"),
                class_=shade_of(probability),
                title=told,
                dir="auto",
                data_at=f"{k} {p}",
                data_layer=layer,
                data_position=p,
            )
        )
    return node("tr", cells)


def _short(probability: float) -> str:
    """A percentage that fits into a cell, as the script writes it too."""
    if probability != probability:
        return "—"
    return f"{100 * probability:.{0 if probability >= 0.0995 or probability == 0 else 1}f} %"


def lens_data(found: Readings) -> dict[str, Any]:
    """The readings for the script: every token text once, every bit of the numbers."""
    texts: dict[str, int] = {}

    def index(token: str) -> int:
        return texts.setdefault(label(token, 40), len(texts))

    best = [[[index(t) for t, _ in cell] for cell in row] for row in found.choices]
    chances = [[[p for _, p in cell] for cell in row] for row in found.choices]
    follows = [index(t) if t else -1 for t in found.follows]
    followed = [
        {"token": index(t), "probability": packed(p), "rank": r.astype(int).tolist()}
        for t, (p, r) in found.followed.items()
    ]
    return {
        "layers": list(map(int, found.layers)),
        "tokens": [index(t) for t in found.tokens],
        "best": best,
        "probability": packed(chances),
        "entropy": packed(found.entropy),
        "kl": packed(found.kl),
        "follows": follows,
        "rank": found.rank.astype(int).tolist(),
        "chance": packed(found.chance),
        "followed": followed,
        "texts": list(texts),
    }
