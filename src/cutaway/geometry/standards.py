"""Three spaces to see the stream in: as it is, about its mean, and with every dimension at the same scale.

A few dimensions of many models are so large that they decide every angle (Timkey & van Schijndel 2021,
arXiv 2109.04404: standardise each dimension first), and all states share a large mean. The mean and the scale of each
dimension are taken at each depth over reference tokens, so a standardised angle is one between deviations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BadInput, did_you_mean
from ..parts import TOKENS, at_once, in_parts
from ..prompts import Prompts

if TYPE_CHECKING:
    from ..model import Model
    from ..trace import Trace

SPACES = ("raw", "centred", "standardised")


def stream(trace: Trace) -> Tensor:  # [depth, prompt, position, d_model]
    """The stream at every depth, before the final norm: what enters each block, and what leaves the last. Depth 0 is
    the embedding, depth n_layers the last state; NaN at padding."""
    last = trace["resid_post", trace.model.n_layers - 1]
    return torch.cat([trace["resid_pre"].cpu(), last.cpu()[None]])


def batches(prompts: Prompts, tokens: int = TOKENS) -> Iterator[list[int]]:
    """Indices of prompts, so many at a time that they hold about that many tokens."""
    for some, _ in in_parts(len(prompts), at_once(prompts, tokens), lambda _: None):
        yield some


def check_spaces(chosen: Sequence[str]) -> tuple[str, ...]:
    """Those spaces, if they exist.

    Raises:
        BadInput: one does not.
    """
    for name in chosen:
        if name not in SPACES:
            raise BadInput(f"There is no space {name!r}. {did_you_mean(name, list(SPACES))}")
    return tuple(chosen)


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of each dimension at each depth, [depth, d_model], float64.

    Attributes:
        tokens: how many they were taken over.
        said: which tokens those are, in words.
    """

    mean: Tensor
    deviation: Tensor
    tokens: int
    said: str

    def into(self, states: Tensor, space: str) -> Tensor:
        """States [depth, ..., d_model], float64: raw, minus the mean, or that over the deviation.

        A dimension that never varies is 0 when standardised.
        """
        states = states.double()
        (space,) = check_spaces([space])
        if space == "raw":
            return states
        shape = (len(states), *[1] * (states.dim() - 2), -1)
        centred = states - self.mean.reshape(shape)
        if space == "centred":
            return centred
        deviation = self.deviation.reshape(shape)
        return torch.where(deviation > 0, centred / deviation.clamp_min(torch.finfo(torch.float64).tiny), 0.0)

    def dominance(self, top: int = 3) -> Tensor:  # [depth]
        """Share of the mean squared length that the `top` largest dimensions hold at each depth."""
        square = self.mean**2 + self.deviation**2 * ((self.tokens - 1) / self.tokens)
        return square.topk(min(top, square.shape[-1]), dim=-1).values.sum(-1) / square.sum(-1)


def standard(model: Model, prompts: Prompts, *, start: int = 1, batch: int = TOKENS) -> Standard:
    """Of all real tokens at position `start` or later, one batch of prompts at a time; each token counts once.

    Position 0 is left out by default: in many models it has a norm of its own (Sun et al. 2024, arXiv 2402.17762).
    Batches are joined by the update of Chan, Golub & LeVeque (1983).

    Raises:
        BadInput: fewer than two such tokens.
    """
    count, mean, square = 0, torch.zeros(()), torch.zeros(())

    def of(some: list[int]) -> tuple[int, Tensor, Tensor] | None:
        """(tokens, mean, sum of squares around it) of some prompts."""
        part = prompts.part(some)
        keep = part.mask.clone()  # [prompt, position]
        keep[:, :start] = False
        n = int(keep.sum())
        if n == 0:
            return None
        rows = stream(model.trace(part))[:, keep].double()  # [depth, token, d_model]
        here = rows.mean(1)
        return n, here, ((rows - here[:, None]) ** 2).sum(1)

    for _, found in in_parts(len(prompts), at_once(prompts, batch), of):
        if found is None:
            continue
        n, here, around = found
        step = here - mean
        square = square + around + step**2 * (n * count / (n + count))
        mean = mean + step * (n / (n + count))
        count += n
    if count < 2:
        raise BadInput(
            f"Only {count} tokens lie at position {start} or later in these prompts, and a mean and a spread need two. "
            "Give more or longer sentences."
        )
    said = f"all {count} real tokens at position {start} or later of {len(prompts)} prompts"
    return Standard(mean, (square / (count - 1)).sqrt(), count, said)


__all__ = ["SPACES", "Standard", "batches", "check_spaces", "standard", "stream"]
