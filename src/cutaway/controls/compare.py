"""A direction against its ladder: the same measurement of every rung, the items as the unit, p-values over draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..directions import Direction
from ..errors import BadInput
from ..stats import mean_interval, paired_interval
from .ladder import NULL, Control
from .nulls import empirical_p

Measure = Callable[[Tensor], Mapping[str, np.ndarray]]
"""Vectors [vector, width] or [vector, prompt, width] -> outcomes by name, each [prompt, vector]; NaN where a prompt
does not count for an outcome."""

VECTOR = "vector"
"""The arm of the direction itself."""


def against(
    measure: Measure,
    direction: Direction,
    controls: Mapping[str, Control],
    families: Sequence[str],
    level: float = 0.95,
) -> xr.Dataset:
    """Measure a direction and all its controls.

    Args:
        measure: what is measured of a set of vectors: a readout edit, an intervention, anything.
        families: the item of each prompt.

    Returns:
        Dataset over outcome, arm (`vector`, then the rungs): `mean` over items with a t interval `low`, `high`, and
        `difference` from the vector (vector - arm, paired by item) with `difference_low`, `difference_high`; of null
        rungs `p_greater`, `p_less`: (1 + draws whose mean over items reaches the vector's) / (1 + draws); over arm:
        `kind`, `meaning`, `n_draws`, `own_norm`; over outcome: `items` that count. With draws: `draw_mean` over
        outcome, arm, draw, NaN beyond an arm's draws; `value` over outcome, prompt, arm, the mean over draws.

    Raises:
        BadInput: fewer than two families.
    """
    if len(set(families)) < 2:
        raise BadInput("An interval over items needs at least two. Give more prompts, of different families.")
    arms = {VECTOR: direction.vector[None]} | {name: control.vectors for name, control in controls.items()}
    found = _measured(measure, arms)
    outcomes = list(found[VECTOR])
    n_draws = [len(some) for some in arms.values()]
    shape = (len(outcomes), len(arms))
    cells = ("mean", "low", "high", "difference", "difference_low", "difference_high", "p_greater", "p_less")
    data = {name: np.full(shape, np.nan) for name in cells}
    draws = np.full((*shape, max(n_draws)), np.nan)
    values = np.full((len(outcomes), len(families), len(arms)), np.nan)
    items = np.zeros(len(outcomes), int)
    labels = np.asarray(families)
    for o, outcome in enumerate(outcomes):
        own = found[VECTOR][outcome][:, 0]
        counts = np.isfinite(own)  # whether a prompt counts does not depend on the vector
        items[o] = len(set(labels[counts]))
        for a, name in enumerate(arms):
            value = found[name][outcome]
            mean = _mean(value)
            values[o, :, a] = mean
            if items[o] < 2:
                continue
            drawn = _item_means(value[counts], labels[counts])  # [draw]
            draws[o, a, : len(drawn)] = drawn
            interval = mean_interval(mean[counts], labels[counts].tolist(), level=level)
            data["mean"][o, a], data["low"][o, a], data["high"][o, a] = interval.estimate, interval.low, interval.high
            if name == VECTOR:
                continue
            gap = paired_interval(own[counts], mean[counts], labels[counts].tolist(), level=level)
            for key, x in (("difference", gap.estimate), ("difference_low", gap.low), ("difference_high", gap.high)):
                data[key][o, a] = x
            if controls[name].kind == NULL:
                data["p_greater"][o, a] = empirical_p(draws[o, 0, 0], drawn)
                data["p_less"][o, a] = empirical_p(draws[o, 0, 0], drawn, "less")
    rungs = [None, *controls.values()]
    return xr.Dataset(
        {
            **{name: (("outcome", "arm"), v) for name, v in data.items()},
            "draw_mean": (("outcome", "arm", "draw"), draws),
            "value": (("outcome", "prompt", "arm"), values),
            "items": ("outcome", items),
            "kind": ("arm", ["vector" if c is None else c.kind for c in rungs]),
            "meaning": ("arm", [direction.name if c is None else c.meaning for c in rungs]),
            "own_norm": ("arm", [direction.norm if c is None else c.own_norm for c in rungs]),
            "n_draws": ("arm", n_draws),
        },
        {"outcome": outcomes, "arm": list(arms), "family": ("prompt", list(families))},
        {"norm": direction.norm, "direction": direction.name, "level": level},
    )


def _measured(measure: Measure, arms: Mapping[str, Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """Every arm's outcomes. Single vectors that are shared by all prompts are measured together."""
    singles = [name for name, some in arms.items() if some.dim() == 2 and len(some) == 1]
    found: dict[str, dict[str, np.ndarray]] = {}
    together = measure(torch.cat([arms[name] for name in singles]))
    for i, name in enumerate(singles):
        found[name] = {key: np.asarray(v, dtype=np.float64)[:, i : i + 1] for key, v in together.items()}
    for name, some in arms.items():
        if name not in found:
            found[name] = {key: np.asarray(v, dtype=np.float64) for key, v in measure(some).items()}
    return found


def _mean(values: np.ndarray) -> np.ndarray:  # [prompt, draw] -> [prompt]
    """Over the draws that were measured."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0.0).sum(1) / np.where(there.any(1), there.sum(1), np.nan)


def _item_means(values: np.ndarray, families: np.ndarray) -> np.ndarray:  # [prompt, draw] -> [draw]
    """Mean over items of the mean within each."""
    _, index = np.unique(families, return_inverse=True)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return (sums / np.bincount(index)[:, None]).mean(0)
