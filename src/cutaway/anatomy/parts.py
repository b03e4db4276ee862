"""What an anatomy consists of: the parts of a decoder, as data. How they are found is in the files beside this one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attention_calls import AttentionPlan
from ..errors import Refused
from .placed import stored
from .tail import Tail


@dataclass(frozen=True)
class Identity:
    """One measured statement about the model: `error` is relative; it holds when `error <= tolerance`."""

    name: str
    statement: str
    error: float
    tolerance: float
    layer: int | None = None
    reason: str = ""  # why it does not hold, or could not even be measured
    applies: bool = True  # false where the architecture has no such part, so that nothing is missing

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance  # false for NaN and infinity


@dataclass(frozen=True)
class Norm:
    """norm(x) = gain * c(x) / s(x) + bias with s(x) = sqrt(mean(c(x)^2) + eps); c centres, or not (`centred`).

    `offset` is what the family adds to its stored weight to get the gain (1 where the weight is stored around zero).
    Formula: Ba et al. 2016 (LayerNorm), Zhang & Sennrich 2019 (RMSNorm).
    """

    module: nn.Module | None  # None: no norm at all, norm(x) = x
    centred: bool
    eps: float
    gain: Tensor | None  # [d_model]; None: all ones
    bias: Tensor | None  # [d_model]; None: zeros
    offset: float = 0.0

    def centre(self, x: Tensor) -> Tensor:
        """c(x): minus the mean over the last axis (LayerNorm), or x itself (RMSNorm)."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Tensor) -> Tensor:
        """s(x), the last axis kept with length 1. One where there is no norm."""
        if self.module is None:
            return torch.ones_like(x[..., :1])
        return (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def gained(self, x: Tensor) -> Tensor:
        """gain * x, in the dtype of x."""
        return x if self.gain is None else x * (self.gain.to(x) + self.offset)

    def linear(self, x: Tensor, scale: Tensor) -> Tensor:
        """The part of the norm that is linear once s is fixed: gain * c(x) / scale, without the bias."""
        return self.gained(self.centre(x)) / scale

    def __call__(self, x: Tensor) -> Tensor:
        y = self.linear(x, self.scale(x))
        return y if self.bias is None else y + self.bias.to(x)


@dataclass(frozen=True)
class Linear:
    """A linear map y = x W + b of the model, whichever way its weight is stored."""

    name: str
    module: nn.Module
    transposed: bool  # nn.Linear stores [out, in]; GPT-2's Conv1D stores [in, out]

    @property
    def weight(self) -> Tensor:  # [in, out], a view (of a copy, where the weights are kept elsewhere between calls)
        weight = stored(self.module, "weight")
        if weight is None or weight.dim() != 2:
            raise Refused(
                f"The weight of {self.name} is no matrix that can be read: it is quantised or made otherwise."
            )
        return weight.T if self.transposed else weight

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out), without fetching the weights."""
        a, b = self.module.weight.shape  # type: ignore[union-attr,misc]
        return (b, a) if self.transposed else (a, b)

    @property
    def bias(self) -> Tensor | None:  # [out]
        return stored(self.module, "bias")


@dataclass(frozen=True)
class HeadMap:
    """Which columns of a projection's output are head h, coordinate j: starts[h] + j * step.

    Fused projections (q|k|v thirds), interleaved ones ([head, 3, d]) and grouped ones are all of this form. Where the
    heads start at regular steps the weights are views; a layout with gaps between groups (Falcon's) takes a copy.
    """

    linear: Linear
    starts: tuple[int, ...]
    step: int
    d_head: int

    def _per_head(self, columns: Tensor) -> Tensor:
        """[..., out] as [head, ..., d_head]."""
        gaps = {b - a for a, b in zip(self.starts, self.starts[1:], strict=False)}
        if len(gaps) > 1 or min(gaps, default=1) <= 0:
            span = (self.d_head - 1) * self.step + 1
            return torch.stack([columns[..., s : s + span : self.step] for s in self.starts])
        one = columns.stride(-1)
        size = (len(self.starts), *columns.shape[:-1], self.d_head)
        stride = (min(gaps, default=1) * one, *columns.stride()[:-1], self.step * one)
        return columns.as_strided(size, stride, columns.storage_offset() + self.starts[0] * one)

    def weight(self) -> Tensor:  # [head, d_model, d_head]
        return self._per_head(self.linear.weight)

    def bias(self) -> Tensor | None:  # [head, d_head]
        return None if self.linear.bias is None else self._per_head(self.linear.bias)


@dataclass(frozen=True)
class Write:
    """Something a block adds to the residual stream: `scale` times what `module` puts out.

    `minus` names the argument of the module that its output already contains (families that add the residual inside
    the module), so that the write is output - argument. `norm` is the post-norm between `source` (the linear map that
    produces the write) and the stream, where there is one.
    """

    kind: str  # "attn", "mlp", or "mixer" (mixes positions, but not by attention)
    name: str
    module: nn.Module
    scale: float = 1.0
    minus: int | str | None = None
    source: Linear | None = None
    norm: Norm | None = None

    def value(self, output: Tensor, args: tuple, kwargs: dict) -> Tensor:
        """What is added to the stream, from one call of the module."""
        if self.minus is not None:
            output = output - (args[self.minus] if isinstance(self.minus, int) else kwargs[self.minus])
        return output if self.scale == 1.0 else output * self.scale

    def output(self, value: Tensor, args: tuple, kwargs: dict) -> Tensor:
        """The inverse of `value`: what the module must put out for the stream to receive `value`."""
        value = value if self.scale == 1.0 else value / self.scale
        if self.minus is not None:
            value = value + (args[self.minus] if isinstance(self.minus, int) else kwargs[self.minus])
        return value


@dataclass(frozen=True)
class Attention:
    """One layer's attention: the module, where its products are, and how its heads are laid out."""

    name: str
    module: nn.Module
    plan: AttentionPlan
    n_heads: int
    n_kv_heads: int
    d_head: int  # of q and k
    d_value: int  # of v and z
    out: Linear | None  # the output projection; its input is z, heads contiguous
    q: HeadMap | None = None
    k: HeadMap | None = None
    v: HeadMap | None = None
    rotates: bool | None = None  # q or k depend on the position beyond what the projection gives


@dataclass(frozen=True)
class Mlp:
    """One layer's neurons: the down-projection and the nonlinearity before it."""

    down: Linear
    act: nn.Module | None = None
    gated: bool = False
    into: HeadMap | None = None  # the weights of mlp_pre (of a gated MLP the gate's), as one head

    @property
    def n_neurons(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class Block:
    """One layer. `parallel`: attention and MLP both read the block's input, so there is no `resid_mid`."""

    layer: int
    name: str
    module: nn.Module
    writes: tuple[Write, ...]
    parallel: bool | None
    attention: Attention | None
    mlp: Mlp | None

    def write(self, kind: str) -> Write | None:
        return next((w for w in self.writes if w.kind == kind), None)


@dataclass(frozen=True)
class EmbeddingTerm:
    """One summand of what enters block 0: `scale` times what `module` puts out."""

    kind: str  # "embed" (token), "pos_embed"
    name: str
    module: nn.Module
    scale: float = 1.0


@dataclass(frozen=True)
class Unembedding:
    """logits = softcap(scale * (x W_U + b_U)), softcap(y) = cap * tanh(y / cap) where there is one."""

    linear: Linear
    scale: float = 1.0
    cap: float | None = None

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias

    def before_cap(self, y: Tensor) -> Tensor:
        """`y` is what the unembedding module puts out."""
        return y if self.scale == 1.0 else y * self.scale

    def finish(self, y: Tensor) -> Tensor:
        """The logits, from what the unembedding module puts out."""
        return self.cap_only(self.before_cap(y))

    def cap_only(self, y: Tensor) -> Tensor:
        """The logits, from what `before_cap` gives."""
        return y if self.cap is None else self.cap * torch.tanh(y / self.cap)

    def slope(self, logits: Tensor) -> Tensor:
        """d logits / d (logits before the cap)."""
        return torch.ones_like(logits) if self.cap is None else 1 - (logits / self.cap).square()


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model, and everything that was measured about them."""

    blocks: tuple[Block, ...]
    embedding: tuple[EmbeddingTerm, ...]  # empty: what enters block 0 is one term
    final_norm: Norm | None
    unembedding: Unembedding
    d_model: int
    vocab_size: int
    attn_implementation: str
    tail: Tail | None  # what follows the last block, where it can be called alone
    identities: tuple[Identity, ...] = field(default=(), repr=False)
