"""What shards are made of, and how one is run: a group of prompts recorded once, then its blocks of chunks.

A shard depends on its work and its number alone, not on who runs it, nor on what was run before it. What a variant
cannot reach keeps the base's own value, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..anatomy import steady
from ..finite import NotFinite, all_finite, first_place, not_finite, require_finite
from ..heap import keep_freed_memory
from ..metrics import Metric
from ..prompts import Prompts
from .editing import EditTap, Task, whole_rows
from .paths import Ways
from .plan import Plan, Variant
from .readings import Readings
from .recording import Tables, mean_tables, record, recorded
from .replay import Wave
from .runs import Recorded

if TYPE_CHECKING:
    from ..model import Model

Arrays = dict[str, np.ndarray]
"""The arrays of a shard: of each metric m `value{m}` [cell of the block, prompt of the group, read], and what the group
has without an edit, `base{m}` and `reference{m}` [prompt of the group, read]."""


@dataclass(frozen=True)
class Work:
    """Everything that the numbers of a sweep follow from. `kept`: the recorded prompts, where they are one group."""

    model: Model
    ways: Ways
    base: Prompts
    plan: Plan
    readings: Readings
    aim: Aim | None = None
    kept: Recorded | None = None

    @cached_property
    def tables(self) -> Tables:
        """The means that edits put in; the same for every group."""
        return mean_tables(self.model, self.plan.changes)

    def recorded(self, which: np.ndarray) -> Recorded:
        """The runs of a group of prompts that its shards begin from."""
        if self.kept is not None and len(self.plan.groups) == 1:
            return self.kept
        return recorded(
            self.model,
            self.base,
            which,
            self.plan.changes,
            self.ways.rules,
            self.plan.answers,
            self.plan.beside,
            self.tables,
        )

    @property
    def widths(self) -> list[int]:
        """How many numbers each metric gives a prompt."""
        return [width_of(metric, self.readings) for metric in self.readings.metrics]


class AtHand:
    """One group of prompts, recorded: its shards can be run.

    Raises:
        NotFinite: NaN or infinity in a run; the message names the prompt and the first place.
    """

    def __init__(self, work: Work, number: int) -> None:
        self.work, self.number = work, number
        if work.model.device.type == "cpu":
            keep_freed_memory()
        self.which = work.plan.groups[number]
        self.at = work.readings.at[torch.from_numpy(self.which)].numpy()
        self.group = work.base.part(self.which.tolist())
        self.end = min(work.plan.end, self.group.n_positions)
        with steady(work.model.hf):
            self.runs = work.recorded(self.which)
            self.wave = Wave(work.model, self.runs, self.group, self.at, self.end)
            self.before = self.wave.base()
            self.own = [own[:, 0] for own in work.readings(self.before, self.which, self.before)]
            self.aimed = [] if work.aim is None else work.aim.of(self.runs, self.which, self.before)

    def shard(self, block: int, tell: Callable[[int], None]) -> Arrays:
        """Run one block of chunks. `tell` is called with the number of cells that were done since the last time."""
        plan, cells = self.work.plan, len(self.work.plan.cells_of(block))
        values = [np.repeat(own[None], cells, axis=0) for own in self.own]
        start = 0
        with steady(self.work.model.hf):
            for chunk in (plan.chunks[i] for i in plan.blocks[block]):
                self._chunk([plan.variants[i] for i in chunk], [v[start : start + len(chunk)] for v in values])
                start += len(chunk)
                tell(len(chunk))
        parts: Arrays = {f"value{m}": value for m, value in enumerate(values)}
        parts |= {f"base{m}": own for m, own in enumerate(self.own)}
        return parts | {f"reference{m}": aimed for m, aimed in enumerate(self.aimed)}

    def _chunk(self, chunk: Sequence[Variant], values: Sequence[np.ndarray]) -> None:
        """Put the metrics of a chunk into `values`, each [variant, prompt, read]."""
        work, at = self.work, self.at
        rows = [i for i, v in enumerate(chunk) if v.first < self.end and v.touched[self.which].any()]
        variants = [chunk[i] for i in rows]
        if not variants:
            return
        left = self.wave.climb(variants) if work.ways.rules else _forwards(self.wave, variants, work.plan.budget)
        self._require_finite(left, variants)
        metrics = work.readings.metrics
        if work.readings.several and any(m.whole is not None for m in metrics):
            left = _unreached(left, self.before, variants, at)
        found = self._read(left, variants)
        for m, metric in enumerate(metrics):
            columns = at[:, work.readings.columns_of(metric)]
            for i, variant in enumerate(variants):
                reached = (columns >= variant.first) & variant.touched[self.which][:, None]
                if metric.whole is not None:  # all reads as one
                    reached = reached.any(1, keepdims=True)
                values[m][rows[i]] = np.where(reached, found[m][:, i], values[m][rows[i]])

    def _read(self, left: torch.Tensor, variants: Sequence[Variant]) -> list[np.ndarray]:
        """Every metric of a chunk, [prompt, variant, read]."""
        readings, which, before = self.work.readings, self.which, self.before
        try:
            return readings(left, which, before)
        except NotFinite:
            for i, variant in enumerate(variants):  # which of them it was
                try:
                    readings(left[:, i : i + 1], which, before)
                except NotFinite as error:
                    raise NotFinite(str(error), variant.cell) from None
            raise

    def _require_finite(self, left: torch.Tensor, variants: Sequence[Variant]) -> None:
        """Pass if what a chunk leaves at the reads that its edits reach is finite, [prompt, variant, read, d_model]."""
        if all_finite(left):
            return
        model, group, which = self.work.model, self.group, self.which
        reached = np.stack([(self.at >= v.first) & v.touched[which][:, None] for v in variants], axis=1)
        bad = ((~torch.isfinite(left)).any(-1).cpu().numpy() & reached).any(-1)  # [prompt, variant]
        # In a wave one variant's NaN reaches others by 0 x NaN: look at each by itself first.
        for alone in (True, False):
            for row, i in np.argwhere(bad).tolist():
                tasks = [Task(0, change) for change in variants[i].all_changes]
                edit = EditTap(tasks, whole_rows(1, len(group), group.n_positions), self.runs)
                seen = first_place(model, group, row, edit)
                if seen is not None or not alone:
                    raise not_finite(model, group, row, seen, edit=edit, cell=variants[i].cell)


def width_of(metric: Metric, readings: Readings) -> int:
    """How many numbers a metric gives a prompt."""
    if metric.whole is not None and not readings.several:
        return 1
    return len(range(*readings.columns_of(metric).indices(readings.at.shape[1])))


def _unreached(
    left: torch.Tensor, before: torch.Tensor, variants: Sequence[Variant], at: np.ndarray
) -> torch.Tensor:  # [prompt, variant, read, d_model]
    """With the base's values at read positions before a variant's first: a function of several may look at them."""
    reached = torch.from_numpy(at)[:, None] >= torch.tensor([v.first for v in variants])[None, :, None]
    return torch.where(reached[..., None].to(left.device), left, before.to(left))


def _forwards(wave: Wave, variants: Sequence[Variant], budget: int) -> torch.Tensor:
    step = max(1, budget // max(1, len(wave.prompts) * wave.prompts.n_positions))
    return torch.cat([wave.forward(variants[i : i + step]) for i in range(0, len(variants), step)], dim=1)


class Aim:
    """The metric of the reference prompts' own run, toward the base's answers and foils, at their own positions."""

    def __init__(self, model: Model, base: Prompts, reference: Prompts, metrics: Sequence[Metric], read: Any) -> None:
        self.model, self.reference = model, reference
        self.readings = Readings(model, _with_targets(reference, base), metrics, read)

    @property
    def widths(self) -> list[int]:
        """How many numbers each metric gives a prompt."""
        return [width_of(metric, self.readings) for metric in self.readings.metrics]

    def of(self, runs: Recorded, which: np.ndarray, before: torch.Tensor) -> list[np.ndarray]:  # each [prompt, read]
        """Of one group of prompts; their run is already there if they are the source of a patch.

        `before`: what the base run left where it is read, for metrics that compare with it.
        """
        run = runs.sources.get(id(self.reference))
        if run is None:
            some = self.reference.part(which.tolist())
            (run,) = record(self.model, [some], [])
            require_finite(self.model, some, run.stream[-1], "Reference prompt")
        at = self.readings.at[torch.from_numpy(which)].to(run.left.device)
        left = run.left[torch.arange(len(which), device=at.device)[:, None], at][:, None]
        return [values[:, 0] for values in self.readings(left, which, before)]


def _with_targets(reference: Prompts, base: Prompts) -> Prompts:
    same = reference[list(range(len(reference)))]
    same.answers, same.foils = base.answers, base.foils
    return same
