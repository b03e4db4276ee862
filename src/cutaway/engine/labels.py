"""The tokens that the labels of a grid stand for, so that a result says what lies at a position or a role."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..edits.cells import Axis, Grid
from ..prompts import Prompts
from ..results import token_grid

Tokens = Mapping[str, tuple[tuple[str, str], np.ndarray]]


def token_labels(grid: Grid, base: Prompts, read: int = 0) -> Tokens:
    """Coordinates of a sweep's result, by name: the token at each label of an axis of tokens, over (prompt, axis).

    `input_token`: the base's; `source_token`: that of the run whose value is put in, where there is one such run. Of an
    axis that is not `position` with its name before them, such as `key_input_token`. A label of several tokens has all
    of them, with + between; where a prompt has none, the text is empty. `read`: how many positions, from the first, a
    metric of every position reads; their tokens are `read_input_token`.
    """
    made: dict[str, tuple[tuple[str, str], np.ndarray]] = {}
    for axis in grid.axes:
        if not axis.places:
            continue
        before = "" if axis.name == "position" else f"{axis.name}_"
        made[f"{before}input_token"] = (("prompt", axis.name), _along(axis, base, None))
        if len(axis.sources) == 1:
            made[f"{before}source_token"] = (("prompt", axis.name), _along(axis, axis.sources[0], id(axis.sources[0])))
    if read:
        made["read_input_token"] = (("prompt", "read"), token_grid(base)[:, :read])
    return made


def size(tokens: Tokens) -> int:
    """Bytes that they take."""
    return sum(texts.nbytes for _, texts in tokens.values())


def _along(axis: Axis, run: Prompts, source: int | None) -> np.ndarray:
    """[prompt, label]"""
    texts = token_grid(run)
    columns = []
    for where, origins in axis.places:
        there = origins.get(source) if source is not None else None
        columns.append(_column(texts, where, there))
    return np.stack(columns, axis=1)


def _column(texts: np.ndarray, where: np.ndarray, there: np.ndarray | None) -> np.ndarray:
    """The texts at the edited tokens of each prompt, or at the positions of a source that their values come from."""
    count, width = where.sum(1), texts.shape[1] - 1
    rows = np.arange(len(texts))
    if count.max(initial=0) <= 1:
        at = where.argmax(1)
        if there is not None:
            at = there[rows, at]
        inside = (count > 0) & (at <= width)
        return np.where(inside, texts[rows, np.minimum(at, width)], "")
    found = []
    for i in rows:
        at = np.flatnonzero(where[i])
        at = at if there is None else there[i, at]
        found.append("+".join(str(texts[i, p]) for p in at if p <= width))
    return np.array(found, dtype=str)
