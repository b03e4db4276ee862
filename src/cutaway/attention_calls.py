"""Seeing inside attention without knowing the family.

Whatever a family's code looks like, attention is two products: scores = q k^T, and z = pattern v; or one fused call of
PyTorch that does both. A `TorchFunctionMode` sees those calls as they happen, after rotation, norms, de-fusing and the
repetition of grouped heads, so q, k, v and the pattern can be read (and replaced) at the same place in every family.

Which of a module's products are the two is found once, by watching where the softmax falls (`AttentionProbe`), and kept
as an `AttentionPlan`; later runs only count calls (`AttentionWatch`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm"}
_SOFTMAX = {"softmax", "_softmax"}


@dataclass(frozen=True)
class AttentionPlan:
    """Where the two products are: one fused call, or the n-th and m-th product inside the attention module."""

    fused: bool
    heads: int  # as the scores have them
    scores: int = -1
    values: int = -1


class Visitor(Protocol):
    """What is done with the attention of a layer as it runs. Shapes: q [prompt, head, query, d], k and v
    [prompt, head or kv_head, key, d], pattern [prompt, head, query, key]. Return what should be used."""

    def needs_pattern(self, layer: int) -> bool: ...
    def scores(self, layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]: ...
    def values(self, layer: int, pattern: Tensor | None, v: Tensor) -> tuple[Tensor | None, Tensor]: ...


def _operands(func: Any, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor] | None:
    """The two batched operands of a product, or None for a product with a plain matrix (a linear map)."""
    name = getattr(func, "__name__", "")
    if name not in _PRODUCTS:
        return None
    a, b = (kwargs["batch1"], kwargs["batch2"]) if "batch1" in kwargs else args[-2:]
    return (a, b) if a.dim() >= 3 and b.dim() >= 3 else None


def _with_operands(args: tuple, kwargs: dict, a: Tensor, b: Tensor) -> tuple[tuple, dict]:
    if "batch1" in kwargs:
        return args, {**kwargs, "batch1": a, "batch2": b}
    return (*args[:-2], a, b), kwargs


def _split_heads(x: Tensor, batch: int) -> Tensor:
    """[batch * head, ...] or [batch, head, ...] as [batch, head, ...]."""
    return x.reshape(batch, -1, *x.shape[-2:]) if x.dim() == 3 else x


def explicit_pattern(
    q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:  # [prompt, head, query, key]
    """The pattern that the fused attention call uses and does not return (PyTorch's own definition of it).

    A query that may see no key (padding behind a window) has a row of zeros, as in the call: NaN there would reach real
    tokens of the next layer by 0 x NaN.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = (q @ k.transpose(-1, -2)) * scale
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    pattern = torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    if mask is None:
        return pattern
    return pattern.masked_fill(scores.amax(-1, keepdim=True) == -torch.inf, 0)


@dataclass
class _FusedCall:
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float | None

    @classmethod
    def of(cls, args: tuple, kwargs: dict) -> _FusedCall:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return cls(
            given["query"],
            given["key"],
            given["value"],
            given.get("attn_mask"),
            bool(given.get("is_causal", False)),
            given.get("scale"),
        )


class AttentionWatch(TorchFunctionMode):
    """Shows the attention of the layer that runs to a visitor. `enter` and `leave` are called by hooks on the
    attention module; outside them every call passes untouched."""

    def __init__(self, visitor: Visitor) -> None:
        super().__init__()
        self.visitor = visitor
        self._layer: int | None = None

    def enter(self, layer: int, plan: AttentionPlan, batch: int) -> None:
        self._layer, self._plan, self._batch, self._count = layer, plan, batch, 0

    def leave(self) -> None:
        self._layer = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self._layer is None:
            return func(*args, **kwargs)
        if self._plan.fused:
            if func is F.scaled_dot_product_attention:
                return self._fused(func, args, kwargs)
        elif (pair := _operands(func, args, kwargs)) is not None:
            index, self._count = self._count, self._count + 1
            if index == self._plan.scores:
                args, kwargs = _with_operands(args, kwargs, *self._scores(*pair))
            elif index == self._plan.values:
                args, kwargs = _with_operands(args, kwargs, *self._values(*pair))
        return func(*args, **kwargs)

    def _scores(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        q, k = _split_heads(a, self._batch), _split_heads(b, self._batch).transpose(-1, -2)
        new_q, new_k = self.visitor.scores(self._layer or 0, q, k)
        a = a if new_q is q else new_q.reshape(a.shape)
        b = b if new_k is k else new_k.transpose(-1, -2).reshape(b.shape)
        return a, b

    def _values(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        pattern, v = _split_heads(a, self._batch), _split_heads(b, self._batch)
        new_pattern, new_v = self.visitor.values(self._layer or 0, pattern, v)
        a = a if new_pattern is pattern or new_pattern is None else new_pattern.reshape(a.shape)
        b = b if new_v is v else new_v.reshape(b.shape)
        return a, b

    def _fused(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        layer = self._layer or 0
        call = _FusedCall.of(args, kwargs)
        folded = call.q.shape
        if folded[1] != self._plan.heads:  # a single query of grouped heads comes as [prompt, kv_head, group, d]
            call.q = call.q.reshape(folded[0], self._plan.heads, 1, folded[-1])
        q, k = self.visitor.scores(layer, call.q, call.k)
        pattern = None
        if self.visitor.needs_pattern(layer):
            pattern = explicit_pattern(q, k, call.mask, call.is_causal, call.scale)
        new_pattern, v = self.visitor.values(layer, pattern, call.v)
        if new_pattern is not pattern and new_pattern is not None:
            z = new_pattern @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
            return z.reshape(*folded[:-1], z.shape[-1])
        rest = {key: value for key, value in kwargs.items() if key not in ("query", "key", "value")}
        return func(q.reshape(folded), k, v, *args[3:], **rest)


@dataclass
class _Seen:
    """One call noticed by the probe: a product of `a` and `b`, or a softmax (of which only `out` matters)."""

    kind: str
    scope: str
    moment: int
    out: Tensor
    a: Tensor
    b: Tensor


class AttentionProbe(TorchFunctionMode):
    """Notes every batched product, softmax and fused call of a run, with the module it happened in."""

    def __init__(self, scope: Any) -> None:
        super().__init__()
        self._scope = scope  # () -> (innermost module's name, moment)
        self.on = True
        self.seen: list[_Seen] = []
        self.fused: list[tuple[str, int, _FusedCall]] = []

    def clear(self) -> None:
        self.seen.clear()
        self.fused.clear()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.on:
            return out
        name, moment = self._scope()
        if func is F.scaled_dot_product_attention:
            self.fused.append((name, moment, _FusedCall.of(args, kwargs)))
        elif (pair := _operands(func, args, kwargs)) is not None:
            self.seen.append(_Seen("product", name, moment, out, pair[0].clone(), pair[1].clone()))
        elif getattr(func, "__name__", "") in _SOFTMAX:
            self.seen.append(_Seen("softmax", name, moment, out, out, out))
        return out


@dataclass
class SeenAttention:
    """What the probe found in one block: the module, its plan, and the tensors of this run."""

    module: str
    plan: AttentionPlan
    moment: int
    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Tensor


def read_probe(probe: AttentionProbe, batch: int, length: int) -> SeenAttention | str:
    """The attention of the block that just ran, or the reason why none was recognised."""
    if len(probe.fused) == 1:
        name, moment, call = probe.fused[0]
        pattern = explicit_pattern(call.q, call.k, call.mask, call.is_causal, call.scale)
        return SeenAttention(name, AttentionPlan(True, call.q.shape[1]), moment, call.q, call.k, call.v, pattern)
    softmaxes = [i for i, s in enumerate(probe.seen) if s.kind == "softmax" and s.out.shape[-2] == length]
    if len(softmaxes) != 1:
        return f"{len(probe.fused)} fused attention calls and {len(softmaxes)} attention softmaxes were seen, not one"
    middle = softmaxes[0]
    scope = probe.seen[middle].scope
    products = [(i, s) for i, s in enumerate(probe.seen) if s.kind == "product" and s.scope == scope]
    before = [n for n, (i, s) in enumerate(products) if i < middle and s.out.shape[-2:] == (length, length)]
    after = [n for n, (i, s) in enumerate(products) if i > middle and s.a.shape[-2:] == (length, length)]
    if not before or not after:
        return "a softmax was seen but not the products with keys before and values after it"
    first, second = products[before[-1]][1], products[after[0]][1]
    pattern = _split_heads(second.a, batch)
    return SeenAttention(
        module=scope,
        plan=AttentionPlan(False, pattern.shape[1], before[-1], after[0]),
        moment=second.moment,
        q=_split_heads(first.a, batch),
        k=_split_heads(first.b, batch).transpose(-1, -2),
        v=_split_heads(second.b, batch),
        pattern=pattern,
    )
