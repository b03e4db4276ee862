"""Making changes in a run that holds many variants at once: which token of which variant lies where, and a tap that
edits each variant's own tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..edits.cells import Change
from .runs import Recorded

KEY_SITES = frozenset({"k", "v"})


@dataclass(frozen=True)
class Slots:
    """Where the tokens of a run lie. Tables are [variant, prompt, position]; -1: this run does not hold the token.

    `row` [variant, prompt] is the row of a variant's prompt; `query` and `key` are indices along the axis of queries
    and of keys. Keys before a variant's first position are shared by all variants (they are the unedited ones).
    """

    row: np.ndarray
    query: np.ndarray
    key: np.ndarray
    first: np.ndarray  # [variant]


def whole_rows(n_variants: int, n_prompts: int, n_positions: int) -> Slots:
    """Each variant's prompts in full, one after the other along the batch."""
    row = np.arange(n_variants * n_prompts).reshape(n_variants, n_prompts)
    at = np.broadcast_to(np.arange(n_positions), (n_variants, n_prompts, n_positions))
    return Slots(row, at, at, np.zeros(n_variants, int))


@dataclass(frozen=True)
class Task:
    """A change that one variant of the run makes inside a block (or at `final_norm`)."""

    variant: int
    change: Change


class EditTap:
    """A tap that makes every variant's changes on that variant's tokens."""

    def __init__(self, tasks: Sequence[Task], slots: Slots, runs: Recorded) -> None:
        self.slots, self.runs = slots, runs
        self.tasks: dict[tuple[str, int | None], list[Task]] = defaultdict(list)
        for task in tasks:
            layer = None if task.change.site in ("embed", "final_norm") else task.change.layer
            self.tasks[task.change.site, layer].append(task)

    def wants(self, site: str, layer: int | None) -> bool:
        return (site, layer) in self.tasks

    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
        if not self.wants(site, layer):
            return value
        pattern = site == "pattern"
        new = value.transpose(1, 2).clone() if pattern else value.clone()  # tokens (of a pattern: queries) second
        for task in self.tasks[site, layer]:
            (self._edit_pattern if pattern else self._edit)(new, task)
        return new.transpose(1, 2) if pattern else new

    def _tokens(self, task: Task, site: str) -> tuple[Tensor, ...]:
        """(row, index, prompt, position) of the tokens a task edits and this run holds."""
        slots, variant = self.slots, task.variant
        table = (slots.key if site in KEY_SITES else slots.query)[variant]
        where = task.change.where[self.runs.chosen.numpy()][:, : table.shape[1]]
        position = np.arange(table.shape[1])
        prompt, at = np.nonzero(where & (table[:, : where.shape[1]] >= 0) & (position >= slots.first[variant]))
        row = slots.row[variant][prompt]
        return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in (row, table[prompt, at], prompt, at))

    def _edit(self, value: Tensor, task: Task) -> None:
        row, index, prompt, position = (x.to(value.device) for x in self._tokens(task, task.change.site))
        if len(row):
            old = value[row, index]
            value[row, index] = self._new(old, task, value, prompt, position)

    def _new(self, old: Tensor, task: Task, value: Tensor, prompt: Tensor, position: Tensor) -> Tensor:
        """New values of some tokens [n, ...]."""
        change = task.change
        if change.operation.by_token:
            new = change.operation.new(old, change, prompt, position, self.runs)
        else:
            site = change.site
            whole = change.operation.whole(self._all(task, value), site)  # type: ignore[attr-defined]
            new = (whole.transpose(1, 2) if site == "pattern" else whole)[prompt, position]
        return change.part(old, new)

    def _all(self, task: Task, value: Tensor) -> Tensor:
        """The variant's whole activation, as in a trace: this run's tokens, and the unedited ones before them."""
        change, slots = task.change, self.slots
        full = self.runs.old(change.site, change.layer).to(value.device).clone()  # position second
        table = (slots.key if change.site in KEY_SITES else slots.query)[task.variant][:, : full.shape[1]]
        prompt, at = np.nonzero((table >= 0) & (np.arange(table.shape[1]) >= slots.first[task.variant]))
        row, index = slots.row[task.variant][prompt], table[prompt, at]
        live = value[torch.from_numpy(row).to(value.device), torch.from_numpy(index).to(value.device)]
        if change.site == "pattern":
            live = self._absolute(live, task.variant, prompt, full.shape[-1])
            full[prompt, at] = live
            return full.transpose(1, 2)
        full[prompt, at] = live
        return full

    # -- patterns: their last axis is keys, which lie elsewhere in this run -----------------------------------------

    def _columns(self, variant: int, prompt: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """For some prompts [n]: the column of each key position [n, width], and which of them exist."""
        table = self.slots.key[variant][prompt]
        columns = np.full((len(prompt), width), -1)
        n = min(width, table.shape[1])
        columns[:, :n] = table[:, :n]
        return np.maximum(columns, 0), columns >= 0

    def _absolute(self, live: Tensor, variant: int, prompt: np.ndarray, width: int) -> Tensor:
        """Rows of patterns [n, head, column] by key position [n, head, width]."""
        columns, exist = (torch.from_numpy(x).to(live.device)[:, None] for x in self._columns(variant, prompt, width))
        index = columns.expand(-1, live.shape[1], -1)
        return torch.where(exist, live.gather(2, index), torch.zeros((), dtype=live.dtype, device=live.device))

    def _edit_pattern(self, value: Tensor, task: Task) -> None:
        row, index, prompt, position = (x.to(value.device) for x in self._tokens(task, "pattern"))
        if not len(row):
            return
        change, old_rows = task.change, value[row, index]
        width = self.runs.old("pattern", change.layer).shape[-1]
        prompts = prompt.cpu().numpy()
        old = self._absolute(old_rows, task.variant, prompts, width)
        new = self._new(old, task, value, prompt, position)
        if change.keys is not None:
            keys = np.zeros((len(prompts), width), bool)
            chosen = change.keys[self.runs.chosen.numpy()][prompts][:, :width]
            keys[:, : chosen.shape[1]] = chosen
            new = torch.where(torch.from_numpy(keys).to(new.device)[:, None], new, old)
        del old  # as large as the rows
        columns, exist = self._columns(task.variant, prompts, width)
        n, at = np.nonzero(exist)
        n_, at_, column = (torch.from_numpy(x).to(value.device) for x in (n, at, columns[n, at]))
        old_rows[n_, :, column] = new[n_, :, at_]
        value[row, index] = old_rows
