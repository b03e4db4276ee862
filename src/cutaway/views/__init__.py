"""Pictures as SVG, one kind a file. They know numbers and labels, not studies or models."""

from .attention import pattern
from .bands import Band, Curve, bands
from .frame import shade_of, spoken, spoken_line, standalone
from .grids import signed_grid, token_grid
from .lines import lines
from .scatter import scatter
from .waterfall import waterfall

__all__ = [
    "Band",
    "Curve",
    "bands",
    "lines",
    "pattern",
    "scatter",
    "shade_of",
    "signed_grid",
    "spoken",
    "spoken_line",
    "standalone",
    "token_grid",
    "waterfall",
]
