"""Who runs the shards of a sweep: an engine takes them from a queue and hands them back finished, in any order.

An engine changes where work runs and nothing of what the numbers mean. `here` runs it in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .work import Arrays, AtHand, Work


@dataclass(frozen=True)
class Shard:
    """A block of chunks of a group of prompts, finished; or given up, with the reason `why`."""

    group: int
    block: int
    parts: Arrays
    why: str = ""
    cell: int | None = None  # of the grid, where the reason is in one


class Queue:
    """Shards that are still to be run."""

    def __init__(self) -> None:
        self._left: dict[int, list[int]] = {}

    def add(self, group: int, blocks: Sequence[int]) -> None:
        """Put blocks of a group at the end of its line."""
        if blocks:
            self._left.setdefault(group, []).extend(blocks)

    def drop(self, group: int, blocks: Collection[int]) -> None:
        """Take blocks out again, as far as nobody took them."""
        left = [block for block in self._left.pop(group, []) if block not in blocks]
        self.add(group, left)

    def take(self, at_hand: int | None = None, elsewhere: Collection[int] = ()) -> tuple[int, int]:
        """(group, block) of the next shard, for somebody who has a group at hand, while others have theirs.

        The group at hand as long as there is something of it, as recording another costs time; then the first that
        nobody has; then the one with most to do.
        """
        free = [group for group in self._left if group not in elsewhere]
        if at_hand in self._left:
            group = at_hand
        else:
            group = free[0] if free else max(self._left, key=lambda g: len(self._left[g]))
        assert group is not None
        block = self._left[group].pop(0)
        if not self._left[group]:
            del self._left[group]
        return group, block

    def __len__(self) -> int:
        return sum(map(len, self._left.values()))


Tell = Callable[[int], None]
"""Called with the number of cells that one group of prompts has done since the last time."""

Engine = Callable[[Work, Queue, Tell], Generator[Shard, None, None]]
"""Runs what is in the queue, also what is added meanwhile."""


def here(work: Work, queue: Queue, tell: Tell) -> Generator[Shard, None, None]:
    """In this process, one after the other."""
    at_hand: AtHand | None = None
    while queue:
        group, block = queue.take(None if at_hand is None else at_hand.number)
        if at_hand is None or at_hand.number != group:
            at_hand = None  # before the next group is recorded
            at_hand = AtHand(work, group)
        yield Shard(group, block, at_hand.shard(block, tell))


_engine: ContextVar[Engine] = ContextVar("engine", default=here)


@contextmanager
def run_by(engine: Engine) -> Iterator[None]:
    """Sweeps inside, of this thread, are run by this engine."""
    token = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(token)


def chosen_engine() -> Engine:
    """The engine that runs the sweep that begins now."""
    return _engine.get()
