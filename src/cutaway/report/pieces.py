"""The pieces of pages, from the room that makes them."""

from ..figures import contribution_table, contributions, largest, lens_drawing, lens_table, next_token_table
from ..wording import shown_text

__all__ = [
    "contribution_table",
    "contributions",
    "largest",
    "lens_drawing",
    "lens_table",
    "next_token_table",
    "shown_text",
]
