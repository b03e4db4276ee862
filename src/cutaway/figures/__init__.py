"""From labelled results to pictures and tables: which numbers of a result a view shows, and in which words."""

from .attention import attention_figure
from .bos import bos_table
from .comparison import before_after_table
from .contributions import contribution_table, contributions, largest, place_of, split_terms, splitting
from .effects import effect_grid, share_unit
from .energy import effective, energy_tables
from .ladder import draws_figure, ladder_table
from .lens import followed_tokens, lens_drawing, lens_figure, lens_table
from .tokens import next_token_table

__all__ = [
    "attention_figure",
    "before_after_table",
    "bos_table",
    "contribution_table",
    "contributions",
    "draws_figure",
    "effect_grid",
    "effective",
    "energy_tables",
    "followed_tokens",
    "ladder_table",
    "largest",
    "lens_drawing",
    "lens_figure",
    "lens_table",
    "next_token_table",
    "place_of",
    "share_unit",
    "split_terms",
    "splitting",
]
