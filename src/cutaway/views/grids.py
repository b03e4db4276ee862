"""Grids: tokens shaded by probability, signed numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import cos, radians, sin
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from ..wording import in_grid, number, signed
from .frame import LETTER, drawing, marked, rect, seen, shade_of, text
from .nodes import Node, node

Array = NDArray[np.float64]
Places = Sequence[Mapping[str, str | float]]
CELL, LEFT = 26, 64
FULL, NARROW, TURN = 960, 48, 55
"""Width of a page; a column's width where names would not fit over columns and are turned by so many degrees."""
LEVELS = 20
"""Shades of a signed number."""
_DEEP = {"pos": 18, "neg": 16}


def ink(kind: str, level: int) -> str:
    """The class of words on a shade: weak, mid and deep grounds need other inks in light and dark."""
    return "weak" if level < 14 or kind == "none" else "mid" if level < _DEEP[kind] else "deep"


def token_grid(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]], title: str
) -> Node:
    """Tokens in a grid, the cell shaded by probability."""
    wide, left = 92, 60
    body = [text(left + (j + 0.5) * wide, 16, name, "small", "middle") for j, name in enumerate(columns)]
    for i, name in enumerate(rows):
        y = 24 + i * 26
        for j, (token, probability) in enumerate(cells[i]):
            shade = shade_of(probability)
            told = f"{name}, {columns[j]}: {token} {number(probability)}"
            shape = rect(left + j * wide, y, wide - 2, 24, f"cell {shade}", told)
            body.append(marked(shape, (i, j), row=name, column=columns[j], token=token, value=probability))
            body.append(text(left + (j + 0.5) * wide - 1, y + 16, token[:12], f"on-{shade}", "middle"))
    height = 24 + len(rows) * 26
    body.append(row_names(rows, left, 24, 26))
    body.append(text(left, height + 16, "shade: probability of the token shown, 0 to 1", "small"))
    return drawing(left + len(columns) * wide, height + 26, title, body)


def row_names(rows: Sequence[str], left: float, top: float, high: float) -> Node:
    """The names of rows on a ground of their own: they stay in view where a picture is scrolled sideways."""
    names = [text(left - 8, top + i * high + 17, name, "small", "end") for i, name in enumerate(rows)]
    return node("g", rect(0, top, left - 2, len(rows) * high, "ground"), names, class_="stuck")


def signed_grid(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    certain: NDArray[np.bool_] | None = None,
    full: float = 0.0,
    wide: int = 58,
    *,
    places: tuple[Places, Places] | None = None,
    between: tuple[Array, Array] | None = None,
    p: Array | None = None,
    under: Sequence[tuple[str, str]] | None = None,
    signs: bool = True,
    axes: tuple[str, str] = ("", ""),
) -> Node:
    """A grid of signed numbers: blue plus, red minus; `certain` cells framed and starred.

    The strongest colour is the largest number, or `full` where that is more, so that a grid of nothing looks like it.

    Args:
        values: [row, column]. NaN is hatched. places: what rows and columns stand for, such as {"layer": 3}.
        between: ends of each cell's interval. p: of each cell, corrected.
        under: the token of each column, and what is written below it, such as another run's; "" for nothing.
        signs: whether there can be minus; without it, as of attention, numbers have no sign.
        axes: what goes down and what goes across, where the labels do not say it.
    """
    left = min(max(LEFT, 6.4 * max(map(len, rows), default=0) + 14), 230)
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    most = max(largest, full)
    of_rows, of_columns = places or ([{"row": r} for r in rows], [{"column": c} for c in columns])
    beneath: Sequence[Sequence[str]] = under or [()] * len(columns)
    said = [" ".join(filter(None, [name, *words])) for name, words in zip(columns, beneath, strict=True)]
    turned = under is not None and left + len(columns) * wide > FULL
    if turned:
        wide, body, top, beyond = _turned(columns, under or (), left)
    else:
        body, beyond = _heads(columns, under or (), left, wide), 0.0
        top = 20.0 + (30 if any(there for _, there in under or ()) else 16 if under else 0)
    for i, name in enumerate(rows):
        y = top + i * CELL
        for j in range(len(columns)):
            value = float(values[i, j])
            x = left + j * wide
            strength = 0.0 if most == 0 or value != value else abs(value) / most
            kind = "none" if value != value else "pos" if value >= 0 else "neg"
            surely = certain is not None and bool(certain[i, j])
            low, high = (float(end[i, j]) for end in between) if between else (np.nan, np.nan)
            chance = float("nan") if p is None else float(p[i, j])
            told = _told(f"{name} {said[j]}", value, low, high, chance, surely, signed if signs else number)
            level = round(LEVELS * strength)
            box = rect(
                x, y, wide - 2, CELL - 2, f"cell-{kind}", told, fill_opacity=level / LEVELS if value == value else 1.0
            )
            facts = {**of_rows[i], **of_columns[j], "value": value, "low": low, "high": high, "p": chance}
            body.append(marked(box, (i, j), **facts))
            if surely:
                body.append(rect(x + 0.75, y + 0.75, wide - 3.5, CELL - 3.5, "sure"))
            body.append(
                text(
                    x + wide / 2 - 1,
                    y + 16,
                    in_grid(value, largest, signs) + ("*" if surely else ""),
                    ink(kind, level),
                    "middle",
                )
            )
    body.append(row_names(rows, left, top, CELL))
    foot = top + len(rows) * CELL
    note = [f"{way}: {name}" for way, name in zip(("down", "across"), axes, strict=True) if name]
    note.append("blue plus, red minus" if signs else f"shade: from 0 to {number(most)}")
    note += ["framed, *: differs from 0, corrected over this grid"] if certain is not None else []
    width = max(left + len(columns) * wide + beyond, 440)
    lines = wrap("; ".join(note), max(int((seen(width) - left) / LETTER), 20))
    body += [text(left, foot + 16 + 14 * i, one, "small") for i, one in enumerate(lines)]
    return drawing(width, foot + 10 + 14 * len(lines), title, body)


def _heads(columns: Sequence[str], under: Sequence[tuple[str, str]], left: float, wide: float) -> list[Node]:
    """Names over columns, with their tokens beneath."""
    body = [text(left + (j + 0.5) * wide, 14, name, "small", "middle") for j, name in enumerate(columns)]
    for j, (here, there) in enumerate(under):
        body.append(text(left + (j + 0.5) * wide, 28, here, "token", "middle"))
        if there:
            body.append(text(left + (j + 0.5) * wide, 41, there, "token other", "middle"))
    return body


def _turned(
    columns: Sequence[str], under: Sequence[tuple[str, str]], left: float
) -> tuple[int, list[Node], float, float]:
    """Columns as narrow as their numbers, with names and tokens turned: width, texts, height, what they need beside."""
    longest = max((len(name) + len(here) + len(there) + 2 for name, (here, there) in zip(columns, under, strict=True)))
    top = 16 + 6.9 * longest * sin(radians(TURN))
    body: list[Node] = []
    for j, (name, (here, there)) in enumerate(zip(columns, under, strict=True)):
        parts = [(name, "index"), (here, ""), (there, "other")]
        spans = [node("tspan", f"{words} ", class_=kind or None) for words, kind in parts if words]
        x, y = left + (j + 0.5) * NARROW + 4, top - 6
        turn = f"rotate({-TURN} {x:.1f} {y:.1f})"
        body.append(node("text", spans, x=x, y=y, class_="token", transform=turn))
    return NARROW, body, top, 6.9 * longest * cos(radians(TURN)) - NARROW / 2


def _told(
    name: str, value: float, low: float, high: float, p: float, surely: bool, form: Callable[[float], str]
) -> str:
    between = f" [{form(low)}, {form(high)}]" if low == low else ""
    chance = f", p {number(p, 2)} corrected" if p == p else ""
    return f"{name}: {form(value)}{between}{chance}{', differs from 0' if surely else ''}"
