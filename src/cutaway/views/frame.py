"""What every picture is made of: its frame, texts, lines, and the classes that colour them.

Colours are classes, so that a page's style sheet decides them in light, dark and print; `standalone` puts the same
rules into a picture that leaves the page. Signed: blue is positive, red negative. Probabilities: white to blue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from ..wording import exact, number, percent, signed
from .nodes import SVG, Node, node

WIDTH = 760
HALF = 480  # of two that stand side by side
PHONE = 358  # of a page on a phone
BROAD = 1250  # wider pictures could not be read on a page
LETTER = 6.6  # of a letter of a note, on average, as large as on a phone
BOLD = 8.0  # of a letter of a title, on average, as large as on a phone
STYLE = Path(__file__).parent / "picture.css"  # of drawings, on a page or by themselves
VIEWS_STYLE = Path(__file__).parent / "views.css"  # of views on a page
SCRIPT = Path(__file__).parent / "views.js"  # what a page may run


def drawing(width: float, height: float, title: str, body: Sequence[Node]) -> Node:
    """A picture with its title above it, drawn and spoken; a title that is too long for one line has several.

    Where the picture is too wide for a phone and scrolled there, the title is not.
    """
    lines = wrap(title, max(int((seen(width) - 16) / BOLD), 12)) or [""]
    head = 8 + 16 * len(lines)
    size = {"viewBox": f"0 0 {width:g} {height + head:g}", "width": f"{width:g}", "height": f"{height + head:g}"}
    return node(
        "svg",
        node("title", title),
        [text(8, 16 * (i + 1), line, "heading") for i, line in enumerate(lines)],
        node("g", body, transform=f"translate(0 {head})"),
        **size,
        role="img",
        aria_label=title,
        xmlns=SVG,
    )


def seen(width: float) -> float:
    """How much of a picture is seen on a phone before it is scrolled: all of a small one, which is made smaller."""
    return width if width <= HALF else PHONE


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", turn: int = 0, **more: Any) -> Node:
    """Words at a point; `turn` degrees about it. `more` are attributes, here and below."""
    turned = f"rotate({turn} {x:.1f} {y:.1f})" if turn else None
    return node("text", words, x=x, y=y, class_=kind or None, text_anchor=anchor, transform=turned, **more)


def line(x1: float, y1: float, x2: float, y2: float, kind: str, **more: Any) -> Node:
    return node("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind, **more)


def rect(x: float, y: float, width: float, height: float, kind: str, told: str = "", **more: Any) -> Node:
    """A box; `told` is what it says when pointed at."""
    return node("rect", told_by(told), x=x, y=y, width=width, height=height, class_=kind, **more)


def circle(x: float, y: float, r: float, kind: str, told: str = "", **more: Any) -> Node:
    return node("circle", told_by(told), cx=x, cy=y, r=r, class_=kind, **more)


def polyline(points: Iterable[tuple[float, float]], kind: str, dash: str = "", **more: Any) -> Node:
    """A line through points; `dash` as in SVG, such as "6 3"."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return node("polyline", points=path, class_=kind, stroke_dasharray=dash or None, **more)


def polygon(points: Iterable[tuple[float, float]], kind: str, **more: Any) -> Node:
    """An area, such as a band around a line."""
    return node("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=kind, **more)


LINKS = ("prompt", "layer", "head", "neuron", "component", "position", "query", "key", "token", "term")
"""Names of places that views share. A place chosen in one view is chosen in every view of the page that shows it."""


def marked(shape: Node, at: tuple[int, int] | None = None, **facts: str | float | None) -> Node:
    """A shape that can be pointed at, reached with the arrow keys, pinned, and read back as a row of the table twin.

    `at` is its row and column in the view's own grid. `facts` are what it stands for: places (see `LINKS`), names and
    numbers, written in full; None and NaN are left out.
    """
    told = {f"data_{name}": _fact(value) for name, value in facts.items() if value is not None and value == value}
    return shape.having(data_at=None if at is None else f"{at[0]} {at[1]}", **told)


def _fact(value: str | float) -> str:
    return value if isinstance(value, str) else exact(value)


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str, **more: Any) -> Node:
    """The area between two lines over the same x."""
    there, back = zip(x, low, strict=True), list(zip(x, high, strict=True))[::-1]
    return polygon([*there, *back], kind, **more)


def mark(x: float, y: float, sign: float, told: str = "") -> Node:
    """A sign as a shape: a triangle up for plus, a triangle down for minus, an open circle for 0."""
    if sign == 0:
        return circle(x, y, 2.5, "mark none", told)
    tip = -5 if sign > 0 else 5
    corners = [(x - 4.5, y - 0.7 * tip), (x + 4.5, y - 0.7 * tip), (x, y + tip)]
    return node(
        "polygon",
        told_by(told),
        points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners),
        class_="mark pos" if sign > 0 else "mark neg",
    )


def squares(corners: Sequence[tuple[float, float]], size: float, kind: str, strength: float) -> Node:
    """Many squares of one colour as one path, which keeps a matrix of thousands of cells small."""
    path = "".join(f"M{x:g} {y:g}h{size:g}v{size:g}h-{size:g}z" for x, y in corners)
    return node("path", d=path, class_=kind, fill_opacity=f"{strength:.2f}")


def told_by(words: str) -> Node | None:
    """What an element of a picture says when pointed at."""
    return node("title", words) if words else None


def shade_of(probability: float) -> str:
    """The class of a probability: p0 to p10, or `none` where there is none."""
    return "none" if probability != probability else f"p{round(10 * min(max(probability, 0.0), 1.0))}"


def spoken(terms: Sequence[tuple[str, float]], total: float | None) -> str:
    """A picture of contributions in words, for whoever cannot see it."""
    largest = sorted(terms, key=lambda t: -abs(t[1]))[:5]
    text = "Largest: " + ", ".join(f"{name} {signed(value)}" for name, value in largest) + "."
    return text if total is None else f"{text} {len(terms)} bars add up to {signed(total)}."


def spoken_line(name: str, line: Sequence[float], ticks: Sequence[str], as_percent: bool) -> str:
    """A line in words: where it begins and ends, and its highest and lowest point; short ones in full."""
    form = percent if as_percent else number
    there = [(tick, v) for tick, v in zip(ticks, line, strict=True) if v == v]
    if not there:
        return f"{name}: no values."
    if len(there) <= 3:
        return f"{name}: " + ", ".join(f"{tick} {form(v)}" for tick, v in there) + "."
    first, last = there[0], there[-1]
    high, low = max(there, key=lambda at: at[1]), min(there, key=lambda at: at[1])
    text = f"{name}: from {form(first[1])} ({first[0]}) to {form(last[1])} ({last[0]})"
    turns = [(word, at) for word, at in (("highest", high), ("lowest", low)) if at[1] not in (first[1], last[1])]
    return text + "".join(f", {word} {form(v)} ({tick})" for word, (tick, v) in turns) + "."


def standalone(picture: Node) -> str:
    """A picture with its own style sheet, to be saved as a file."""
    css = STYLE.read_text(encoding="utf-8")
    head, _, rest = str(picture).partition(">")
    return f"{head}><style>{css}</style>{rest}\n"
