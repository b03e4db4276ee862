"""How plots look, and how they become the same bytes every time."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..wording import shown_text

POSITIVE, NEGATIVE, TOTAL, SOFT = "#2166ac", "#b2182b", "#4a4f5a", "#5b6270"
COLOURS = ("#2166ac", "#b2182b", "#4d4d4d", "#7a5195")
DASHES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a token is a dollar sign
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cutaway",
    "pdf.fonttype": 42,
    "legend.frameon": False,
}
FALLBACK = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei")
"""Fonts that are tried in this order, as far as they are installed: tokens are in every script."""

MISSING = "#d5d9e0"
"""The colour of a cell without a number."""


def colours_of(name: str) -> Any:
    """A colour map by its name, with a colour for what is missing."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=MISSING)


def ink_on(grounds: Any) -> NDArray[np.str_]:
    """Black or white for words on each of some grounds [..., 4], whichever has more contrast by WCAG's luminance.

    The better of the two has at least 4.58 on any colour.
    """
    rgb = np.asarray(grounds, dtype=np.float64)[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    light = linear @ np.array([0.2126, 0.7152, 0.0722]) + 0.05
    return np.where(light / 0.05 >= 1.05 / light, "black", "white")


def axes_of(ax: Any, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes: those given, or new ones of this size in inches.

    Raises:
        BadInput: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("A plot needs matplotlib. Install it: pip install 'cutaway[plot]'. Or write .svg.") from None
    if ax is not None:
        return ax.figure, ax
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def styled() -> Any:
    """The style as a context, so that nobody else's plots change.

    Raises:
        BadInput: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise BadInput("A plot needs matplotlib. Install it: pip install 'cutaway[plot]'. Or write .svg.") from None
    return matplotlib.rc_context({**STYLE, "font.family": _fonts()})


def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    have = set(fontManager.get_font_names())
    return [name for name in FALLBACK if name in have] or ["sans-serif"]


def literal(text: str, width: int = 80) -> str:
    """Text for a plot: nothing invisible in it, and not too long."""
    text = shown_text(text)
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def written(figure: Any, form: str) -> bytes:
    """The figure as `png`, `svg` or `pdf`: the same bytes for the same figure, without a date.

    Raises:
        BadInput: another form.
    """
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    if form not in metadata:
        raise BadInput(f"A plot is written as png, svg or pdf, not {form!r}.")
    file = io.BytesIO()
    with styled():
        figure.savefig(file, format=form, dpi=200, metadata=metadata[form])
    return file.getvalue()
