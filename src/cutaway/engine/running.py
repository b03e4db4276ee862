"""Running a plan: for each group of prompts record once, let its chunks climb, read the metrics.

What a variant cannot reach keeps the base's own value, exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..anatomy import steady
from ..errors import BadInput
from ..finite import all_finite, first_place, not_finite, require_finite
from ..metrics import Metric
from ..prompts import Prompts
from ..resume.shards import Store
from .editing import EditTap, Task, whole_rows
from .heap import keep_freed_memory
from .paths import Ways
from .plan import Plan, Variant
from .readings import Readings
from .recording import mean_tables, record, recorded
from .replay import Wave
from .runs import Recorded

if TYPE_CHECKING:
    from ..model import Model

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
    store: Store | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(values [cell, prompt, read], base values [prompt, read]) of each metric.

    Args:
        aim: takes the metric of the reference prompts as they come by.
        done: called with (cells done, cells).
        kept: what was recorded of the prompts before, where they are one group.
        store: has the shards that were finished before, and keeps those that are finished now.

    Raises:
        NotFinite: NaN or infinity in a run; the message names the prompt and the first place.
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    found = Found.nothing_yet(plan, readings, aim)
    changes = [c for v in plan.variants for c in v.all_changes]
    reuse = kept if len(plan.groups) == 1 else None
    tables = None
    for i, which in enumerate(plan.groups):

        def cells(count: int, group: int = i) -> None:
            if done:
                done((group * len(plan.variants) + count) // len(plan.groups), len(plan.variants))

        finished = {} if store is None else found.finished(store, plan, i)
        if len(finished) == len(plan.blocks):
            found.begin(which, finished)
            found.put(plan, which, finished)
            cells(len(plan.variants))
            continue
        if tables is None and reuse is None:
            tables = mean_tables(model, changes)  # the same for every group
        with steady(model.hf):
            runs = reuse or recorded(model, base, which, changes, ways.rules, plan.answers, tables)
            if aim is not None:
                aim.take(runs, which)
            for block in _group(model, ways, base, plan, readings, runs, which, found, finished, cells):
                if store is not None:
                    store.save(i, block, found.part(plan, i, block))
            del runs  # before the next group is recorded
    return found.values, found.own


Parts = dict[str, np.ndarray]
"""The arrays of a shard, by name."""


@dataclass
class Found:
    """The numbers of a sweep so far: of each metric its values, the base's and the reference's."""

    values: list[np.ndarray]  # [cell, prompt, read]
    own: list[np.ndarray]  # [prompt, read]
    aimed: list[np.ndarray]  # [prompt, read]; none where there is no one reference

    @classmethod
    def nothing_yet(cls, plan: Plan, readings: Readings, aim: Aim | None) -> Found:
        reads = [1 if _one(m, readings) else _width(m, readings) for m in readings.metrics]
        values = [np.full((plan.n_cells, plan.n_prompts, n), np.nan) for n in reads]
        return cls(values, [np.full(v.shape[1:], np.nan) for v in values], [] if aim is None else aim.values)

    def part(self, plan: Plan, group: int, block: int) -> Parts:
        """What a shard keeps: the values of its variants, and what its group has without an edit."""
        which, cells = plan.groups[group], plan.cells_of(block)
        parts: Parts = {f"value{m}": values[np.ix_(cells, which)] for m, values in enumerate(self.values)}
        parts |= {f"base{m}": own[which] for m, own in enumerate(self.own)}
        return parts | {f"reference{m}": aimed[which] for m, aimed in enumerate(self.aimed)}

    def finished(self, store: Store, plan: Plan, group: int) -> dict[int, Parts]:
        """The blocks of a group that a store has."""
        found = {}
        for block in range(len(plan.blocks)):
            like = {name: array.shape for name, array in self.part(plan, group, block).items()}
            parts = store.load(group, block, like)
            if parts is not None:
                found[block] = parts
        return found

    def begin(self, which: np.ndarray, finished: Mapping[int, Parts]) -> None:
        """A group that needs no run: what it has without an edit."""
        parts = next(iter(finished.values()))
        self.equal_base(which, [parts[f"base{m}"] for m in range(len(self.own))])
        for m, aimed in enumerate(self.aimed):
            aimed[which] = parts[f"reference{m}"]

    def equal_base(self, which: np.ndarray, own: list[np.ndarray]) -> None:
        """Every cell of a group has the base's value, until it gets its own."""
        for m, base in enumerate(own):
            self.own[m][which] = base
            self.values[m][:, which] = base[None]

    def put(self, plan: Plan, which: np.ndarray, finished: Mapping[int, Parts]) -> None:
        """The values of finished blocks."""
        for block, parts in finished.items():
            for m, values in enumerate(self.values):
                values[np.ix_(plan.cells_of(block), which)] = parts[f"value{m}"]

    def agrees(self, which: np.ndarray, parts: Parts) -> bool:
        """Whether a group's unedited run has the bits that it had when a shard was made."""
        return all(np.array_equal(own[which], parts[f"base{m}"], equal_nan=True) for m, own in enumerate(self.own))


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
    found: Found,
    finished: dict[int, Parts],
    cells: Callable[[int], None],
) -> Iterator[int]:
    """Fill in the values of one group of prompts, block by block; `finished` has those that need no run.

    `cells` is told how many cells are done.
    """
    at = readings.at[torch.from_numpy(which)].numpy()
    group = base[which.tolist()]
    end = min(plan.end, group.n_positions)
    wave = Wave(model, runs, group, at, end)
    before = wave.base()
    found.equal_base(which, [own[:, 0] for own in readings(before, which, before)])
    if any(not found.agrees(which, parts) for parts in finished.values()):
        print("cutaway: this machine rounds otherwise than the one before; that part is run again.", file=sys.stderr)
        finished = {}
    found.put(plan, which, finished)
    missing = [b for b in range(len(plan.blocks)) if b not in finished]
    mixed = readings.several and any(m.whole is not None for m in readings.metrics)
    count = sum(len(plan.chunks[i]) for b in finished for i in plan.blocks[b])
    for block in missing:
        for chunk in (plan.chunks[i] for i in plan.blocks[block]):
            variants = [v for v in (plan.variants[i] for i in chunk) if v.first < end and v.touched[which].any()]
            count += len(chunk)
            if variants:
                _refuse_final_norm(variants)
                left = wave.climb(variants) if ways.rules else _forwards(wave, variants, plan.budget)
                _require_finite(model, group, which, runs, left, variants, at)
                left = _unreached(left, before, variants, at) if mixed else left
                measured = readings(left, which, before)
                for m, metric in enumerate(readings.metrics):
                    columns = at[:, readings.columns_of(metric)]
                    _keep(found.values[m], measured[m], variants, which, columns, metric.whole is not None)
            cells(count)
        yield block


def _require_finite(
    model: Model,
    group: Prompts,
    which: np.ndarray,
    runs: Recorded,
    left: torch.Tensor,
    variants: Sequence[Variant],
    at: np.ndarray,
) -> None:
    """Pass if what a chunk leaves at the reads that its edits reach is finite, [prompt, variant, read, d_model]."""
    if all_finite(left):
        return
    reached = np.stack([(at >= v.first) & v.touched[which][:, None] for v in variants], axis=1)
    bad = ((~torch.isfinite(left)).any(-1).cpu().numpy() & reached).any(-1)  # [prompt, variant]
    for alone in (True, False):  # in a wave one variant's NaN reaches others by 0 x NaN: look at each by itself first
        for row, i in np.argwhere(bad).tolist():
            tasks = [Task(0, change) for change in variants[i].all_changes]
            edit = EditTap(tasks, whole_rows(1, len(group), group.n_positions), runs)
            seen = first_place(model, group, row, edit)
            if seen is not None or not alone:
                raise not_finite(model, group, row, int(which[row]), seen, edit=edit, cell=variants[i].cell)


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
        self.values = [
            np.full((len(base), 1 if _one(m, self.readings) else _width(m, self.readings)), np.nan) for m in metrics
        ]  # [prompt, read]

    def take(self, runs: Recorded, which: np.ndarray) -> None:
        """One group of prompts; their run is already there if they are the source of a patch."""
        run = runs.sources.get(id(self.reference))
        if run is None:
            some = self.reference[which.tolist()]
            (run,) = record(self.model, [some], [])
            require_finite(self.model, some, run.stream[-1], which.tolist(), "Reference prompt")
        at = self.readings.at[torch.from_numpy(which)].to(run.left.device)
        left = run.left[torch.arange(len(which), device=at.device)[:, None], at][:, None]
        for kept, values in zip(self.values, self.readings(left, which), strict=True):
            kept[which] = values[:, 0]


def _with_targets(reference: Prompts, base: Prompts) -> Prompts:
    same = reference[list(range(len(reference)))]
    same.answers, same.foils = base.answers, base.foils
    return same
