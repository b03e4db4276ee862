"""Mean and covariance of an activation over tokens, one batch of prompts at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BadInput
from ..prompts import Prompts
from ..recording import record
from ..runs import Key

if TYPE_CHECKING:
    from ..model import Model

BATCH = 4096
"""Tokens recorded at once."""


@dataclass
class Moments:
    """Count, mean [width] and centred sum of products [width, width] of the rows seen so far, in float64.

    Two sets of rows are joined by the pairwise update of Chan, Golub and LeVeque (1983), so that memory does not grow
    with the number of rows and a large mean costs no precision.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of rows [row, width]."""
        rows = rows.double()
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def joined(self, other: Moments) -> Moments:
        """Of both sets of rows."""
        n = self.n + other.n
        if n == 0:
            return self
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)

    @property
    def covariance(self) -> Tensor:  # [width, width]
        """Of the rows as a sample: divided by n - 1."""
        return self.scatter / max(1, self.n - 1)


def moments(
    model: Model, prompts: Prompts, places: Iterable[Key], *, start: int = 1, batch: int = BATCH
) -> dict[Key, Moments]:
    """Mean and covariance over real tokens of several sites.

    Args:
        places: (site, layer) of sites with one vector a token, such as ("mlp_out", 3).
        start: first position that counts. Position 0 has the norm of many tokens in many models, so it is left out.
        batch: tokens recorded at once; memory is this many rows and one square matrix a place.

    Raises:
        BadInput: no token is left.
    """
    places = list(places)
    found: dict[Key, Moments] = {}
    rows = max(1, batch // prompts.n_positions)
    for first in range(0, len(prompts), rows):
        some = prompts[list(range(first, min(first + rows, len(prompts))))]
        (run,) = record(model, [some], places)
        keep = some.mask.clone()  # [prompt, position]
        keep[:, :start] = False
        for site, layer in places:
            value = run.site(site, 0 if layer is None else layer)[:, : keep.shape[1]]
            here = Moments.of(value[keep.to(value.device)].flatten(1).cpu())
            found[site, layer] = found[site, layer].joined(here) if (site, layer) in found else here
    if not found or not all(m.n for m in found.values()):
        raise BadInput(f"No token lies at position {start} or later in these prompts: there is nothing to average.")
    return found
