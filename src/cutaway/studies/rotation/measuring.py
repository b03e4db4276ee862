"""Angles at chosen tokens and their baselines, one batch of sentences at a time, so that no state is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ...geometry.angles import angle, angles_between, random_update_angles
from ...geometry.rotations import UNITS, measured
from ...geometry.standards import SPACES, Standard, batches, stream
from ...prompts import Prompts
from ...tasks.sentences import Sentences

if TYPE_CHECKING:
    from ...model import Model

Array = NDArray[np.float64]
BASELINES = ("other tokens", "other depths")
Spot = tuple[int, int]
"""Sentence and position."""


def measure(
    model: Model, given: Sentences, spots: Mapping[str, Sequence[Spot | None]], standard: Standard
) -> tuple[xr.Dataset, dict[str, Array]]:
    """Turns at lists of tokens of equal length, and the baselines of the first list, in one pass; angles in degrees.

    Returns:
        `geometry.angles.turns` over who, space, occurrence and layer (depth for `norm`), NaN where a list has no token;
        and name -> [space, occurrence, layer]. `other tokens`: the mean angle between the token's state before a block
        and the states after it of every other token from position 1 up to it. `other depths`: the mean angle between
        its state before a block and its own states at every depth but those two. Each is the mean over all there are,
        not a draw, and depends on the token's prefix alone; NaN where there are none.
    """
    first = next(iter(spots.values()))
    sizes = {"layer": model.n_layers, "depth": model.n_layers + 1}
    axis = {name: "depth" if name == "norm" else "layer" for name in UNITS}
    values = {name: np.full((len(spots), len(SPACES), len(first), sizes[axis[name]]), np.nan) for name in UNITS}
    shuffled = {name: np.full((len(SPACES), len(first), model.n_layers), np.nan) for name in BASELINES}
    for some, states in _streams(model, given, [spot for list_ in spots.values() for spot in list_ if spot]):
        for w, list_ in enumerate(spots.values()):
            here = [(k, some[spot[0]], spot[1]) for k, spot in enumerate(list_) if spot and spot[0] in some]
            if here:
                index, rows, at = map(list, zip(*here, strict=True))
                found = measured(states[:, rows, at], standard, SPACES, ("occurrence",), {})
                for name in UNITS:
                    values[name][w][:, index] = found[name].values
            for k, row, position in here if list_ is first else ():
                for s, space in enumerate(SPACES):
                    for name, angles in _baselines(standard.into(states[:, row, : position + 1], space)).items():
                        shuffled[name][s, k] = np.rad2deg(angles)
    data = {
        name: (("who", "space", "occurrence", axis[name]), np.rad2deg(x) if units == "rad" else x,
               {"units": "degrees" if units == "rad" else units})
        for (name, units), x in zip(UNITS.items(), values.values(), strict=True)
    }  # fmt: skip
    coords = {"who": list(spots), "space": list(SPACES), "layer": np.arange(model.n_layers)}
    return xr.Dataset(data, {**coords, "depth": np.arange(model.n_layers + 1)}), shuffled


def _streams(model: Model, given: Sentences, spots: Sequence[Spot]) -> Iterator[tuple[dict[int, int], Tensor]]:
    """The stream [depth, prompt, position, d_model] of sentences up to their last spot, a batch at a time, and which
    row is which sentence."""
    ends: dict[int, int] = {}
    for sentence, position in spots:
        ends[sentence] = max(ends.get(sentence, 0), position + 1)
    wanted = sorted(ends)
    prompts = Prompts(ids=[given.prompts.ids[i, : ends[i]].tolist() for i in wanted])
    for some in batches(prompts):
        yield {wanted[i]: row for row, i in enumerate(some)}, stream(model.trace(prompts.part(some)))


def _baselines(states: Tensor) -> dict[str, Array]:  # [depth, position, d_model], the target last -> [layer]
    own, others = states[:, -1], states[:, 1:-1]
    found = {}
    if others.shape[1]:
        found["other tokens"] = angle(own[:-1, None], others[1:]).mean(1).numpy()
    depths = len(own)
    if depths > 2:
        between = angles_between(own, own)[:-1]  # [layer, depth]
        away = torch.ones(depths - 1, depths, dtype=torch.bool)
        layers = torch.arange(depths - 1)
        away[layers, layers] = away[layers, layers + 1] = False
        found["other depths"] = (between * away).sum(1).div(depths - 2).numpy()
    return found


def random_updates(
    turns: xr.Dataset, d_model: int, draws: int, seed: int, level: float
) -> tuple[Array, tuple[Array, Array]]:
    """What updates as long as each block's would do in random directions, in degrees: the mean angle over draws,
    [space, occurrence, layer], and the limits within which the mean over occurrences lies in `level` of the draws,
    [space, layer]."""
    norm = turns["norm"].isel(depth=slice(None, -1)).transpose("space", "occurrence", "depth").values
    update = turns["update"].transpose("space", "occurrence", "layer").values
    total, means = np.zeros(update.shape), []
    for draw in range(draws):  # none of which is kept
        (one,) = np.rad2deg(random_update_angles(norm, update, d_model, 1, (seed, draw)))
        total += one
        means.append(one.mean(1))  # [space, layer]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return total / draws, (low, high)
