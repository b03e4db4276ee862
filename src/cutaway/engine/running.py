"""Running a plan: what a store has is not run again, an engine runs the rest, and everything finds its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from ..resume.shards import Store
from .engines import Engine, Queue, Shard
from .lost import Lost
from .plan import Plan
from .work import Arrays, Work

Progress = Callable[[int, int], None]

_AGAIN = "cutaway: this machine rounds otherwise than the one before; that part is run again."
_MIXED = "cutaway: machines that round otherwise than each other made this; what one of them made is kept."
_UNLIKE = (
    "cutaway: workers round otherwise than each other. Results are within 1e-5 of the largest |logit| of what one "
    "machine gives, but not the same bits."
)


def run(work: Work, engine: Engine, done: Progress | None = None, store: Store | None = None) -> Found:
    """The numbers of a sweep.

    Args:
        engine: runs what has to be run.
        done: called with (cells done, cells).
        store: has the shards that were finished before, and keeps those that are finished now.

    Raises:
        Lost: shards that the engine gave up; all others are finished and kept.
        NotFinite: NaN or infinity in a run; the message names the prompt and the first place.
    """
    plan, found, queue = work.plan, Found.nothing_yet(work), Queue()
    count = 0

    def tell(cells: int) -> None:
        nonlocal count
        count += cells
        if done:
            done(count // len(plan.groups), len(plan.variants))

    def put(group: int, blocks: Mapping[int, Arrays]) -> None:
        for block, parts in blocks.items():
            found.put(group, block, parts)
        if blocks:
            tell(_cells(plan, blocks))

    # what a store has of groups of which no other shard has come yet, and which blocks of it are used
    before: dict[int, tuple[dict[int, Arrays], list[int]]] = {}
    for group in range(len(plan.groups)):
        stored = {} if store is None else found.stored(store, group)
        finished = _of_one_run(stored)
        if len(finished) < len(stored):
            print(_MIXED, file=sys.stderr)
        put(group, finished)
        missing = [block for block in range(len(plan.blocks)) if block not in finished]
        queue.add(group, missing)
        if finished and missing:
            before[group] = stored, list(finished)
    lost: list[Shard] = []
    warned = False
    with closing(engine(work, queue, tell)) as shards:
        for shard in shards:
            if shard.why:
                lost.append(shard)
                continue
            stored, used = before.pop(shard.group, ({}, []))
            if not found.agrees(shard.group, shard.parts):
                if stored:
                    print(_AGAIN, file=sys.stderr)
                    fits = {b: parts for b, parts in stored.items() if _same_run(parts, shard.parts)}
                    fits.pop(shard.block, None)
                    tell(-_cells(plan, used))
                    queue.add(shard.group, used)
                    queue.drop(shard.group, fits)
                    found.forget(shard.group)
                    put(shard.group, fits)
                elif not warned:
                    print(_UNLIKE, file=sys.stderr)
                    warned = True
            found.put(shard.group, shard.block, shard.parts)
            if store is not None:
                store.save(shard.group, shard.block, shard.parts)
    if lost:
        raise Lost(plan, lost)
    return found


@dataclass
class Found:
    """The numbers of a sweep so far: of each metric its values, the base's and the reference's."""

    plan: Plan
    values: list[np.ndarray]  # [cell, prompt, read]
    own: list[np.ndarray]  # [prompt, read]
    aimed: list[np.ndarray]  # [prompt, read]; none where there is no one reference
    begun: set[int] = field(default_factory=set)  # groups of which there is something

    @classmethod
    def nothing_yet(cls, work: Work) -> Found:
        cells, prompts = work.plan.n_cells, work.plan.n_prompts
        return cls(
            work.plan,
            [np.full((cells, prompts, n), np.nan) for n in work.widths],
            [np.full((prompts, n), np.nan) for n in work.widths],
            [] if work.aim is None else [np.full((prompts, n), np.nan) for n in work.aim.widths],
        )

    def stored(self, store: Store, group: int) -> dict[int, Arrays]:
        """The blocks of a group that a store has."""
        blocks = range(len(self.plan.blocks))
        found = {block: store.load(group, block, self._shapes(group, block)) for block in blocks}
        return {block: parts for block, parts in found.items() if parts is not None}

    def _shapes(self, group: int, block: int) -> Mapping[str, tuple[int, ...]]:
        prompts, cells = len(self.plan.groups[group]), len(self.plan.cells_of(block))
        shapes: dict[str, tuple[int, ...]] = {}
        shapes |= {f"value{m}": (cells, prompts, v.shape[-1]) for m, v in enumerate(self.values)}
        shapes |= {f"base{m}": (prompts, own.shape[-1]) for m, own in enumerate(self.own)}
        return shapes | {f"reference{m}": (prompts, aimed.shape[-1]) for m, aimed in enumerate(self.aimed)}

    def put(self, group: int, block: int, parts: Arrays) -> None:
        """A finished block; with the first of a group what the group has without an edit."""
        which = self.plan.groups[group]
        if group not in self.begun:
            self.begun.add(group)
            for m, own in enumerate(self.own):
                own[which] = parts[f"base{m}"]
                self.values[m][:, which] = parts[f"base{m}"][None]  # until a cell gets its own value
            for m, aimed in enumerate(self.aimed):
                aimed[which] = parts[f"reference{m}"]
        cells = np.ix_(self.plan.cells_of(block), which)
        for m, values in enumerate(self.values):
            values[cells] = parts[f"value{m}"]

    def forget(self, group: int) -> None:
        """Begin a group anew."""
        self.begun.discard(group)

    def agrees(self, group: int, parts: Arrays) -> bool:
        """Whether a shard's unedited run has the bits that its group had before, if there is anything of it."""
        which = self.plan.groups[group]
        return group not in self.begun or _same_run({f"base{m}": own[which] for m, own in enumerate(self.own)}, parts)


def _cells(plan: Plan, blocks: Iterable[int]) -> int:
    return sum(len(plan.cells_of(block)) for block in blocks)


def _of_one_run(stored: Mapping[int, Arrays]) -> dict[int, Arrays]:
    """The most blocks that are of one and the same unedited run."""
    runs: list[dict[int, Arrays]] = []
    for block, parts in stored.items():
        for run in runs:
            if _same_run(next(iter(run.values())), parts):
                run[block] = parts
                break
        else:
            runs.append({block: parts})
    return max(runs, key=len, default={})


def _same_run(one: Arrays, two: Arrays) -> bool:
    """Whether two shards come from the same bits of an unedited run."""
    return all(np.array_equal(v, two[name], equal_nan=True) for name, v in one.items() if name.startswith("base"))
