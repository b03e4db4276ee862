"""The same pictures by matplotlib, for slides and papers: functions that draw on given axes and never show anything."""

from .draw import attention_plot, grid_plot, lens_plot, lines_plot, points_plot, token_plot, waterfall_plot
from .style import axes_of, colours_of, ink_on, literal, written

__all__ = [
    "attention_plot",
    "axes_of",
    "colours_of",
    "grid_plot",
    "ink_on",
    "lens_plot",
    "lines_plot",
    "literal",
    "points_plot",
    "token_plot",
    "waterfall_plot",
    "written",
]
