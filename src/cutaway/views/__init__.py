"""Views, one kind a file: elements that are complete as they are, and that a page's script makes answer.

They know numbers and labels, not studies or models. `docs/views.md` says how one is made.
"""

from .attention import pattern
from .bands import Band, Curve, bands
from .colored_text import colored_text
from .figure import Picture, Verbatim
from .frame import HALF, marked, shade_of, spoken, spoken_line, standalone
from .grids import signed_grid, token_grid
from .heads import attention
from .histogram import histogram, spoken_histogram
from .lens import Readings, lens_grid
from .lines import lines
from .matrices import matrices, matrix_data, matrix_table, spoken_matrices
from .nodes import Node, node
from .scatter import points, scatter
from .spectrum import spectrum, spoken_spectrum
from .splitting import Term, splitting, splitting_table
from .stems import spoken_stems, stems
from .table import Cell, Table, interval, num, plus, portion
from .token import token_span
from .waterfall import waterfall

__all__ = [
    "HALF",
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
    "colored_text",
    "histogram",
    "interval",
    "lens_grid",
    "lines",
    "marked",
    "matrices",
    "matrix_data",
    "matrix_table",
    "node",
    "num",
    "pattern",
    "plus",
    "points",
    "portion",
    "scatter",
    "shade_of",
    "signed_grid",
    "spectrum",
    "splitting",
    "splitting_table",
    "spoken",
    "spoken_histogram",
    "spoken_line",
    "spoken_matrices",
    "spoken_spectrum",
    "spoken_stems",
    "standalone",
    "stems",
    "token_grid",
    "token_span",
    "waterfall",
]
