"""What is recorded before a sweep: the base and its sources, kept as a `Run` each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..anatomy import Block, steady
from ..calls import BlockCall, BlockRules, Enough, capture
from ..edits.cells import Change
from ..edits.operations import Mean, Reference, unique
from ..finite import require_finite
from ..hooks import Hooks, first_tensor, hidden
from ..parts import at_once, in_parts
from ..prompts import Prompts
from ..taps import Recorder, attach
from .activations import quicken_activation
from .bases import last_base
from .following import follow, parting
from .plan import TOKENS
from .runs import Answer, Key, Recorded, Run, inner

if TYPE_CHECKING:
    from ..model import Model


def together(prompts: Sequence[Prompts]) -> Prompts:
    """Several prompt sets as one, padded to the longest."""
    rows = [row[:n] for p in prompts for row, n in zip(p.ids, p.lengths.tolist(), strict=True)]
    return Prompts(ids=[r.tolist() for r in rows])


def record(
    model: Model,
    prompts: Sequence[Prompts],
    wanted: Iterable[Key],
    rules: list[BlockRules] | None = None,
    answers: Iterable[int] = (),
) -> list[Run]:
    """One forward over several prompt sets; a `Run` for each.

    The first also has the calls, the keys and values, and what the attention modules of the layers `answers` put out.
    """
    recorder = Recorder(inner(wanted))
    stream: list[Tensor] = []
    calls: list[BlockCall] = []

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = first_tensor(args, kwargs)
        assert x is not None
        stream.append(x.detach().clone())

    def last(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        stream.append(hidden(output).detach().clone())
        if ("final_norm", None) not in recorder.wanted and model.reads_stream:
            raise Enough  # the unembedding is not needed

    everything = together(prompts) if len(prompts) > 1 else prompts[0]
    logits = None
    with steady(model.hf), Hooks() as hooks:
        kept = capture(hooks, model, calls, rules, len(prompts[0]))
        for block in model.anatomy.blocks:
            hooks.before(block.module, before)
            quicken_activation(hooks, block, model.device)
        hooks.after(model.anatomy.blocks[-1].module, last)
        given = {
            layer: _answer(hooks, model.anatomy.blocks[layer], len(prompts[0]), len(everything)) for layer in answers
        }
        with suppress(Enough), attach(hooks, model.anatomy, recorder):
            logits = model.forward(everything, all_logits=not model.reads_stream)
    if model.reads_stream:
        logits = None
    runs, start = [], 0
    for some in prompts:
        rows = slice(start, start + len(some))
        sites = {key: value[rows] for key, value in recorder.kept.items()}
        own = None if logits is None else logits[rows]
        runs.append(Run([x[rows] for x in stream], sites, batch=len(everything), logits=own))
        start += len(some)
    runs[0].calls = calls
    runs[0].cache = [None if k.k is None or k.v is None else (k.k.detach(), k.v.detach()) for k in kept]
    runs[0].answers = {layer: found[0] for layer, found in given.items()}
    return runs


def _answer(hooks: Hooks, block: Block, n: int, batch: int) -> list[Answer]:
    """Filled when the block's attention has put out something; of the first `n` prompts of `batch`."""
    found: list[Answer] = []

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        value = hidden(output)
        flat = value.dim() == 2
        if flat:
            value = value.unflatten(0, (batch, -1))
        rest = [None] * (len(output) - 1) if isinstance(output, tuple | list) else []
        form = type(output)((None, *rest)) if isinstance(output, tuple | list) else None
        found.append(Answer(value[:n].detach().clone(), form, flat))

    assert block.attention is not None
    hooks.after(block.attention.module, after)
    return found


def mean_table(model: Model, reference: Reference, wanted: Iterable[Key]) -> dict[Key, Tensor]:  # [key, ...]
    """The mean of each site over the reference tokens of each key, summed in float64."""
    wanted = list(wanted)
    table = reference.table()
    sums: dict[Key, Tensor] = {}
    counts = torch.zeros(len(table), dtype=torch.float64)

    def run_of(index: list[int]) -> tuple[Prompts, Run]:
        some = reference.prompts.part(index)
        (run,) = record(model, [some], wanted)
        require_finite(model, some, run.stream[-1], "Reference prompt")
        return some, run

    for _, (some, run) in in_parts(len(reference.prompts), at_once(reference.prompts, TOKENS), run_of):
        mask = some.mask
        rows = torch.tensor([table[key] for keys in reference.keys(some) for key in keys])
        counts.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float64))
        for key in wanted:
            name, layer = key
            values = run.site(name, 0 if layer is None else layer)
            real = values[:, : mask.shape[1]][mask.to(values.device)].to("cpu", torch.float64)
            if key not in sums:
                sums[key] = torch.zeros(len(table), *real.shape[1:], dtype=torch.float64)
            sums[key].index_add_(0, rows, real)
        del run, values, real  # before the next part is run
    return {k: (s / counts.reshape(-1, *[1] * (s.dim() - 1))) for k, s in sums.items()}


Tables = Mapping[tuple[int, str, int | None], Tensor]
"""Means by the identity of their reference, site and layer."""


def mean_tables(model: Model, changes: Sequence[Change]) -> Tables:
    """The means that some changes put in; they are the same for every group of prompts."""
    tables = {}
    for reference in unique(c.operation.reference for c in changes if isinstance(c.operation, Mean)):
        keys = {
            (c.site, c.layer) for c in changes if isinstance(c.operation, Mean) and c.operation.reference is reference
        }
        for (site, layer), table in mean_table(model, reference, keys).items():
            tables[id(reference), site, layer] = table
    return tables


def recorded(
    model: Model,
    base: Prompts,
    which: np.ndarray,
    changes: Sequence[Change],
    rules: Any,
    answers: Iterable[int] = (),
    beside: Iterable[Key] = (),
    tables: Tables | None = None,
) -> Recorded:
    """A group of base prompts and the same prompts of every source; `answers` as in `record`, `beside`: further sites.

    Sources that begin like the base are run from where they part from it; the base and the others in one forward.
    `tables`: the means of the changes, where they are already known. Inside `bases.reusing` the base may be there.

    Raises:
        NotFinite: NaN or infinity in one of the runs; the message names the prompt and the first place.
    """
    sources = unique(s for c in changes for s in c.operation.sources)
    wanted = {(c.site, c.layer) for c in changes}
    index = which.tolist()
    group, some = base.part(index), {id(s): s.part(index) for s in sources}
    last = last_base()
    kept = None if last is None else last.find(model, group, wanted | set(beside), rules, answers)

    def parted(rules: Any) -> dict[int, int]:
        return {id(s): parting(base, s) if rules else 0 for s in sources}

    starts = parted(rules if kept is None else kept[1])
    if kept is not None and not all(starts.values()):  # beside others the base rounds otherwise
        kept, starts = None, parted(rules)
    whole = [s for s in sources if not starts[id(s)]]
    others: list[Run] = []
    if kept is not None:
        own = kept[0]
    else:
        own, *others = record(model, [group, *(some[id(s)] for s in whole)], wanted | set(beside), rules, answers)
        require_finite(model, group, own.stream[-1])
        if last is not None:
            last.keep(model, group, rules, own)
    by_source = {id(s): run for s, run in zip(whole, others, strict=True)}
    for source in sources:
        if starts[id(source)]:
            run = follow(model, own, some[id(source)], starts[id(source)], wanted)
            by_source[id(source)] = record(model, [some[id(source)]], wanted)[0] if run is None else run
    for source in sources:
        require_finite(model, some[id(source)], by_source[id(source)].stream[-1], "Source prompt")
    tables = mean_tables(model, changes) if tables is None else tables
    return Recorded(own, by_source, tables, torch.from_numpy(which))
