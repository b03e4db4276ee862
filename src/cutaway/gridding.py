"""Sweeps: a grid of edits on a base run, the metric of every cell, as labelled arrays.

plan -> record base and sources once -> waves -> metrics. What a cell cannot reach is the base's own value, exactly.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from .anatomy import steady
from .editing import EditTap, Task, whole_rows
from .edits import Edits, Grid, as_edits, patch
from .errors import BadInput, Refused
from .following import recorded_tokens
from .metrics import Metric, as_metric, logit_diff, renamed
from .operations import Zero, unique
from .paths import Ways, engine
from .plan import TOKENS, Plan, Variant, make_plan
from .prompts import Prompts, Read
from .readings import Readings
from .recording import record, recorded
from .replay import Wave
from .results import prompt_coords, run_card
from .runs import Recorded
from .screening import choose, estimate, missed

if TYPE_CHECKING:
    from .model import Model

Progress = Callable[[int, int], None]


def sweep(
    model: Model,
    base: Prompts,
    edits: Edits | Sequence[Edits],
    metric: Any = logit_diff,
    read: Read | Sequence[Read] = -1,
    *,
    reference: Prompts | None = None,
    budget: int = TOKENS,
    dry_run: bool = False,
    screen: float | None = None,
    missed_above: float | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> xr.Dataset | Plan:
    """The metric of every cell of a grid of edits.

    Args:
        base: the prompts whose run is edited.
        edits: made by `patch`, `ablate`, `add`, `project_out`, `edit`; a list is made together, a mapping side by side.
        metric: one or several of `cutaway.metrics.METRICS` (or their names), or any function of (logits at the read
            positions, prompts) -> [prompt].
        read: position or role where the metric reads, or several (an axis `read`).
        reference: prompts whose own metric is what a full effect would reach; default: the source of a patch.
        budget: tokens that travel together; part of the plan, so the same budget gives the same bits.
        dry_run: return the `Plan` and run nothing.
        screen: for grids too large to be exact everywhere: estimate every cell by gradients (`cutaway.screening`) and
            compute exactly only this share of them, the largest, and a random sample of the rest. `exact` marks which;
            the attributes say how many cells of at least `missed_above` the sample found among those left out, with
            an upper 95 % limit of their rate (default: the 20th largest effect). Drawn from `seed`.
        progress: called with (cells done, cells); True or False: a line on stderr or none (default: on a terminal).

    Returns:
        Dataset over prompt and the grid's axes: `value`; `effect` = value - base; with a reference `normalized` =
        effect / (reference - base), NaN where the two are equal. Over prompt: `base`, `reference`. Several metrics or
        read positions add an axis `metric` or `read`. Cells that cannot differ from the base are exactly the base's.

    Raises:
        BadInput: edits, prompts or metrics that do not fit.
        Refused: an edited site is not certified for this model.
    """
    edits = as_edits(edits)
    metrics = _metrics(metric)
    grid = edits.compile(model, base)
    readings = Readings(model, base, metrics, read)
    screened = None if screen is None else _Screened(model, base, grid, readings, screen, seed, budget)
    cells = grid.cells if screened is None else tuple(grid.cells[i] for i in screened.chosen.cells)
    ways = engine(model)
    sources = unique(source for cell in cells for c in cell for source in c.operation.sources)
    n_recorded = recorded_tokens(base, sources, ways.rules is not None)
    planned = partial(make_plan, cells, ways.shape, base.lengths.numpy(), readings.at.numpy(), recorded=n_recorded)
    plan = planned(budget)
    if dry_run:
        return plan
    references = unique(edits.references) if reference is None else [reference]
    done = _progress(progress)
    budgets = [budget]
    comparable = len(references) == 1 and not any(m.everywhere or m.needs_base for m in metrics)
    while True:
        aim = _Aim(model, base, references[0], metrics, read) if comparable else None
        try:
            values, own, path = _run(model, ways, base, plan, readings, aim, done)
            break
        except RuntimeError as error:  # torch.OutOfMemoryError is one, and so is the CPU allocator's
            if "memory" not in str(error).lower() or budgets[-1] <= 1:
                raise
            budgets.append(budgets[-1] // 2)
            plan = planned(budgets[-1])
    if screened is not None:
        values = screened.fill(values, own)
    dataset = _dataset(model, base, grid, readings, values, own, aim.arrays() if aim else None)
    if screened is not None:
        dataset = screened.mark(dataset, grid, missed_above)
    return dataset.assign_attrs(
        run_card(
            model,
            base,
            edits=repr(edits),
            metric=", ".join(m.name for m in metrics),
            units=", ".join(m.units for m in metrics),
            read=", ".join(readings.labels),
            path=path,
            plan=plan.describe(),
            budgets=budgets,
            threads=torch.get_num_threads(),
            **{k: v for k, v in grid.fixed.items() if v is not None},
        )
    )


def denoise(model: Model, clean: Prompts, corrupt: Prompts, site: str, metric: Any = logit_diff, **more: Any) -> Any:
    """Run corrupt, put in what clean has there: where is what suffices? `more`: as for `patch` and `sweep`."""
    return _patched(model, corrupt, clean, site, metric, more)


def noise(model: Model, clean: Prompts, corrupt: Prompts, site: str, metric: Any = logit_diff, **more: Any) -> Any:
    """Run clean, put in what corrupt has there: where is what is necessary? `more`: as in `denoise`."""
    return _patched(model, clean, corrupt, site, metric, more)


def _patched(model: Model, base: Prompts, source: Prompts, site: str, metric: Any, more: dict[str, Any]) -> Any:
    choices = ("layers", "heads", "positions", "neurons", "queries", "keys")
    selection = {key: more.pop(key) for key in choices if key in more}
    return sweep(model, base, patch(site, source, **selection), metric, **more)


def _metrics(given: Any) -> list[Metric]:
    if isinstance(given, dict):
        return [renamed(as_metric(m), name) for name, m in given.items()]
    several = list(given) if isinstance(given, list | tuple) else [given]
    metrics = [as_metric(m) for m in several]
    if len({m.name for m in metrics}) < len(metrics) or not metrics:
        raise BadInput("Metrics need different names: give a mapping name -> metric.")
    if len(metrics) > 1 and len({m.everywhere for m in metrics}) > 1:
        raise BadInput("A metric of every position and one of the read positions do not fit in one array: sweep twice.")
    return metrics


# -- running --------------------------------------------------------------------------------------------------------


def _run(
    model: Model, ways: Ways, base: Prompts, plan: Plan, readings: Readings, aim: _Aim | None, done: Progress | None
) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """(values [cell, prompt, read], base values [prompt, read]) a metric, and how they were obtained."""
    rules, path = ways.rules, ways.path
    n_reads = [len(range(*readings.columns_of(m).indices(readings.at.shape[1]))) for m in readings.metrics]
    n_reads = [
        1 if m.whole is not None and not readings.several else n for m, n in zip(readings.metrics, n_reads, strict=True)
    ]
    values = [np.full((plan.n_cells, plan.n_prompts, n), np.nan) for n in n_reads]
    own = [np.full((plan.n_prompts, n), np.nan) for n in n_reads]
    changes = [c for v in plan.variants for c in v.all_changes]
    count, total = 0, max(1, len(plan.variants) * len(plan.groups))
    for which in plan.groups:
        with steady(model.hf):
            runs = recorded(model, base, which, changes, rules, plan.answers)
            at = readings.at[torch.from_numpy(which)].numpy()
            if aim is not None:
                aim.take(runs, which)
            group = base[which.tolist()]
            end = min(plan.end, group.n_positions)
            wave = Wave(model, runs, group, at, end)
            before = wave.base()
            unedited = readings(before, which, before)
            for m, found in enumerate(unedited):
                own[m][which] = found[:, 0]
                values[m][:, which] = found.transpose(1, 0, 2)
            for chunk in plan.chunks:
                variants = [v for v in (plan.variants[i] for i in chunk) if v.first < end and v.touched[which].any()]
                count += len(chunk)
                if not variants:
                    continue
                left = wave.climb(variants) if rules else _forwards(wave, variants, plan.budget)
                left = _final_norm(model, wave, variants, left)
                for m, found in enumerate(readings(left, which, before)):
                    _keep(values[m], found, variants, which, at[:, readings.columns_of(readings.metrics[m])])
                if done:
                    done(count, total)
    return values, own, path


def _keep(
    values: np.ndarray, found: np.ndarray, variants: Sequence[Variant], which: np.ndarray, at: np.ndarray
) -> None:
    """Put the metric of a chunk in its place, where the edit can reach what is read."""
    for i, variant in enumerate(variants):
        reached = (at >= variant.first) & variant.touched[which][:, None]
        if reached.shape[1] != found.shape[2]:
            reached = reached.any(1, keepdims=True)
        here = values[variant.cell, which]
        values[variant.cell, which] = np.where(reached, found[:, i], here)


def _forwards(wave: Wave, variants: Sequence[Variant], budget: int) -> torch.Tensor:
    step = max(1, budget // max(1, len(wave.prompts) * wave.prompts.n_positions))
    return torch.cat([wave.forward(variants[i : i + step]) for i in range(0, len(variants), step)], dim=1)


def _final_norm(model: Model, wave: Wave, variants: Sequence[Variant], left: torch.Tensor) -> torch.Tensor:
    if any(c.site == "final_norm" for v in variants for c in v.changes):
        raise BadInput("final_norm is read, not swept: edit resid_post of the last layer, which it is a function of.")
    return left


class _Aim:
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
        at = self.readings.at[torch.from_numpy(which)].to(run.stream[-1].device)
        left = run.stream[-1][torch.arange(len(which), device=at.device)[:, None], at][:, None]
        for kept, values in zip(self.values, self.readings(left, which), strict=True):
            kept.append(values[:, 0])

    def arrays(self) -> list[np.ndarray]:  # [prompt, read] a metric
        return [np.concatenate(kept) for kept in self.values]


def _with_targets(reference: Prompts, base: Prompts) -> Prompts:
    same = reference[list(range(len(reference)))]
    same.answers, same.foils = base.answers, base.foils
    return same


class _Screened:
    """A grid of which only some cells are computed."""

    def __init__(
        self, model: Model, base: Prompts, grid: Grid, readings: Readings, share: float, seed: int, budget: int
    ) -> None:
        if len(readings.metrics) != 1 or readings.at.shape[1] != 1:
            raise BadInput("A screened sweep has one metric, read at one position. Sweep once for each.")
        ways = engine(model)
        rules, path = ways.rules, ways.path
        if rules is None:
            raise Refused(
                f"Screening calls blocks on their own, and for {model.name} sweeps use {path}. Sweep without it."
            )
        plan = make_plan(grid.cells, ways.shape, base.lengths.numpy(), readings.at.numpy(), budget)
        changes = [c for cell in grid.cells for c in cell]
        self.estimate = np.zeros((len(grid.cells), len(base)))
        for which in plan.groups:
            with steady(model.hf):
                also = [replace(c, site="pattern", operation=Zero()) for c in changes if c.site in ("q", "k")]
                runs = recorded(model, base, which, [*changes, *also], rules)
            group = base[which.tolist()]
            self.estimate[:, which] = estimate(model, group, grid.cells, readings.metrics[0], readings, runs)
        self.chosen = choose(self.estimate, share, seed)

    def fill(self, values: list[np.ndarray], own: list[np.ndarray]) -> list[np.ndarray]:
        """Estimates for all cells, exact values for those that were computed."""
        whole = own[0][None] + self.estimate[:, :, None]
        whole[self.chosen.cells] = values[0]
        self.effect = (values[0] - own[0][None])[:, :, 0].mean(1)
        return [whole]

    def mark(self, dataset: xr.Dataset, grid: Grid, above: float | None) -> xr.Dataset:
        axes = [a.name for a in grid.axes]
        exact = np.zeros(len(grid.cells), bool)
        exact[self.chosen.cells] = True
        estimates = np.moveaxis(self.estimate.reshape(*grid.shape, -1), -1, 0)
        dataset = dataset.assign(exact=(axes, exact.reshape(grid.shape)), estimate=(["prompt", *axes], estimates))
        return dataset.assign_attrs(missed(self.effect, self.chosen, above, len(grid.cells)))


def single_edit(model: Model, prompts: Prompts, edits: Any) -> EditTap:
    """A tap that makes one cell's changes in a whole run of these prompts.

    Raises:
        BadInput: the edits are a grid of several cells.
    """
    grid = as_edits(edits).compile(model, prompts)
    if len(grid.cells) != 1:
        axes = " x ".join(f"{len(a.labels)} {a.name}s" for a in grid.axes)
        raise BadInput(
            f"A trace runs one edited run, and these edits are a grid of {len(grid.cells)} ({axes}). Choose one of "
            "each, as in patch('resid_pre', source, layers=3, positions=-1)."
        )
    runs = recorded(model, prompts, np.arange(len(prompts)), grid.cells[0], None)
    slots = whole_rows(1, len(prompts), prompts.n_positions)
    return EditTap([Task(0, change) for change in grid.cells[0]], slots, runs)


# -- results ------------------------------------------------------------------------------------------------------


def _dataset(
    model: Model,
    base: Prompts,
    grid: Grid,
    readings: Readings,
    values: list[np.ndarray],
    own: list[np.ndarray],
    aim: list[np.ndarray] | None,
) -> xr.Dataset:
    names = [m.name for m in readings.metrics]
    everywhere = readings.metrics[0].everywhere
    axes = [a.name for a in grid.axes]
    if everywhere:
        hidden = ~readings.follows.numpy()
        values = [np.where(hidden, np.nan, v) for v in values]
        own = [np.where(hidden, np.nan, o) for o in own]
    read_dims = ["read"] if readings.several or everywhere else []

    def labelled(arrays: list[np.ndarray], dims: list[str]) -> tuple[list[str], np.ndarray]:
        stacked = np.stack(arrays, axis=-2) if len(arrays) > 1 else arrays[0]  # [..., metric, read]
        if not read_dims:
            stacked = stacked[..., 0]
        return [*dims, *(["metric"] if len(arrays) > 1 else []), *read_dims], stacked

    n = len(base)
    shaped = [np.moveaxis(v.reshape(*grid.shape, n, v.shape[-1]), len(grid.shape), 0) for v in values]
    data = {"value": labelled(shaped, ["prompt", *axes]), "base": labelled(own, ["prompt"])}
    if aim is not None:
        data["reference"] = labelled(aim, ["prompt"])
    coords: dict[str, Any] = {**prompt_coords(base), **{a.name: list(a.labels) for a in grid.axes}}
    if len(names) > 1:
        coords["metric"] = names
    if read_dims:
        coords["read"] = np.arange(readings.everywhere.shape[1]) if everywhere else readings.labels
    dataset = xr.Dataset(data, coords=coords)
    dataset["effect"] = dataset["value"] - dataset["base"]
    dataset["effect"] = dataset["effect"].transpose(*dataset["value"].dims)
    if aim is not None:
        span = dataset["reference"] - dataset["base"]
        dataset["normalized"] = (dataset["effect"] / span.where(span != 0)).transpose(*dataset["value"].dims)
    return dataset


def _progress(given: Progress | bool | None) -> Progress | None:
    if callable(given):
        return given
    if given is False or (given is None and not sys.stderr.isatty()):
        return None
    start = time.monotonic()

    def line(done: int, total: int) -> None:
        left = (time.monotonic() - start) / max(done, 1) * (total - done)
        end = "\n" if done >= total else ""
        print(f"\r{done} of {total} cells, {left:.0f} s left ", end=end, file=sys.stderr, flush=True)

    return line


__all__ = ["denoise", "engine", "noise", "single_edit", "sweep"]
