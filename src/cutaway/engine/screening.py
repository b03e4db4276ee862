"""Screened sweeps: every cell estimated, the share that matters most computed, the rest sampled.

An estimate is not a bound: how far it can be trusted is measured on a random sample of the cells that were left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..anatomy import steady
from ..edits.cells import Grid
from ..edits.operations import Zero
from ..errors import BadInput, Refused
from ..parts import in_parts
from ..prompts import Prompts
from ..stats import rate_interval
from .estimating import estimate
from .paths import engine
from .plan import Plan
from .readings import Readings
from .recording import mean_tables, recorded
from .runs import Recorded
from .softmaxes import SOFTMAX

if TYPE_CHECKING:
    from ..model import Model

SAMPLED = 0.2
"""Of the work, how much goes to a random sample of the cells that the estimate would leave out."""


@dataclass(frozen=True)
class Chosen:
    """Which cells are computed exactly, of those that can differ from the base: the largest estimates, and a random
    sample of the others."""

    top: np.ndarray
    sample: np.ndarray
    n_left: int  # cells that were not among the largest: those the sample is of

    @property
    def cells(self) -> np.ndarray:
        return np.concatenate([self.top, self.sample])


def choose(
    estimate: np.ndarray, share: float, seed: int, among: np.ndarray | None = None, costs: np.ndarray | None = None
) -> Chosen:
    """Cells that cost a `share` of what all would: for four fifths the largest |mean estimate|, the rest at random.

    Args:
        estimate: [cell, prompt].
        among: the cells that can differ from the base; default all.
        costs: of each of those; default all alike. Large effects are often early ones, which cost more.
    """
    among = np.arange(len(estimate)) if among is None else among
    costs = np.ones(len(among)) if costs is None or not costs.any() else costs
    order = np.argsort(-np.abs(estimate[among].mean(1)), kind="stable")
    affordable = int((np.cumsum(costs[order]) <= (1 - SAMPLED) * share * costs.sum() * (1 + 1e-9)).sum())
    n_top = min(max(1, affordable), len(among))
    top, rest = among[order[:n_top]], among[order[n_top:]]
    n_sample = min(max(1, round(SAMPLED * share * len(among))), len(rest))
    drawn = np.random.default_rng(seed).choice(rest, n_sample, replace=False)
    return Chosen(top, np.sort(drawn), len(rest))


def missed(effect: np.ndarray, chosen: Chosen, above: float | None) -> dict[str, Any]:
    """What the random sample says of the cells left out, as attributes: how many reach an effect, with a 95 % limit.

    `effect` [cell] is the mean effect of the cells in `chosen.cells`. `above` defaults to the 20th largest among those
    that the estimate chose: a size that owes nothing to the sample, so that the limit holds. A rate bounds how many
    were missed, not how large the largest of them is.
    """
    size = np.abs(effect)
    found, drawn = size[: len(chosen.top)], size[len(chosen.top) :]
    if above is None:
        above = float(np.sort(found)[::-1][min(19, len(found) - 1)]) if len(found) else 0.0
    hits = int((drawn >= above).sum())
    attributes: dict[str, Any] = {
        "screened_above": above,
        "screened_left": chosen.n_left,
        "screened_sample": len(drawn),
        "screened_missed": hits,
    }
    if len(drawn):
        rate = rate_interval(hits, len(drawn), side="upper", population=chosen.n_left)
        attributes |= {"screened_missed_rate": hits / len(drawn), "screened_missed_rate_at_most": float(rate.high)}
    return attributes


class Screened:
    """A grid of which only some cells are computed: of those of a plan the `variants`, the cells `left` are not.

    Raises:
        BadInput: several metrics or read positions, or a metric or edit without a slope.
        Refused: the model's blocks cannot be called on their own.
    """

    def __init__(
        self, model: Model, base: Prompts, grid: Grid, readings: Readings, plan: Plan, share: float, seed: int
    ) -> None:
        if len(readings.metrics) != 1 or readings.at.shape[1] != 1:
            raise BadInput("A screened sweep has one metric, read at one position. Sweep once for each.")
        ways = engine(model)
        if ways.rules is None:
            raise Refused(
                f"Screening calls blocks on their own, and for {model.name} sweeps use {ways.path}. Sweep without it."
            )
        live = np.array([v.cell for v in plan.variants], int)
        cells = [grid.cells[i] for i in live]
        changes = [c for cell in cells for c in cell]
        softmaxes = {c.layer: c for c in changes if c.site in SOFTMAX}
        patterns = [replace(c, site="pattern", operation=Zero()) for c in softmaxes.values()]
        tables = mean_tables(model, changes)
        self.estimate = np.zeros((plan.n_cells, plan.n_prompts))
        self.runs: Recorded | None = None

        def estimated(some: list[int]) -> np.ndarray:
            with steady(model.hf):
                runs = recorded(
                    model, base, np.array(some), [*changes, *patterns], ways.rules, plan.answers, plan.beside, tables
                )
            # What is recorded for one group of prompts is what a sweep holds anyway; for several it is recorded again.
            found = estimate(model, base[some], cells, readings.metrics[0], readings, runs)
            self.runs = runs if len(some) == len(base) else None
            return found

        for some, found in in_parts(len(base) if cells else 0, len(plan.groups[0]), estimated):
            self.estimate[np.ix_(live, np.array(some))] = found
        costs = np.array([v.flops for v in plan.variants], float)
        self.chosen = choose(self.estimate, share, seed, live, costs)
        self.left = np.setdiff1d(live, self.chosen.cells)
        run = set(self.chosen.cells.tolist())
        self.variants = [v for v in plan.variants if v.cell in run]

    def fill(self, values: list[np.ndarray], own: list[np.ndarray]) -> list[np.ndarray]:
        """Estimates in the place of the cells that were left out."""
        self.effect = (values[0] - own[0][None])[self.chosen.cells, :, 0].mean(1)
        values[0][self.left] = own[0][None] + self.estimate[self.left, :, None]
        return values

    def mark(self, dataset: xr.Dataset, grid: Grid, above: float | None) -> xr.Dataset:
        """The dataset with what is exact, what was estimated, and what the sample says."""
        axes = [a.name for a in grid.axes]
        exact = np.ones(len(self.estimate), bool)  # those that cannot differ from the base are
        exact[self.left] = False
        estimates = np.moveaxis(self.estimate.reshape(*grid.shape, -1), -1, 0)
        dataset = dataset.assign(exact=(axes, exact.reshape(grid.shape)), estimate=(["prompt", *axes], estimates))
        return dataset.assign_attrs(missed(self.effect, self.chosen, above))


__all__ = ["Chosen", "Screened", "choose", "missed"]
