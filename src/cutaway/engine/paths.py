"""Which way sweeps run on a model: waves of packed suffixes where a probe finds them equal to full forwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..anatomy import Block, Linear, Write, probe_ids, steady
from ..calls import BlockRules, measure_calls
from ..edits.cells import Edits
from ..edits.making import ablate, patch
from ..errors import Refused
from ..hooks import has_hooks
from ..prompts import Prompts
from .memory import Sizes
from .plan import Layer, Shape, compile_cells, make_plan
from .recording import recorded
from .replay import Wave

if TYPE_CHECKING:
    from ..model import Model

EXACT = 1e-5
"""How far the wave may be from a full forward on the probe, relative to the largest difference an edit makes there."""


@dataclass(frozen=True)
class Ways:
    """How sweeps run on a model: rules for calling its blocks on packed suffixes (None: they cannot be), in words, and
    what a plan must know of it."""

    rules: list[BlockRules] | None
    path: str
    shape: Shape


def engine(model: Model) -> Ways:
    """Which way sweeps run on this model. Probed once for each anatomy it had lately (`Model.look_again`)."""
    key, known = model.anatomy, getattr(model, "_engine", [])
    for anatomy, ways in known:
        if anatomy is key:
            return ways
    ways = _probed(model)
    model._engine = [*known, (key, ways)][-2:]  # type: ignore[attr-defined]
    return ways


def _probed(model: Model) -> Ways:
    plain = _shape(model, halfway=False)
    if not model.reads_stream:
        why = "logits cannot be read from what the last block puts out"
        return Ways(None, f"full forwards ({why})", replace(plain, full=True))
    try:
        rules = measure_calls(model)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, the plain way is there
        rules = f"{type(error).__name__}: {error}"
    reason = rules if isinstance(rules, str) else ""
    if not reason and (any(r.cache is None for r in rules) or any(b.attention is None for b in model.anatomy.blocks)):  # type: ignore[union-attr]
        reason = "its blocks keep a state other than keys and values"
    if not reason:
        reason = _fails(model, rules, plain, _suffix_edits)
    if reason:
        return Ways(None, f"full forwards ({reason})", replace(plain, full=True))
    entering = _shape(model, halfway=True)
    words = "waves of packed suffixes"
    if _fails(model, rules, entering, _inner_edits):
        return Ways(rules, f"{words}, blocks entered at their start", plain)  # type: ignore[arg-type]
    return Ways(rules, words, entering)  # type: ignore[arg-type]


def _shape(model: Model, halfway: bool) -> Shape:
    blocks = model.anatomy.blocks
    layers = tuple(_layer(block, halfway) for block in blocks)
    attention = blocks[-1].attention
    maps = [] if attention is None else [m for m in (attention.k, attention.v) if m is not None]
    linear = {id(m.linear.module): math.prod(m.linear.shape) for m in maps}
    return Shape(
        layers=layers,
        last_keys_flops=2 * sum(linear.values()) if len(maps) == 2 else layers[-1].flops,
        vocab_flops=2 * model.d_model * model.vocab_size,
        sizes=_sizes(model),
    )


def _sizes(model: Model) -> Sizes:
    blocks = model.anatomy.blocks
    attention = [b.attention for b in blocks if b.attention is not None]
    matrices = [p.shape for b in blocks for p in b.module.parameters() if p.dim() > 1]
    return Sizes(
        d_model=model.d_model,
        widest=max([max(shape[-2:]) for shape in matrices], default=model.d_model),
        keys_values=max([2 * a.n_kv_heads * a.d_head for a in attention], default=2 * model.d_model),
        heads=max([a.n_heads for a in attention], default=1),
        d_head=max([a.d_head for a in attention], default=model.d_model),
        neurons=max([b.mlp.n_neurons for b in blocks if b.mlp is not None], default=model.d_model),
        vocab=model.vocab_size,
        number=model.dtype.itemsize,
        patterns=any(not a.plan.fused for a in attention),
    )


def _layer(block: Block, halfway: bool) -> Layer:
    """What a token costs in a block, and the sites by which an edit may enter it behind its attention."""
    total = _flops(block.module)
    attention, attn, mlp = block.attention, block.write("attn"), block.write("mlp")
    if not halfway:
        return Layer(total)
    adds = {}
    if attn is not None and mlp is not None and len(block.writes) == 2:
        adds["mlp_out"] = 0
        if block.mlp is not None and _is_image(mlp, block.mlp.down):
            adds["mlp_act"] = 2 * math.prod(block.mlp.down.shape)
        if block.parallel:
            adds["attn_out"] = 0
            if attention is not None and attention.out is not None and _is_image(attn, attention.out):
                adds["z"] = 2 * math.prod(attention.out.shape)
    if attention is None or attn is None or _holds(attention.module, attn.module):
        return Layer(total, adds=adds)
    sites = {"attn_out", "mlp_out"} | ({"resid_mid"} if block.parallel is False else set())
    sites |= {"z"} if attention.out is not None else set()
    sites |= {"mlp_act"} if block.mlp is not None else set()
    sites |= {"mlp_pre"} if block.mlp is not None and block.mlp.act is not None else set()
    return Layer(total, total - _flops(attention.module), adds, frozenset(sites))


def _flops(module: nn.Module) -> int:
    return 2 * sum(p.numel() for p in module.parameters() if p.dim() > 1)


def _holds(outer: nn.Module, inner: nn.Module) -> bool:
    return outer is not inner and any(m is inner for m in outer.modules())


def _is_image(write: Write, linear: Linear) -> bool:
    """Whether a write is this linear map's output as it is, times a factor."""
    return write.norm is None and write.source is not None and write.source.module is linear.module


# -- probing --------------------------------------------------------------------------------------------------------


def _suffix_edits(model: Model, source: Prompts) -> Iterator[Edits]:
    yield patch("resid_pre", source, positions=[2, 4, -1])
    yield ablate("resid_pre", positions=[1, -2])
    yield ablate("resid_pre", positions=2)  # all begin alike: see `packing.layout`


def _inner_edits(model: Model, source: Prompts) -> Iterator[Edits]:
    """Edits behind attention, in the first and the last block of each kind."""
    kinds: dict[Any, list[int]] = {}
    for b in model.anatomy.blocks:
        inner = type(b.attention and b.attention.module), type(b.mlp and b.mlp.down.module), b.parallel
        hooked = b.layer if has_hooks(b.module) else None  # what hooks do may differ from layer to layer
        kinds.setdefault((type(b.module), inner, hooked), []).append(b.layer)
    layers = sorted({k for of in kinds.values() for k in (of[0], of[-1])})
    for edit in (
        patch("z", source, layers=layers, heads=[0, [0, 1]] if model.n_heads > 1 else [0]),
        ablate("attn_out", layers=layers, positions=[2]),
        ablate("mlp_out", layers=layers, positions=[2]),
        ablate("mlp_pre", layers=layers, positions=[2]),
        ablate("mlp_act", layers=layers, positions=[2], neurons=[0, 1]),
    ):
        with suppress(Refused):
            edit.compile(model, source)
            yield edit


def _fails(model: Model, rules: Any, shape: Shape, kinds: Callable[[Model, Prompts], Iterable[Edits]]) -> str:
    """Why waves cannot be used for these kinds of edits; empty where they equal full forwards."""
    ids = probe_ids(model.config, model.hf.get_input_embeddings().num_embeddings, 3)  # type: ignore[operator,union-attr]
    length = ids.shape[1]
    base = Prompts(ids=[ids[0].tolist(), ids[1, : length - 2].tolist()])
    ends = ids[2, 2:].tolist()  # the source parts from the base after two tokens
    source = Prompts(ids=[[*ids[0, :2].tolist(), *ends], [*ids[1, :2].tolist(), *ends[:-2]]])
    worst = 0.0
    for one in kinds(model, source):
        try:
            worst = max(worst, _disagreement(model, base, one, rules, shape))
        except Exception as problem:  # noqa: BLE001
            return f"packed suffixes fail: {type(problem).__name__}: {problem}"
    return (
        ""
        if worst <= max(EXACT, 20 * torch.finfo(model.dtype).eps)
        else f"packed suffixes differ by {worst:.1e} on the probe"
    )


def _disagreement(model: Model, base: Prompts, edits: Edits, rules: Any, shape: Shape) -> float:
    """Largest difference of the wave to full forwards, relative to the size of what is left at the end."""
    grid = edits.compile(model, base)
    reads = torch.stack([base.at(-1), base.at(-2)], 1).numpy()
    variants = compile_cells(grid.cells, shape, base.lengths.numpy(), reads)
    plan = make_plan(variants, shape, base.lengths.numpy(), reads, len(grid.cells), 256)
    which = np.arange(len(base))
    worst = 0.0
    with steady(model.hf):
        changes = [c for v in plan.variants for c in v.all_changes]
        wave = Wave(
            model, recorded(model, base, which, changes, rules, plan.answers, plan.beside), base, reads, plan.end
        )
        wave.rows_from = 1  # so that the probe, which is short, sees rows
        plain = Wave(model, recorded(model, base, which, changes, None), base, reads, plan.end)
        for chunk in plan.chunks:
            variants = [plan.variants[i] for i in chunk]
            a, b = wave.climb(variants).double().cpu(), plain.forward(variants).double().cpu()
            used = torch.from_numpy(reads)[:, None] >= torch.tensor([v.first for v in variants])[None, :, None]
            a, b = a[used], b[used]
            worst = max(worst, float((a - b).norm(dim=-1).max() / b.norm(dim=-1).max()))
    return worst
