"""Attention by head: how many heads, where each one's value goes, and which weights make its q, k and v."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attention_calls import SeenAttention
from .calls_seen import SeenCall, same
from .compare import relative_error, tolerance
from .linear import find_head_map, measure_linear
from .parts import Attention, HeadMap, Identity, Linear


@dataclass
class Heads:
    """What was found: the attention (None if it cannot be split) and the identities that say how well it holds."""

    attention: Attention | None
    identities: list[Identity]


def n_distinct(x: Tensor) -> int:
    """How many different heads [batch, head, ...] holds when neighbours are copies (grouped heads, repeated)."""
    n = x.shape[1]
    for size in range(n, 1, -1):
        if n % size == 0 and torch.equal(x, x[:, ::size].repeat_interleave(size, dim=1)):
            return n // size
    return n


def ungroup(x: Tensor, n_kv_heads: int) -> Tensor:
    """[batch, head, ...] with repeated heads as [batch, kv_head, ...]."""
    return x[:, :: x.shape[1] // n_kv_heads]


def head_split_error(pattern: Tensor, v: Tensor, z: Tensor, n_heads: int) -> float:
    """Relative error of z_h = pattern_h v_kv(h) when `z` [rows, width] is cut into `n_heads` contiguous heads.

    The sum over heads of z_h W_O[h] holds for any cut and certifies nothing; this does.
    """
    batch, found, length, _ = pattern.shape
    if z.shape[-1] % n_heads or n_heads != found:
        return math.inf
    v = v.double().cpu().repeat_interleave(found // v.shape[1], dim=1)
    want = (pattern.double().cpu() @ v).transpose(1, 2)  # [batch, query, head, d]
    have = z.double().cpu().reshape(batch, length, n_heads, -1)
    return relative_error(have, want)


def measure_heads(
    seen: SeenAttention, calls: list[SeenCall], layer: int, dtype: torch.dtype, n_heads: int | None = None
) -> Heads:
    """Certify one layer's heads from one run. `n_heads` overrides what was seen (to be told wrong must fail)."""
    slack = tolerance(dtype)
    found = seen.pattern.shape[1]
    n_heads = n_heads or found
    module = next(c for c in calls if c.name == seen.module)
    n_kv = min(n_distinct(seen.k), n_distinct(seen.v))
    k, v = ungroup(seen.k, n_kv), ungroup(seen.v, n_kv)
    width = found * seen.v.shape[-1]

    out, out_error, z = None, math.inf, None
    reason = "no linear map follows the attention's values"
    later = [c for c in calls if c.entered > seen.moment and c.matrix is not None and c.input is not None]
    call = next((c for c in later if c.input is not None and c.input.shape[-1] == width), None)
    if call is not None:
        out, out_error = measure_linear(call)
        z, reason = call.input, ""
        readers = [c.name for c in later if same(c.input, z)]
        if len(readers) > 1:  # an edit of one's input would miss the others
            out_error = math.inf
            reason = f"several maps read z ({', '.join(readers)}), as adapters do: merge them into the weights first"
    split = math.inf if z is None else head_split_error(seen.pattern, v, z, n_heads)
    identities = [
        Identity(
            "head_split",
            f"z_h = pattern_h v_kv(h), {n_heads} heads, {n_kv} kv heads",
            split,
            slack,
            layer,
            _why_not_split(z, n_heads, found),
        ),
        Identity(
            "output_projection",
            "attention output = sum over heads of z_h W_O[h] + b_O",
            out_error,
            slack,
            layer,
            reason,
        ),
    ]
    attention = Attention(
        name=seen.module,
        module=module.module,
        plan=seen.plan,
        n_heads=n_heads,
        n_kv_heads=n_kv,
        d_head=seen.q.shape[-1],
        d_value=seen.v.shape[-1],
        out=out,
    )
    attention, found_maps = _projections(attention, seen, k, v, calls, layer, slack)
    return Heads(attention, identities + found_maps)


def _why_not_split(z: Tensor | None, n_heads: int, found: int) -> str:
    if z is None:
        return "the input of an output projection was not found"
    if n_heads != found:
        return f"the attention pattern has {found} heads, not {n_heads}"
    return ""


def _projections(
    attention: Attention, seen: SeenAttention, k: Tensor, v: Tensor, calls: list[SeenCall], layer: int, slack: float
) -> tuple[Attention, list[Identity]]:
    """W_Q, W_K and W_V: matched at position 0, where rotary embeddings turn by an angle of zero."""
    early = [c for c in calls if c.entered < seen.moment and c.output is not None]
    linear: list[tuple[Linear, SeenCall]] = []
    for call in early:
        if call.matrix is not None:
            found, error = measure_linear(call)
            if error <= slack:
                linear.append((found, call))
    maps: dict[str, HeadMap | None] = {}
    identities, rotates = [], None
    for name, heads in (("q", seen.q), ("k", k), ("v", v)):
        at_start = heads[:, :, 0]  # [batch, head, d]
        outputs = [(one, _rows(call.output, heads)[:, 0]) for one, call in linear]
        head_map, error = find_head_map(at_start, outputs, slack)
        if head_map is None:
            head_map, error = _through_norm(at_start, early, linear, heads, slack)
        maps[name] = head_map
        reason = "" if head_map else "no projection's columns match it (transformed before use)"
        statement = f"{name} of every head is a set of columns of one projection (position 0; after its norm, if any)"
        identities.append(Identity(f"projection_{name}", statement, error, slack, layer, reason))
        if name == "q" and head_map is not None:
            everywhere = heads.transpose(1, 2).reshape(-1, *at_start.shape[1:])
            rotates = find_head_map(everywhere, [(o, c.output) for o, c in linear], slack)[0] is None  # type: ignore[misc]
    return replace(attention, q=maps["q"], k=maps["k"], v=maps["v"], rotates=rotates), identities


def _rows(output: Tensor | None, heads: Tensor) -> Tensor:
    assert output is not None
    return output.reshape(heads.shape[0], heads.shape[2], -1)


def _through_norm(
    at_start: Tensor, early: list[SeenCall], linear: list[tuple[Linear, SeenCall]], heads: Tensor, slack: float
) -> tuple[HeadMap | None, float]:
    """q or k behind a norm: the norm's output is the head's vector, its input the projection's columns."""
    width = at_start.shape[1] * at_start.shape[2]
    for call in early:
        if call.input is not None and call.output is not None and call.input.shape == call.output.shape:
            if call.output.shape[-1] != width or any(c is call for _, c in linear):
                continue
            normed = _rows(call.output, heads)[:, 0].reshape(at_start.shape)
            if relative_error(normed, at_start) > slack:
                continue
            before = _rows(call.input, heads)[:, 0].reshape(at_start.shape)
            outputs = [(one, _rows(c.output, heads)[:, 0]) for one, c in linear]
            return find_head_map(before, outputs, slack)
    return None, math.inf
