"""Views, one kind a file: elements that are complete as they are, and that a page's script makes answer.

They know numbers and labels, not studies or models. `docs/views.md` says how one is made.
"""

from .attention import pattern
from .bands import Band, Curve, bands
from .figure import Picture, Verbatim
from .frame import marked, shade_of, spoken, spoken_line, standalone
from .grids import signed_grid, token_grid
from .heads import attention
from .lens import Readings, lens_grid
from .lines import lines
from .nodes import Node, node
from .scatter import scatter
from .splitting import Term, splitting, splitting_table
from .table import Cell, Table
from .waterfall import waterfall

__all__ = [
    "Band",
    "Cell",
    "Curve",
    "Node",
    "Picture",
    "Readings",
    "Table",
    "Term",
    "Verbatim",
    "attention",
    "bands",
    "lens_grid",
    "lines",
    "marked",
    "node",
    "pattern",
    "scatter",
    "shade_of",
    "signed_grid",
    "splitting",
    "splitting_table",
    "spoken",
    "spoken_line",
    "standalone",
    "token_grid",
    "waterfall",
]
