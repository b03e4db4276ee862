"""Mean and covariance of an activation over tokens, one batch of prompts at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.recording import record
from ..engine.runs import Key
from ..errors import BadInput
from ..finite import require_finite, require_finite_site
from ..parts import TOKENS, at_once, in_parts
from ..prompts import Prompts

if TYPE_CHECKING:
    from ..model import Model


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
    model: Model, prompts: Prompts | Iterable[Prompts], places: Iterable[Key], *, start: int = 1, batch: int = TOKENS
) -> dict[Key, Moments]:
    """Mean and covariance over real tokens of several sites.

    Args:
        prompts: or any iterable of them, of which one is held at a time.
        places: (site, layer) of sites with one vector a token, such as ("mlp_out", 3).
        start: first position that counts. Position 0 has the norm of many tokens in many models, so it is left out.
        batch: tokens recorded at once; memory is this many rows and one square matrix a place.

    Raises:
        BadInput: no token is left, or NaN or infinity in a run (the message names the prompt and the first place).
    """
    places = list(places)
    found: dict[Key, Moments] = {}
    for values in recorded_rows(model, prompts, places, start, batch):
        for key, rows in values.rows.items():
            here = Moments.of(rows)
            found[key] = found[key].joined(here) if key in found else here
    if not found or not all(m.n for m in found.values()):
        raise BadInput(f"No token lies at position {start} or later in these prompts: there is nothing to average.")
    return found


@dataclass
class Rows:
    """Activations of some prompts, token by token: `rows` place -> [token, width], and where each token lies."""

    rows: dict[Key, Tensor]
    prompt: Tensor  # [token] index among all prompts
    position: Tensor  # [token]
    token_id: Tensor  # [token]


def recorded_rows(
    model: Model, prompts: Prompts | Iterable[Prompts], places: Iterable[Key], start: int = 1, batch: int = TOKENS
) -> Iterator[Rows]:
    """Real tokens at position `start` and later, `batch` tokens of activations at a time and none kept."""
    places, before = list(places), 0
    for every in [prompts] if isinstance(prompts, Prompts) else prompts:
        work = partial(_rows, model, every, places, start, before)
        for _, rows in in_parts(len(every), at_once(every, batch), work):
            yield rows
        before += len(every)


def _rows(model: Model, every: Prompts, places: list[Key], start: int, before: int, index: list[int]) -> Rows:
    some = every.part(index)
    some.numbers = [before + i for i in index]  # among all sets
    (run,) = record(model, [some], places)
    require_finite(model, some, run.stream[-1])
    keep = some.mask.clone()  # [prompt, position]
    keep[:, :start] = False
    rows = {}
    for site, layer in places:
        value = run.site(site, 0 if layer is None else layer)[:, : keep.shape[1]]
        require_finite_site(model, some, site, layer, value)
        rows[site, layer] = value[keep.to(value.device)].flatten(1).cpu()
    prompt, position = keep.nonzero(as_tuple=True)
    return Rows(rows, prompt + before + index[0], position, some.ids[keep])
