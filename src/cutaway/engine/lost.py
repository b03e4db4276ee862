"""Shards that an engine gave up: which, why, and how to go on."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Unfinished
from ..resume.shards import Store
from .engines import Shard
from .plan import Plan

SAID = 5
"""Shards of which a message tells the reason."""


class Lost(Exception):
    """Shards that could not be run; for whoever knows the grid, to be told in its words."""

    def __init__(self, plan: Plan, shards: list[Shard]) -> None:
        super().__init__(f"{len(shards)} shards could not be run")
        self.plan, self.shards = plan, shards


def unfinished(lost: Lost, name: Callable[[int], str], store: Store | None) -> Unfinished:
    """The error to raise. `name` gives a cell's labels."""
    plan, n = lost.plan, len(lost.shards)
    whole = len(plan.groups) * len(plan.blocks)
    said = [f"{n} of {whole} shards of this sweep could not be run; the other {whole - n} were."]
    for shard in lost.shards[:SAID]:
        which, cells = plan.groups[shard.group], plan.cells_of(shard.block)
        where = f"prompt {which[0]}" if len(which) == 1 else f"prompts {which[0]} to {which[-1]}"
        if len(cells) == 1:
            where += f", 1 cell ({name(cells[0])})"
        elif len(cells):
            where += f", {len(cells)} cells from ({name(cells[0])}) to ({name(cells[-1])})"
        at = "" if shard.cell is None else f" Cell: {name(shard.cell)}."
        said.append(f"- {where}: {shard.why}{at}")
    if n > SAID:
        said.append(f"- and {n - SAID} more")
    if store is None:
        said.append("Nothing of it is kept: with store=..., what is finished is, and the same call runs the rest.")
    else:
        said.append(f"What is finished is kept in {store.folder}: the same call again, with any engine, runs the rest.")
    return Unfinished("\n".join(said))
