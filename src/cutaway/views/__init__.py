"""Pictures as SVG, one kind a file. They know numbers and labels, not studies or models."""

from .attention import pattern
from .bands import Band, Curve, bands
from .colored_text import colored_text
from .frame import shade_of, spoken, spoken_line, standalone
from .grids import signed_grid, token_grid
from .histogram import histogram, spoken_histogram
from .lines import lines
from .matrices import matrices, spoken_matrices
from .nodes import Node, node
from .scatter import points, scatter
from .spectrum import spectrum, spoken_spectrum
from .stems import spoken_stems, stems
from .waterfall import waterfall

__all__ = [
    "Band", "Curve", "Node",
    "bands", "colored_text", "histogram", "lines", "matrices", "node", "pattern", "points", "scatter", "shade_of",
    "signed_grid", "spectrum", "spoken", "spoken_histogram", "spoken_line", "spoken_matrices", "spoken_spectrum",
    "spoken_stems", "standalone", "stems", "token_grid", "waterfall",
]  # fmt: skip
