"""Square tables side by side on one scale, such as similarities before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wording import label, number
from .frame import LETTER, drawing, line, rect, seen, squares, text
from .nodes import Node
from .packed import packed
from .table import Table

Array = NDArray[np.float64]
LEVELS = 20


def matrices(
    panels: Mapping[str, Array],
    labels: Sequence[str] | None,
    title: str,
    unit: str,
    limits: tuple[float, float] | None = None,
    width: float = 300,
) -> Node:
    """Panels [row, column] on a shared scale, blue plus and red minus; the strongest colour is the end of the scale.

    Args:
        labels: of the rows, which are the columns too; None: none are written.
        limits: of the scale; what lies beyond is drawn as its end, and said. Default: the largest size in any panel.
    """
    found = {name: np.asarray(p, dtype=np.float64) for name, p in panels.items()}
    every = np.concatenate([p.ravel() for p in found.values()])
    every = every[np.isfinite(every)]
    most = max(map(abs, limits)) if limits else float(np.abs(every).max()) if len(every) else 1.0
    most = most or 1.0
    rows = max(len(p) for p in found.values())
    cell = max(3.0, min(24.0, width / max(rows, 1)))
    names = labels is not None and cell >= 9
    left = 100.0 if names else 8.0
    top = 24.0
    body: list[Node] = []
    for k, (name, panel) in enumerate(found.items()):
        x0 = left + k * (rows * cell + 28)
        body.append(text(x0, 14, name, "small"))
        body += _cells(panel / most, x0, top, cell)
        whole = rect(x0, top, panel.shape[1] * cell, len(panel) * cell, "hit")
        body.append(whole.having(data_panel=name))  # the script finds the cell in it
        body += [
            line(x0, top, x0 + panel.shape[1] * cell, top, "grid"),
            line(x0, top, x0, top + len(panel) * cell, "grid"),
        ]
    if names and labels is not None:
        body += [text(left - 6, top + (i + 0.75) * cell, label(t, 12), "small", "end") for i, t in enumerate(labels)]
    foot = top + rows * cell + 12
    width = max(left + len(found) * (rows * cell + 28), 440)
    clipped = bool(limits) and bool((np.abs(every) > most * (1 + 1e-9)).any())
    said = f"{unit}; blue plus, red minus, the same in every panel{'; beyond the scale drawn as its end' * clipped}"
    lines = wrap(said, max(int((seen(width) - left) / LETTER), 20))
    body += [*_legend(left, foot, most), *(text(left, foot + 42 + 14 * i, t, "small") for i, t in enumerate(lines))]
    return drawing(width, foot + 34 + 14 * len(lines), title, body)


def _cells(panel: Array, x0: float, y0: float, cell: float) -> list[Node]:
    """All cells of one shade together. Shades differ by a twentieth of the scale."""
    groups: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for (i, j), value in np.ndenumerate(panel):
        at = (round(x0 + j * cell, 1), round(y0 + i * cell, 1))
        if not np.isfinite(value):
            groups["nothing", LEVELS].append(at)
        elif level := round(LEVELS * min(abs(float(value)), 1.0)):
            groups["pos" if value > 0 else "neg", level].append(at)
    return [squares(at, round(cell, 1), kind, level / LEVELS) for (kind, level), at in sorted(groups.items())]


def _legend(left: float, y: float, most: float) -> list[Node]:
    step = 12.0
    body = []
    for i, value in enumerate(np.linspace(-1, 1, 11)):
        body.append(squares([(left + i * step, y)], step, "pos" if value > 0 else "neg", abs(float(value))))
    body.append(rect(left, y, 11 * step, step, "frame"))
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        body.append(text(left + share * 11 * step, y + 26, number((2 * share - 1) * most, 2), "number", anchor))
    return body


def matrix_data(
    panels: Mapping[str, Array], labels: Sequence[str], axis: str, title: str, ids: Sequence[int] | None = None
) -> dict[str, Any]:
    """What the script needs to say what is pointed at: every number, the labels, and what rows and columns stand for.

    Args:
        axis: the place that rows and columns are, such as `position` or `neuron`. ids: which of them; default: from 0.
    """
    return {
        "panels": {name: packed(panel) for name, panel in panels.items()},
        "labels": [label(t, 40) for t in labels],
        "axis": axis,
        "title": title,
        "ids": list(ids or range(len(labels))),
    }


def matrix_table(panels: Mapping[str, Array], labels: Sequence[str], caption: str) -> Table:
    """The numbers of all panels, a row a row."""
    names = [label(t, 12) for t in labels]
    rows = [
        [name, f"{i} {names[i]}", *(number(v, 3) for v in row)]
        for name, panel in panels.items()
        for i, row in enumerate(np.asarray(panel, float).tolist())
    ]
    return Table(caption, ["panel", "row", *(f"{i} {t}" for i, t in enumerate(names))], rows, ["panel", "row"])


def spoken_matrices(panels: Mapping[str, Array]) -> str:
    """Mean and range of each panel off its diagonal, in words."""
    parts = []
    for name, panel in panels.items():
        square = np.asarray(panel, dtype=np.float64)
        off = square[~np.eye(len(square), dtype=bool)] if len(square) > 1 else square.ravel()
        off = off[np.isfinite(off)]
        if len(off):
            parts.append(f"{name}: mean {number(off.mean())}, from {number(off.min())} to {number(off.max())}")
    return "Off the diagonal, " + "; ".join(parts) + "."
