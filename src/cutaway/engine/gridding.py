"""Sweeps: a grid of edits on a base run, the metric of every cell, as labelled arrays.

plan -> record base and sources once -> waves -> metrics. What a cell cannot reach is the base's own value, exactly.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ..edits.cells import Edits, Grid, as_edits
from ..edits.making import patch
from ..edits.operations import unique
from ..errors import BadInput, did_you_mean
from ..finite import NotFinite
from ..metrics import Metric, as_metric, logit_diff, renamed
from ..parts import out_of_memory
from ..prompts import Prompts, Read
from ..results import prompt_coords, run_card
from ..resume.keeping import next_folder
from ..resume.manifest import manifest
from ..resume.shards import opened
from ..trace import LIMIT, Trace
from ..wording import memory
from .editing import EditTap, Task, whole_rows
from .engines import chosen_engine
from .following import recorded_together, recorded_tokens
from .labels import Tokens, size, token_labels
from .lost import Lost, unfinished
from .paths import engine
from .plan import TOKENS, Plan, compile_cells, make_plan
from .readings import Readings
from .recording import mean_tables, recorded
from .running import Progress, run
from .screening import Screened
from .work import Aim, Work, width_of

if TYPE_CHECKING:
    from ..model import Model


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
    store: str | Path | None = None,
    limit: int = LIMIT,
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
        screen: for grids too large to be exact everywhere: estimate every cell by gradients (`screening`) and compute
            exactly only what takes this share of the sweep's work: for four fifths of it the largest estimates,
            for one a random sample of the rest, drawn from `seed`. `exact` marks which; the attributes say how many
            cells of at least `missed_above` (default: the 20th largest effect that was found by estimate) the sample
            has, with an upper 95 % limit of their rate among those left out.
        progress: called with (cells done, cells); True or False: a line on stderr or none (default: on a terminal).
        store: a folder where finished shards are kept as they come. After an interruption the same call continues and
            ends with the same bits; it is refused for another model, prompts or settings (docs/resume.md). Functions
            among edits and metrics are compared by their code and what it closes over. Default: nothing is kept, or
            what `cutaway.resume.keeping.keep_sweeps` says.
        limit: bytes that the result and its plan may take; nothing is run above that.

    Returns:
        Dataset over prompt and the grid's axes: `value`; `effect` = value - base; with a reference `normalized` =
        effect / (reference - base), NaN where the two are equal. Over prompt: `base`, `reference`. Several metrics or
        read positions add an axis `metric` or `read`. Cells that cannot differ from the base are exactly the base's.
        Over prompt and position (query, key): `input_token`, and of a patch from one run its `source_token`
        (`engine.labels`).

    Raises:
        BadInput: edits, prompts or metrics that do not fit; NaN or infinity in a run (the message names the prompt and
            the first place); a store that is in use or holds another sweep; a result larger than the limit.
        Refused: an edited site is not certified for this model.
        NoRoom: the disk of the store is full.
        Unfinished: workers (docs/many-machines.md) could not run some shards; the others are finished.
    """
    _check(base, reference, budget, screen)
    if not dry_run:
        model.look_again()
    edits = as_edits(edits)
    metrics = _metrics(metric)
    grid = edits.compile(model, base)
    if any(change.site == "final_norm" for cell in grid.cells for change in cell):
        raise BadInput("final_norm is read, not swept: edit resid_post of the last layer, which it is a function of.")
    readings = Readings(model, base, metrics, read)
    tokens = token_labels(grid, base, readings.everywhere.shape[1] if metrics[0].everywhere else 0)
    ways = engine(model)
    reads, lengths = readings.at.numpy(), base.lengths.numpy()
    variants = compile_cells(grid.cells, ways.shape, lengths, reads)
    sources = unique(source for v in variants for c in v.all_changes for source in c.operation.sources)
    planned = partial(
        make_plan,
        shape=ways.shape,
        lengths=lengths,
        reads=reads,
        n_cells=len(grid.cells),
        recorded=recorded_tokens(base, sources, ways.rules is not None),
        together=recorded_together(base, sources, ways.rules is not None),
        logits=readings.whole_rows,
        numbers=(3 + (len(metrics) > 1) + (screen is not None)) * sum(width_of(m, readings) for m in metrics),
        texts=size(tokens),
    )
    plan = planned(variants, budget=budget)
    screened: Screened | None = None
    if not dry_run:
        _allow(plan, limit)
    if screen is not None:
        screened = Screened(model, base, grid, readings, plan, screen, seed)
        planned = partial(planned, estimated=len(screened.left))
        variants = screened.variants
        plan = planned(variants, budget=budget)
    if dry_run:
        return plan
    references = unique(edits.references) if reference is None else [reference]
    done = _progress(progress)
    comparable = len(references) == 1 and not any(m.everywhere for m in metrics)
    with _store(store, lambda: manifest(
        model, base, edits, grid, readings, references if comparable else [], plan,
        path=ways.path, screen=screen, missed_above=missed_above, seed=seed,
    ), budget) as shards:  # fmt: skip
        budgets = [budget] if shards is None else shards.budgets
        if budgets[-1] != budget:
            plan = planned(variants, budget=budgets[-1])
        aim = Aim(model, base, references[0], metrics, read) if comparable else None
        while True:
            try:
                kept = screened.runs if screened else None
                found = run(Work(model, ways, base, plan, readings, aim, kept), chosen_engine(), done, shards)
                break
            except Lost as error:
                raise unfinished(error, partial(_cell, grid), shards) from None
            except NotFinite as error:
                where = "" if error.cell is None else f" Cell: {_cell(grid, error.cell)}."
                raise NotFinite(f"{error}{where}") from None
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or budgets[-1] <= 1:
                    raise
                if screened is not None:
                    screened.runs = None  # of all prompts at once: they make room
                smaller = budgets[-1] // 2
                plan = planned(variants, budget=smaller)
                if shards is None:
                    budgets.append(smaller)
                else:
                    shards.split(smaller)
    values, own = found.values, found.own
    if screened is not None:
        values = screened.fill(values, own)
    dataset = _dataset(base, grid, readings, tokens, values, own, found.aimed or None)
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
            path=ways.path,
            plan=plan.describe(),
            budgets=budgets,
            threads=torch.get_num_threads(),
            **{k: v for k, v in grid.fixed.items() if v is not None},
        )
    )


def denoise(model: Model, clean: Prompts, corrupt: Prompts, site: str, metric: Any = logit_diff, **more: Any) -> Any:
    """Run corrupt, put in what clean has there: where is what suffices? `more`: as for `patch` and `sweep`."""
    return _patched(model, corrupt, clean, site, metric, more, "denoise")


def noise(model: Model, clean: Prompts, corrupt: Prompts, site: str, metric: Any = logit_diff, **more: Any) -> Any:
    """Run clean, put in what corrupt has there: where is what is necessary? `more`: as in `denoise`."""
    return _patched(model, clean, corrupt, site, metric, more, "noise")


def _patched(
    model: Model, base: Prompts, source: Prompts, site: str, metric: Any, more: dict[str, Any], how: str
) -> Any:
    choices = ("layers", "heads", "positions", "neurons", "queries", "keys")
    own = set(inspect.signature(sweep).parameters) - {"model", "base", "edits"}
    known = [*choices, *sorted(own)]
    for name in more:
        if name not in known:
            raise BadInput(f"There is no option {name!r}. {did_you_mean(name, known)}")
    selection = {key: more.pop(key) for key in choices if key in more}
    found = sweep(model, base, patch(site, source, **selection), metric, **more)
    return found.assign_attrs(how=how) if isinstance(found, xr.Dataset) else found


def _store(folder: str | Path | None, facts: Callable[[], dict[str, Any]], budget: int) -> Any:
    """A context with the sweep's store, or with None where nothing is kept."""
    where = next_folder() if folder is None else Path(folder)
    return nullcontext() if where is None else opened(where, facts(), budget)


def _cell(grid: Grid, index: int) -> str:
    """A cell's labels."""
    at = np.unravel_index(index, grid.shape) if grid.axes else ()
    return ", ".join(f"{a.name} {a.labels[i]}" for a, i in zip(grid.axes, at, strict=True)) or "the only one"


def _metrics(given: Any) -> list[Metric]:
    if isinstance(given, dict):
        metrics = [renamed(as_metric(m), str(name)) for name, m in given.items()]
    else:
        metrics = [as_metric(m) for m in (given if isinstance(given, list | tuple) else [given])]
    if not metrics:
        raise BadInput("There is no metric. Give one or several, such as metric=['logit_diff', 'kl'].")
    if len({m.name for m in metrics}) < len(metrics):
        raise BadInput("Metrics need different names: give a mapping name -> metric.")
    if len(metrics) > 1 and len({m.everywhere for m in metrics}) > 1:
        raise BadInput("A metric of every position and one of the read positions do not fit in one array: sweep twice.")
    return metrics


def _check(base: Prompts, reference: Prompts | None, budget: int, screen: float | None) -> None:
    for what, given in (("sweep(base=...)", base), ("reference=...", reference)):
        if not isinstance(given, Prompts | None) or (given is None and what.startswith("sweep")):
            kind = type(given).__name__
            raise BadInput(f"{what} takes prompts (cutaway.Prompts or model.prompts(...)), not {kind}.")
    if reference is not None and len(reference) != len(base):
        raise BadInput(f"There are {len(base)} base prompts but {len(reference)} reference prompts. Give one for each.")
    if not isinstance(budget, int | np.integer) or budget < 1:
        raise BadInput(f"budget is {budget!r}: it is a number of tokens, and at least one must travel at a time.")
    if screen is not None and not (isinstance(screen, int | float) and 0 < screen < 1):
        raise BadInput(f"screen={screen!r} must be a share of the work, between 0 and 1.")


def _allow(plan: Plan, limit: int) -> None:
    """Pass if the results of a plan are no larger than that many bytes.

    Raises:
        BadInput: they are; the message says how large, and what to do.
    """
    if plan.memory.results > limit:
        raise BadInput(
            f"A sweep of {plan.n_cells:,} cells x {plan.n_prompts:,} prompts would take about "
            f"{memory(plan.memory.results)} for its result (value, effect, normalized) and its plan, more than its "
            f"limit of {memory(limit)}. Choose fewer layers, positions, heads or neurons, sweep the prompts in "
            "parts, or raise limit=."
        )


def single_edit(model: Model, prompts: Prompts, edits: Any) -> tuple[Callable[[Sequence[int]], EditTap], int]:
    """What makes the tap for one cell's changes in a whole run of some of these prompts, and how many sources it has.

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
    (cell,) = grid.cells
    tables = mean_tables(model, cell)

    def tap(some: Sequence[int]) -> EditTap:
        runs = recorded(model, prompts, np.asarray(some), cell, None, tables=tables)
        width = prompts[list(some)].n_positions
        return EditTap([Task(0, change) for change in cell], whole_rows(1, len(some), width), runs)

    return tap, len(unique(s for change in cell for s in change.operation.sources))


def edited_traces(model: Model, prompts: Prompts, edits: Any) -> Callable[..., Trace]:
    """What traces some of the prompts (None: all), as wide as all of them, with one cell's edits made:
    `(some, sites=(), limit=LIMIT) -> Trace`. What the edit rests on beside these prompts, such as a mean, is made once.

    Raises:
        BadInput: the edits are a grid of several cells.
    """
    tap, sources = single_edit(model, prompts, edits)

    def trace(some: list[int] | None, sites: Sequence[str] = (), limit: int = LIMIT) -> Trace:
        if some is None:
            return Trace(model, prompts, sites, tap, limit, sources)
        return Trace(model, prompts.padded(some), sites, lambda chosen: tap([some[i] for i in chosen]), limit, sources)

    return trace


# -- results ------------------------------------------------------------------------------------------------------


def _dataset(
    base: Prompts,
    grid: Grid,
    readings: Readings,
    tokens: Tokens,
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
    coords: dict[str, Any] = {**prompt_coords(base), **{a.name: list(a.labels) for a in grid.axes}, **tokens}
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
