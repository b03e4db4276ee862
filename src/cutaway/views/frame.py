"""What every picture is made of: its frame, texts, lines, and the classes that colour them.

Colours are classes, so that a page's style sheet decides them in light, dark and print; `standalone` puts the same
rules into a picture that leaves the page. Signed: blue is positive, red negative. Probabilities: white to blue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup, escape

from ..wording import number, percent, signed

WIDTH = 760
STYLE = Path(__file__).parent / "picture.css"


def drawing(width: float, height: float, title: str, body: Sequence[str]) -> Markup:
    """A picture with its title above it, drawn and spoken."""
    body = [text(8, 16, title, "heading"), '<g transform="translate(0 24)">', *body, "</g>"]
    height += 24
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
        + "".join(body)
        + "</svg>"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", turn: int = 0) -> str:
    """Words at a point; `turn` degrees about it."""
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str, note: str = "") -> str:
    """A filled box; `note` is told on hover."""
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"'
    return f"{box}><title>{escape(note)}</title></rect>" if note else f"{box}/>"


def circle(x: float, y: float, radius: float, kind: str, note: str = "") -> str:
    """A dot; `note` is told on hover."""
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"'
    return f"{dot}><title>{escape(note)}</title></circle>" if note else f"{dot}/>"


def squares(corners: Sequence[tuple[float, float]], size: float, kind: str, strength: float) -> str:
    """Many squares of one colour as one path, which keeps a matrix of thousands of cells small."""
    path = "".join(f"M{x:g} {y:g}h{size:g}v{size:g}h-{size:g}z" for x, y in corners)
    return f'<path d="{path}" class="{kind}" fill-opacity="{strength:.2f}"/>'


def polyline(points: Sequence[tuple[float, float]], kind: str, dash: str = "") -> str:
    """A line through points (x, y)."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{_path(points)}" class="{kind}"{dashed}/>'


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str) -> str:
    """The area between two lines over the same x."""
    there, back = list(zip(x, low, strict=True)), list(zip(x, high, strict=True))[::-1]
    return f'<polygon points="{_path([*there, *back])}" class="{kind}"/>'


def mark(x: float, y: float, sign: float) -> str:
    """A sign as a shape: a triangle up for plus, a triangle down for minus, an open circle for 0."""
    if sign == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="mark none"/>'
    tip = -5 if sign > 0 else 5
    corners = [(x - 4.5, y - 0.7 * tip), (x + 4.5, y - 0.7 * tip), (x, y + tip)]
    return f'<polygon points="{_path(corners)}" class="mark {"pos" if sign > 0 else "neg"}"/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def round_steps(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about so many: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(about, 1)
    if not rough > 0:
        return [low]
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(m for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step + 0.0 for k in range(first, last + 1)]


def shade_of(probability: float) -> str:
    """The class of a probability: p0 to p10, or `none` where there is none."""
    return "none" if probability != probability else f"p{round(10 * min(max(probability, 0.0), 1.0))}"


def spoken(terms: Sequence[tuple[str, float]], total: float | None) -> str:
    """A picture of contributions in words, for whoever cannot see it."""
    largest = sorted(terms, key=lambda t: -abs(t[1]))[:5]
    text = "Largest: " + ", ".join(f"{name} {signed(value)}" for name, value in largest) + "."
    return text if total is None else f"{text} {len(terms)} bars add up to {signed(total)}."


def spoken_line(name: str, line: Sequence[float], ticks: Sequence[str], as_percent: bool) -> str:
    """A line in words."""
    form = percent if as_percent else number
    return f"{name}: " + ", ".join(f"{tick} {form(v)}" for tick, v in zip(ticks, line, strict=True)) + "."


def standalone(picture: Markup) -> str:
    """A picture with its own style sheet, to be saved as a file."""
    css = STYLE.read_text(encoding="utf-8")
    head, _, rest = str(picture).partition(">")
    return f"{head}><style>{css}</style>{rest}\n"
