"""Running a plan: for each group of prompts record once, let its chunks climb, read the metrics.

What a variant cannot reach keeps the base's own value, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .anatomy import steady
from .errors import BadInput
from .metrics import Metric
from .paths import Ways
from .plan import Plan, Variant
from .prompts import Prompts
from .readings import Readings
from .recording import mean_tables, record, recorded
from .replay import Wave
from .runs import Recorded

if TYPE_CHECKING:
    from .model import Model

Progress = Callable[[int, int], None]


def run(
    model: Model,
    ways: Ways,
    base: Prompts,
    plan: Plan,
    readings: Readings,
    aim: Aim | None,
    done: Progress | None,
    kept: Recorded | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(values [cell, prompt, read], base values [prompt, read]) of each metric.

    Args:
        aim: takes the metric of the reference prompts as they come by.
        done: called with (cells done, cells).
        kept: what was recorded of the prompts before, where they are one group.
    """
    n_reads = [1 if _one(m, readings) else _width(m, readings) for m in readings.metrics]
    values = [np.full((plan.n_cells, plan.n_prompts, n), np.nan) for n in n_reads]
    own = [np.full((plan.n_prompts, n), np.nan) for n in n_reads]
    changes = [c for v in plan.variants for c in v.all_changes]
    reuse = kept if len(plan.groups) == 1 else None
    tables = None if reuse else mean_tables(model, changes)
    for i, which in enumerate(plan.groups):

        def cells(count: int, group: int = i) -> None:
            if done:
                done((group * len(plan.variants) + count) // len(plan.groups), len(plan.variants))

        with steady(model.hf):
            runs = reuse or recorded(model, base, which, changes, ways.rules, plan.answers, tables)
            if aim is not None:
                aim.take(runs, which)
            _group(model, ways, base, plan, readings, runs, which, values, own, cells)
            del runs  # before the next group is recorded
    return values, own


def _width(metric: Metric, readings: Readings) -> int:
    return len(range(*readings.columns_of(metric).indices(readings.at.shape[1])))


def _one(metric: Metric, readings: Readings) -> bool:
    """Whether a metric is one number of all that is read."""
    return metric.whole is not None and not readings.several


def _group(
    model: Model,
    ways: Ways,
    base: Prompts,
    plan: Plan,
    readings: Readings,
    runs: Recorded,
    which: np.ndarray,
    values: list[np.ndarray],
    own: list[np.ndarray],
    cells: Callable[[int], None],
) -> None:
    """Fill in the values of one group of prompts; `cells` is told how many cells are done."""
    at = readings.at[torch.from_numpy(which)].numpy()
    group = base[which.tolist()]
    end = min(plan.end, group.n_positions)
    wave = Wave(model, runs, group, at, end)
    before = wave.base()
    for m, found in enumerate(readings(before, which, before)):
        own[m][which] = found[:, 0]
        values[m][:, which] = found.transpose(1, 0, 2)
    mixed = readings.several and any(m.whole is not None for m in readings.metrics)
    count = 0
    for chunk in plan.chunks:
        variants = [v for v in (plan.variants[i] for i in chunk) if v.first < end and v.touched[which].any()]
        count += len(chunk)
        if variants:
            _refuse_final_norm(variants)
            left = wave.climb(variants) if ways.rules else _forwards(wave, variants, plan.budget)
            left = _unreached(left, before, variants, at) if mixed else left
            measured = readings(left, which, before)
            for m, metric in enumerate(readings.metrics):
                columns = at[:, readings.columns_of(metric)]
                _keep(values[m], measured[m], variants, which, columns, metric.whole is not None)
        cells(count)


def _keep(
    values: np.ndarray, found: np.ndarray, variants: Sequence[Variant], which: np.ndarray, at: np.ndarray, whole: bool
) -> None:
    """Put the metric of a chunk in its place, where the edit can reach what is read (`whole`: all reads as one)."""
    for i, variant in enumerate(variants):
        reached = (at >= variant.first) & variant.touched[which][:, None]
        if whole:
            reached = reached.any(1, keepdims=True)
        here = values[variant.cell, which]
        values[variant.cell, which] = np.where(reached, found[:, i], here)


def _unreached(
    left: torch.Tensor, before: torch.Tensor, variants: Sequence[Variant], at: np.ndarray
) -> torch.Tensor:  # [prompt, variant, read, d_model]
    """With the base's values at read positions before a variant's first: a function of several may look at them."""
    reached = torch.from_numpy(at)[:, None] >= torch.tensor([v.first for v in variants])[None, :, None]
    return torch.where(reached[..., None].to(left.device), left, before.to(left))


def _forwards(wave: Wave, variants: Sequence[Variant], budget: int) -> torch.Tensor:
    step = max(1, budget // max(1, len(wave.prompts) * wave.prompts.n_positions))
    return torch.cat([wave.forward(variants[i : i + step]) for i in range(0, len(variants), step)], dim=1)


def _refuse_final_norm(variants: Sequence[Variant]) -> None:
    if any(c.site == "final_norm" for v in variants for c in v.changes):
        raise BadInput("final_norm is read, not swept: edit resid_post of the last layer, which it is a function of.")


class Aim:
    """The metric of the reference prompts' own run, toward the base's answers and foils, at their own positions."""

    def __init__(self, model: Model, base: Prompts, reference: Prompts, metrics: Sequence[Metric], read: Any) -> None:
        self.model, self.reference = model, reference
        self.readings = Readings(model, _with_targets(reference, base), metrics, read)
        self.values: list[list[np.ndarray]] = [[] for _ in metrics]

    def take(self, runs: Recorded, which: np.ndarray) -> None:
        """One group of prompts; their run is already there if they are the source of a patch."""
        run = runs.sources.get(id(self.reference))
        if run is None:
            (run,) = record(self.model, [self.reference[which.tolist()]], [])
        at = self.readings.at[torch.from_numpy(which)].to(run.left.device)
        left = run.left[torch.arange(len(which), device=at.device)[:, None], at][:, None]
        for kept, values in zip(self.values, self.readings(left, which), strict=True):
            kept.append(values[:, 0])

    def arrays(self) -> list[np.ndarray]:  # [prompt, read] a metric
        return [np.concatenate(kept) for kept in self.values]


def _with_targets(reference: Prompts, base: Prompts) -> Prompts:
    same = reference[list(range(len(reference)))]
    same.answers, same.foils = base.answers, base.foils
    return same
