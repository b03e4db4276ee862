"""Head scores on repeated random tokens, as the Exploratory Analysis Demo of TransformerLens takes them.

It draws ids with replacement, puts no BOS first, and averages a whole diagonal of the pattern: with period n the one
for induction begins at the last token of the first copy, where ours (`cutaway.head_scores`) begins with the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import Figure, Publication

if TYPE_CHECKING:
    from ..model import Model

PERIOD, ROWS, IDS = 100, 2, (100, 20_000)


def repeat_figures(model: Model) -> dict[str, float]:
    """`previous token`, `duplicate token` and `induction` of every head, over both rows."""
    import torch

    from ..prompts import Prompts

    ids = torch.randint(*IDS, (ROWS, PERIOD), generator=torch.Generator().manual_seed(0))
    trace = model.trace(Prompts(ids=torch.cat([ids, ids], dim=1)))
    back = {"previous token": 1, "duplicate token": PERIOD, "induction": PERIOD - 1}
    found: dict[str, float] = {}
    for layer in range(model.n_layers):
        pattern = trace.block(layer, ["pattern"])["pattern"].double()  # [row, head, query, key]
        for name, distance in back.items():
            score = pattern.diagonal(-distance, dim1=2, dim2=3).mean((0, 2))
            found |= {f"{name} L{layer}H{head}": float(x) for head, x in enumerate(score)}
    return found


_PRINTED = {
    "previous token": {"L4H11": 0.992, "L3H7": 0.529, "L6H8": 0.499, "L2H2": 0.482},
    "duplicate token": {"L0H5": 0.703, "L3H0": 0.678, "L0H1": 0.132, "L0H10": 0.019},
    "induction": {
        "L5H1": 0.931, "L6H9": 0.926, "L5H5": 0.926, "L7H10": 0.904, "L7H2": 0.851, "L5H8": 0.009, "L5H9": 0.016,
    },
}  # fmt: skip

PUBLICATION = Publication(
    key="exploratory-repeats",
    source="TransformerLens, Exploratory Analysis Demo (2023): heads on repeated random tokens",
    model="gpt2",
    figures=tuple(Figure(f"{name} {head}", x, 2e-3) for name, by in _PRINTED.items() for head, x in by.items()),
    measure=repeat_figures,
    conventions=(
        "2 rows of 100 ids drawn with replacement from 100 to 19,999 (torch's CPU generator, seed 0), twice, no BOS; "
        "means over whole diagonals of the pattern"
    ),
)
