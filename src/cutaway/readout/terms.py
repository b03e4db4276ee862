"""Parts of the residual stream at one position, as terms of a sum: their product with the readout, and their size.

A part is a vector y_k of the stream. What attribution needs of it are three numbers: <u, y_k> with the readout's
direction u, <c(x), y_k> with the whole state, and |c(y_k)|^2. Heads, neurons and source tokens pass through a linear
map (their rows of the output projection, then a post-norm where there is one), so the numbers follow from that map's
Gram matrix and the vectors themselves are never built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..anatomy import Block, Norm, Write
from ..trace import Trace
from .direction import Direction


@dataclass(frozen=True)
class Label:
    """What a term is: its name, and where it stands in the anatomy (-1: does not apply)."""

    name: str
    kind: str
    layer: int = -1
    head: int = -1
    neuron: int = -1
    key: int = -1


@dataclass
class Terms:
    """Some terms: labels, and per prompt and term the three numbers, float64 [prompt, term]."""

    labels: list[Label] = field(default_factory=list)
    dot: list[Tensor] = field(default_factory=list)  # <u, y>
    with_state: list[Tensor] = field(default_factory=list)  # <c(x), y>
    square: list[Tensor] = field(default_factory=list)  # |c(y)|^2

    def add(self, labels: list[Label], dot: Tensor, with_state: Tensor, square: Tensor) -> None:
        self.labels += labels
        self.dot.append(dot)
        self.with_state.append(with_state)
        self.square.append(square)

    def extend(self, other: Terms) -> None:
        self.labels += other.labels
        self.dot += other.dot
        self.with_state += other.with_state
        self.square += other.square

    def __iter__(self) -> Iterator[Tensor]:
        """(dot, with_state, square), each [prompt, term]."""
        return (torch.cat(x, dim=1) for x in (self.dot, self.with_state, self.square))


class Reader:
    """Splits one position of a run into terms, as finely as asked for."""

    def __init__(
        self, trace: Trace, positions: Tensor, direction: Direction, centre: Callable[[Tensor], Tensor]
    ) -> None:
        self.trace, self.positions, self.direction, self.centre = trace, positions, direction, centre
        self.rows = torch.arange(len(positions))

    def at(self, layer: int, *sites: str) -> Iterator[Tensor]:
        """The read position of some sites of a layer [prompt, ...], float64 where the readout is."""
        found = self.trace.rows_of(layer, sites, self.positions)
        return (found[name].to(self.direction.stream.device).double() for name in sites)

    def vectors(self, labels: list[Label], y: Tensor) -> Terms:
        """Terms given as vectors [prompt, term, d_model]."""
        terms, centred = Terms(), self.centre(y)
        dot = torch.einsum("pnd,pd->pn", y, self.direction.stream)
        with_state = torch.einsum("pnd,pd->pn", y, self.direction.centred)
        terms.add(labels, dot, with_state, centred.square().sum(-1))
        return terms

    def mapped(self, labels: list[Label], a: Tensor, maps: Tensor, factor: Tensor) -> Terms:
        """Terms factor[p] * a[p, h, k] @ maps[h]: a [prompt, h, k, r], maps [h, r, d_model]; order h, then k."""
        terms, centred = Terms(), self.centre(maps)
        gram = centred @ centred.transpose(-1, -2)
        onto = [torch.einsum("hrd,pd->phr", maps, w) for w in (self.direction.stream, self.direction.centred)]
        dot, with_state = (torch.einsum("phkr,phr->phk", a, w) * factor[:, None, None] for w in onto)
        square = torch.einsum("phkr,hrs,phks->phk", a, gram, a) * factor.square()[:, None, None]
        terms.add(labels, dot.flatten(1), with_state.flatten(1), square.clamp_min(0).flatten(1))
        return terms

    # -- the start of the stream ----------------------------------------------------------------------------------

    def embedding(self) -> Terms:
        """Token embedding and position embedding (the rest of what enters block 0)."""
        (start,) = self.at(0, "resid_pre")
        parts = self.trace.anatomy.embedding
        if len(parts) < 2:
            return self.vectors([Label("embed", "embed")], start[:, None])
        ids = self.trace.prompts.ids[self.rows, self.positions]
        with torch.no_grad():
            token = parts[0].module(ids.to(self.trace.model.device)).to(start.device).double() * parts[0].scale
        labels = [Label("embed", "embed"), Label("pos_embed", "pos_embed")]
        return self.vectors(labels, torch.stack([token, start - token], dim=1))

    # -- a block --------------------------------------------------------------------------------------------------

    def layer(self, block: Block) -> Terms:
        """Everything a block added, as one term."""
        before, after = self.at(block.layer, "resid_pre", "resid_post")
        return self.vectors([Label(f"L{block.layer}", "layer", block.layer)], (after - before)[:, None])

    def component(self, block: Block, write: Write) -> Terms:
        """One write of a block, as one term."""
        (y,) = self.at(block.layer, f"{write.kind}_out")
        return self.vectors([Label(f"L{block.layer}.{write.kind}", write.kind, block.layer)], y[:, None])

    def rest(self, block: Block, kind: str) -> Terms:
        """What a block added beyond its attention and MLP, as one term (recurrent mixers have no site)."""
        before, after = self.at(block.layer, "resid_pre", "resid_post")
        y = after - before
        for write in block.writes:
            if write.kind in ("attn", "mlp"):
                (part,) = self.at(block.layer, f"{write.kind}_out")
                y = y - part
        return self.vectors([Label(f"L{block.layer}.{kind}", kind, block.layer)], y[:, None])

    def heads(self, block: Block, write: Write, by_source: bool, only: int | None = None) -> Terms:
        """The attention write by head, or by head and source token, and its bias."""
        attention = block.attention
        assert attention is not None and attention.out is not None
        chosen = list(range(attention.n_heads)) if only is None else [only]
        w = attention.out.weight.detach().unflatten(0, (attention.n_heads, -1))[chosen]
        z, *more = self.at(block.layer, *(["z", "pattern"] if by_source else ["z"]))  # [prompt, head, d or key]
        path = self._path(write, self._raw(attention.out.weight, attention.out.bias, z.flatten(1)))
        maps = path.linear(w.to(z.device).double())
        if by_source:
            group = attention.n_heads // attention.n_kv_heads
            kv = [h // group for h in chosen]
            pattern = more[0][:, chosen]  # [prompt, head, key]
            v = self.trace.block(block.layer, ["v"])["v"][:, :, kv]
            v = v.to(pattern.device).double().transpose(1, 2)  # [prompt, head, key, d]
            a = torch.where(pattern[..., None] == 0, 0.0, pattern[..., None] * v)  # padding may hold anything
        else:
            a = z[:, chosen, None]
        labels = [_head_label(block.layer, h, k if by_source else -1) for h in chosen for k in range(a.shape[2])]
        terms = self.mapped(labels, a, maps, path.factor)
        if only is None:
            terms.extend(self._bias(block, write, attention.out.bias, path))
        return terms

    def neurons(self, block: Block, write: Write) -> Terms:
        """The MLP write by neuron, and its bias."""
        assert block.mlp is not None
        down = block.mlp.down
        (act,) = self.at(block.layer, "mlp_act")  # [prompt, neuron]
        path = self._path(write, self._raw(down.weight, down.bias, act))
        maps = path.linear(down.weight.detach().to(act.device).double())[:, None]
        labels = [Label(f"L{block.layer}.n{n}", "neuron", block.layer, neuron=n) for n in range(act.shape[1])]
        terms = self.mapped(labels, act[:, :, None, None], maps, path.factor)
        terms.extend(self._bias(block, write, down.bias, path))
        return terms

    def _raw(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """What the linear map put out at the read position (a post-norm's statistics are taken from it)."""
        y = x @ weight.detach().to(x.device).double()
        return y if bias is None else y + bias.detach().to(y)

    def _path(self, write: Write, raw: Tensor) -> _Path:
        factor = torch.full((len(raw),), write.scale, dtype=raw.dtype, device=raw.device)
        if write.norm is not None:
            factor = factor / write.norm.scale(raw)[:, 0]
        return _Path(write.norm, factor, write.scale)

    def _bias(self, block: Block, write: Write, bias: Tensor | None, path: _Path) -> Terms:
        """The bias of the linear map and of the post-norm, as one term."""
        like = self.direction.stream
        y = torch.zeros_like(like)
        if bias is not None:
            y = y + path.linear(bias.detach().to(like))[None] * path.factor[:, None]
        if path.norm is not None and path.norm.bias is not None:
            y = y + path.norm.bias.to(like) * path.scale
        if not bool(y.any()):
            return Terms()
        kind = f"{write.kind}_bias"
        return self.vectors([Label(f"L{block.layer}.{kind}", kind, block.layer)], y[:, None])


@dataclass(frozen=True)
class _Path:
    """From a linear map's output to the stream: factor[p] * linear(y) + scale * (post-norm's bias)."""

    norm: Norm | None
    factor: Tensor  # [prompt]
    scale: float

    def linear(self, y: Tensor) -> Tensor:
        return y if self.norm is None else self.norm.gained(self.norm.centre(y))


def _head_label(layer: int, head: int, key: int) -> Label:
    if key < 0:
        return Label(f"L{layer}H{head}", "head", layer, head)
    return Label(f"L{layer}H{head}<-{key}", "source", layer, head, key=key)
