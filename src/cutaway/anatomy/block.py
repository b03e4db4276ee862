"""One block, from what was seen of it in one run: its writes, their order, its heads and its neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attention_calls import SeenAttention
from .calls_seen import SeenCall, same
from .compare import relative_error, tolerance
from .heads import measure_heads
from .linear import measure_linear
from .neurons import measure_mlp
from .norms import measure_norm
from .parts import Block, Identity, Linear, Norm, Write
from .writes import Summand, find_sum


@dataclass
class SeenBlock:
    """Everything one run showed of one block."""

    layer: int
    name: str
    module: nn.Module
    x: Tensor  # what entered, [rows, d_model]
    out: Tensor  # what left
    calls: list[SeenCall]
    attention: SeenAttention | str  # or why none was recognised


def measure_block(seen: SeenBlock, config: dict, n_heads: int | None = None) -> tuple[Block, list[Identity]]:
    """The block's anatomy, and the identities that certify it."""
    slack = tolerance(seen.x.dtype)
    total = find_sum(seen.x, seen.out, seen.calls, config)
    holds = total.error <= slack and not total.reason
    identities = [
        Identity(
            "residual",
            "block output = block input + sum of its writes",
            total.error if holds else max(total.error, math.nextafter(slack, math.inf)),
            slack,
            seen.layer,
            total.reason if not holds else "",
        )
    ]
    summands = total.summands if holds else []
    heads = None
    if isinstance(seen.attention, SeenAttention):
        heads = measure_heads(seen.attention, seen.calls, seen.layer, seen.x.dtype, n_heads)
        identities += heads.identities
    else:
        identities.append(
            Identity("head_split", "z_h = pattern_h v_kv(h)", math.inf, slack, seen.layer, seen.attention)
        )

    kinds = _kinds(seen, summands)
    writes, mlp = [], None
    for summand, kind in zip(summands, kinds, strict=True):
        source, linear, norm, through = _source(summand, kind, total.scale, seen, slack)
        writes.append(_write(summand, kind, total.scale, linear, norm))
        if kind == "attn":
            identities.append(_path_identity("attention", through, slack, seen.layer))
        elif kind == "mlp":
            mlp, found = measure_mlp(source, seen.calls, seen.layer, slack)
            identities += found
            if mlp is not None:
                identities.append(_path_identity("mlp", through, slack, seen.layer))
    block = Block(
        layer=seen.layer,
        name=seen.name,
        module=seen.module,
        writes=tuple(writes),
        parallel=_is_parallel(seen, writes, summands, total.scale, slack),
        attention=heads.attention if heads else None,
        mlp=mlp,
    )
    return block, identities


def _write(summand: Summand, kind: str, scale: float, source: Linear | None, norm: Norm | None) -> Write:
    return Write(kind, summand.call.name, summand.call.module, scale, summand.minus, source, norm)


def _path_identity(branch: str, error: float, slack: float, layer: int) -> Identity:
    statement = f"{branch} write = its linear map's output, through its post-norm and factor where there is one"
    reason = "" if math.isfinite(error) else "the way from a linear map to the stream is not a norm and a factor"
    return Identity(f"{branch}_path", statement, error, slack, layer, reason)


def _kinds(seen: SeenBlock, summands: list[Summand]) -> list[str]:
    """`attn` for the first write that ends after the attention does; of the others, which mix positions."""
    kinds = [""] * len(summands)
    if isinstance(seen.attention, SeenAttention):
        module = next(c for c in seen.calls if c.name == seen.attention.module)
        later = [i for i, s in enumerate(summands) if s.call.left >= module.left]
        if later:
            kinds[min(later, key=lambda i: summands[i].call.left)] = "attn"
    return [kind or ("mlp" if _pointwise(s, seen) else "mixer") for kind, s in zip(kinds, summands, strict=True)]


def _pointwise(summand: Summand, seen: SeenBlock) -> bool:
    """Whether the modules behind a write treat every token alone: they answer a single row as they did among others."""
    chain = [c for c in seen.calls if same(c.output, summand.call.input)] + [summand.call]
    for call in chain:
        if call.input is None or call.output is None:
            continue
        rows = {key: value[-1:] for key, value in call.inputs.items()}
        args = [rows[i][None] for i in range(len(rows)) if i in rows]
        kwargs = {key: value[None] for key, value in rows.items() if isinstance(key, str)}
        try:
            with torch.no_grad():
                answer = call.module(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a module that cannot answer one row is not pointwise
            return False
        answer = answer[0] if isinstance(answer, tuple) else answer
        if relative_error(answer.reshape(1, -1), call.output[-1:]) > 10 * tolerance(call.output.dtype):
            return False
    return True


def _source(
    summand: Summand, kind: str, scale: float, seen: SeenBlock, slack: float
) -> tuple[SeenCall | None, Linear | None, Norm | None, float]:
    """The last linear map before a write, the norm between them, and the error of that path."""
    value = summand.value
    width = value.shape[-1]
    after = seen.attention.moment if kind == "attn" and isinstance(seen.attention, SeenAttention) else -1
    linear = [
        c
        for c in seen.calls
        if c.matrix is not None
        and c.output is not None
        and c.output.shape == value.shape
        and after < c.left <= summand.call.left
    ]
    for call in reversed(linear):
        assert call.output is not None
        if (error := relative_error(call.output, value)) <= slack:
            linear_map, off = measure_linear(call)
            return call, linear_map, None, max(error, off)
    for call in reversed(linear):
        assert call.output is not None
        if same(call.output, summand.call.input):
            norm, error = measure_norm(summand.call.module, width)
            error = max(error, relative_error(norm(call.output.double().cpu()), value))
            if error <= slack:
                linear_map, off = measure_linear(call)
                return call, linear_map, norm, max(error, off)
    return None, None, None, math.inf


def _is_parallel(
    seen: SeenBlock, writes: list[Write], summands: list[Summand], scale: float, slack: float
) -> bool | None:
    """Sequential if some module reads (input + attention write); None if there is nothing to tell apart."""
    if len(writes) < 2:
        return None
    first = next((s for s, w in zip(summands, writes, strict=True) if w.kind == "attn"), summands[0])
    mid = seen.x.double().cpu() + scale * first.value
    readers = [c for c in seen.calls if c.input is not None and c.input.shape == mid.shape]
    return not any(relative_error(c.input, mid) <= slack for c in readers if c.input is not None)
