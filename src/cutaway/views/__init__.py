"""Pictures, one kind a file. They know numbers and labels, not studies or models."""

from .attention import pattern
from .frame import shade_of, spoken, spoken_line, standalone
from .grids import signed_grid, token_grid
from .lines import lines
from .nodes import Node, node
from .scatter import scatter
from .waterfall import waterfall

__all__ = [
    "Node",
    "lines",
    "node",
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
