"""Published figures, measured again: a table of what was printed elsewhere, and pass or fail for each."""

from . import attribution, exploratory, repeats
from .figures import Figure, Outcome, Publication, compare

PUBLICATIONS: dict[str, Publication] = {
    publication.key: publication
    for publication in (attribution.PUBLICATION, repeats.PUBLICATION, exploratory.PUBLICATION)
}
"""What can be replicated, by name."""

__all__ = ["PUBLICATIONS", "Figure", "Outcome", "Publication", "compare"]
