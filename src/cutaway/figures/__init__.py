"""From labelled results to pictures and tables: which numbers of a result a view shows, and in which words."""

from .attention import attention_figure
from .contributions import contribution_table, contributions, largest, place_of, split_terms, splitting
from .effects import effect_grid
from .lens import lens_drawing, lens_figure, lens_table
from .tokens import next_token_table

__all__ = [
    "attention_figure",
    "contribution_table",
    "contributions",
    "effect_grid",
    "largest",
    "lens_drawing",
    "lens_figure",
    "lens_table",
    "next_token_table",
    "place_of",
    "split_terms",
    "splitting",
]
