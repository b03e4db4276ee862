"""The same pictures by matplotlib, for slides and papers: functions that draw on given axes and never show anything."""

from .draw import attention_plot, grid_plot, lens_plot, lines_plot, waterfall_plot
from .style import axes_of, literal, written

__all__ = [
    "attention_plot",
    "axes_of",
    "grid_plot",
    "lens_plot",
    "lines_plot",
    "literal",
    "waterfall_plot",
    "written",
]
