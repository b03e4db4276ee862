"""How much memory a planned sweep takes beside the model's weights: counted from the plan, before anything runs.

Three things live at once: the recorded runs of one group of prompts, one wave, and the results. The first two are
bounded by the budget of tokens; only the results grow with the number of cells.

Freed memory is not in it: on Linux a process keeps up to 256 MB of that at hand for the next wave (`heap`), which adds
nothing to a peak, but stays with the process after its first sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COPIES = 4
"""Tensors of a block's widest activation that live at once: an activation function is a few elementwise steps."""


LOGITS = 5
"""Tensors of whole rows of logits that live at once while a metric reads them."""

SCORES = 3
"""Tensors [head, query, key] that live at once where attention makes its pattern: scores, masked scores, softmax."""

PATTERNS = 6
"""The same where a pattern is edited: the model's and a copy, and of the edited tokens the old rows as they were and by
position, the source's, and the new ones."""

MASKS, COLUMNS = 2, 5
"""Tensors [query, key] that live at once, and 64-bit ones that say which column of an edited pattern is which key."""

KEPT = 1.5
"""What an allocator holds over what is alive: freed blocks of the wrong size. Measured on Linux, on the CPU."""

PARTS = 1.25
"""The same where reference prompts run part by part: some of the part before is still there. Measured likewise."""

CELL = 400
"""Bytes that a cell's plan takes."""


@dataclass(frozen=True)
class Sizes:
    """Numbers a token takes in a model, and bytes a number."""

    d_model: int
    widest: int  # of the activations inside a block
    keys_values: int  # of one layer
    heads: int
    d_head: int
    neurons: int
    vocab: int
    number: int  # bytes
    patterns: bool = False  # its attention makes them whole; else only where they are recorded or edited

    def site(self, site: str, positions: int) -> int:
        """Of a recorded site; what entered the blocks is kept anyway."""
        if site in ("embed", "resid_pre", "resid_post"):
            return 0
        if site == "pattern":
            return self.heads * positions
        if site in ("mlp_pre", "mlp_act"):
            return self.neurons
        return self.keys_values if site in ("k", "v") else max(self.d_model, self.heads * self.d_head)


@dataclass(frozen=True)
class Memory:
    """Bytes of the three, at their largest."""

    recorded: int
    wave: int
    results: int

    @property
    def total(self) -> int:
        return self.recorded + self.wave + self.results


def estimate(
    sizes: Sizes,
    n_layers: int,
    *,
    prompts: int,
    positions: int,
    wave_tokens: int,
    prefix: int,
    copied: int,
    runs: int,
    together: int,
    sites: Iterable[tuple[str, int]],
    answers: int,
    reference: tuple[int, int],
    logits: int,
    cells: int,
    results: int,
) -> Memory:
    """Bytes that a plan takes.

    Args:
        prompts: of the largest group; positions: of the longest prompt.
        wave_tokens: of one prompt in the largest wave; prefix: recorded positions before them; copied: how many of
            these are there once a variant, for variants that are rows of their own.
        runs: recorded runs, the base's and its sources', of which so many `together` in one forward; sites: recorded
            in each of them.
        answers: layers whose attention's output is kept.
        reference: prompts that are run at once for the means of an ablation, and the positions of the longest.
        logits: whole rows of logits that metrics hold at once.
        cells: of the grid; results: numbers in the result's arrays.
    """
    recorded = set(sites)
    edited = {site for site, _ in recorded}
    stream = (n_layers + 1) * sizes.d_model
    patterns = SCORES if sizes.patterns or "pattern" in edited else 0

    def inside(positions: int) -> int:  # of the recorded sites, a token
        return sum(sizes.site(site, positions) for site, _ in recorded)

    def running(positions: int) -> int:  # in one block of it, a token
        return COPIES * sizes.widest + patterns * sizes.heads * positions

    tokens = prompts * positions
    kept = runs * (stream + inside(positions) + positions) + n_layers * sizes.keys_values + answers * sizes.d_model
    making = tokens * together * running(positions)
    n, width = reference
    float64 = 3 * inside(width)  # the real tokens of a site, as they are and in double precision
    means = int(PARTS * n * width * (stream + inside(width) + max(running(width), float64)))
    here = prompts * wave_tokens
    seen = prompts * (prefix + copied + wave_tokens)
    scores = PATTERNS if "pattern" in edited else SCORES if sizes.patterns or edited & {"q", "k", "v"} else 0
    wave = here * (4 * sizes.d_model + COPIES * sizes.widest + scores * sizes.heads * (prefix + wave_tokens))
    columns = COLUMNS * 8 // sizes.number if "pattern" in edited else 0
    wave += 2 * seen * sizes.keys_values + (MASKS + columns) * here * (prefix + wave_tokens)
    return Memory(
        recorded=int(KEPT * sizes.number * tokens * kept),
        wave=int(KEPT * sizes.number * max(making, means, wave, LOGITS * logits * sizes.vocab)),
        results=CELL * cells + 8 * results,
    )
