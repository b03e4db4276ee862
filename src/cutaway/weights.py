"""The weights by their usual names: [layer, head, ...] views of the model's own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import Anatomy, HeadMap, stored
from .certificate import Certificate
from .errors import BadInput, Refused
from .finite import require_finite_weights
from .prompts import Token


class LayerWeights:
    """One weight of every layer: `W[3]`, `W[3, 6]`, `W[:, 6]`, `len(W)`, `W.shape`.

    `W[layer]` is a view of the model's parameter; nothing is copied until several layers are asked for at once
    (`W.stack()`, a slice, or using `W` in a torch function).
    """

    def __init__(self, name: str, n_layers: int, get: Callable[[int], Tensor]) -> None:
        self._name, self._n, self._get = name, n_layers, get

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Tensor]:
        return (self._get(layer) for layer in range(self._n))

    def __getitem__(self, index: Any) -> Tensor:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int):
            weight = self._get(range(self._n)[first])
            return weight[tuple(rest)] if rest else weight
        return self.stack()[index]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self._n, *self._get(0).shape))

    def stack(self) -> Tensor:
        """All layers in one tensor: a copy."""
        return torch.stack(list(self))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        def plain(x: Any) -> Any:
            return x.stack() if isinstance(x, cls) else type(x)(map(plain, x)) if type(x) in (tuple, list) else x

        return func(*map(plain, args), **{k: plain(v) for k, v in (kwargs or {}).items()})

    def __repr__(self) -> str:
        return f"{self._name}: {tuple(self.shape)}, a view a layer"


class Weights:
    """A model's weights, whatever its family calls them; what a name needs is certified, or it is refused."""

    hf: nn.Module
    name: str

    @property
    def anatomy(self) -> Anatomy:
        raise NotImplementedError

    @property
    def certificate(self) -> Certificate:
        raise NotImplementedError

    @property
    def n_layers(self) -> int:
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        raise NotImplementedError

    def token_id(self, token: Token) -> int:
        raise NotImplementedError

    @property
    def W_E(self) -> Tensor:  # [vocab, d_model]
        """Token embedding (any factor the family applies is not in it)."""
        weight = stored(self.hf.get_input_embeddings(), "weight")  # type: ignore[operator]
        assert weight is not None
        return weight

    @property
    def W_U(self) -> Tensor:  # [d_model, vocab]
        """Unembedding, a view; the final norm's gain is not in it."""
        return self.anatomy.unembedding.linear.weight

    @property
    def b_U(self) -> Tensor | None:  # [vocab]
        return self.anatomy.unembedding.bias

    @property
    def W_Q(self) -> LayerWeights:  # [layer, head, d_model, d_head]
        """Query weights, before any q norm, rotation or factor."""
        return self._head_weights("W_Q", "q")

    @property
    def W_K(self) -> LayerWeights:  # [layer, kv_head, d_model, d_head]
        return self._head_weights("W_K", "k")

    @property
    def W_V(self) -> LayerWeights:  # [layer, kv_head, d_model, d_head]
        return self._head_weights("W_V", "v")

    @property
    def b_Q(self) -> LayerWeights:  # [layer, head, d_head]
        return self._head_weights("b_Q", "q")

    @property
    def b_K(self) -> LayerWeights:  # [layer, kv_head, d_head]
        return self._head_weights("b_K", "k")

    @property
    def b_V(self) -> LayerWeights:  # [layer, kv_head, d_head]
        return self._head_weights("b_V", "v")

    @property
    def W_O(self) -> LayerWeights:  # [layer, head, d_head, d_model]
        """Output projection by head; a post-norm or branch factor is not in it."""
        self.certificate.require("W_O", ("output_projection", "head_split"))

        def get(layer: int) -> Tensor:
            attention = self.anatomy.blocks[layer].attention
            assert attention is not None and attention.out is not None
            return attention.out.weight.unflatten(0, (attention.n_heads, attention.d_value))

        return LayerWeights("W_O", self.n_layers, get)

    @property
    def W_out(self) -> LayerWeights:  # [layer, neuron, d_model]
        """Down-projection: what each neuron writes."""
        self.certificate.require("W_out", ("down_projection",))
        return LayerWeights("W_out", self.n_layers, lambda layer: self.anatomy.blocks[layer].mlp.down.weight)  # type: ignore[union-attr]

    @property
    def W_in(self) -> LayerWeights:  # [layer, d_model, neuron]
        """Up-projection; of a gated MLP the gate's."""
        self.certificate.require("W_in", ("down_projection", "nonlinearity"))

        def get(layer: int) -> Tensor:
            into = self.anatomy.blocks[layer].mlp.into  # type: ignore[union-attr]
            if into is None:
                raise Refused(f"In layer {layer} of {self.name} no linear map gives mlp_pre as it is.")
            return into.weight()[0]

        return LayerWeights("W_in", self.n_layers, get)

    def _head_weights(self, name: str, which: str) -> LayerWeights:
        self.certificate.require(name, (f"projection_{which}",))

        def get(layer: int) -> Tensor:
            head_map: HeadMap = getattr(self.anatomy.blocks[layer].attention, which)
            if name.startswith("W"):
                return head_map.weight()
            bias = head_map.bias()
            if bias is None:
                raise BadInput(f"{self.name} has no {name}.")
            return bias

        return LayerWeights(name, self.n_layers, get)

    def OV(self, layer: int, head: int) -> Tensor:  # [d_model, d_model]
        """x -> what the head writes for a token with (normed) state x that it attends to: W_V W_O."""
        return self.W_V[layer, self._kv(layer, head)] @ self.W_O[layer, head]

    def QK(self, layer: int, head: int) -> Tensor:  # [d_model, d_model]
        """Bilinear form of query and key states before rotation and q/k norms: W_Q W_K^T, without the scale."""
        return self.W_Q[layer, head] @ self.W_K[layer, self._kv(layer, head)].T

    def _kv(self, layer: int, head: int) -> int:
        attention = self.anatomy.blocks[layer].attention
        assert attention is not None
        return head * attention.n_kv_heads // attention.n_heads

    def directions(self, tokens: Sequence[Token] | Tensor, foils: Sequence[Token] | Tensor | None = None) -> Tensor:
        """Readout directions of tokens in the stream, [token, d_model], in float32 or better.

        gain * W_U[:, token], minus the same of the foil where given: d logit / d (normalised state), with the final
        norm's gain applied and nothing else. One such direction is only defined up to a vector common to all tokens.
        """
        self.certificate.require("Readout directions", ("final_norm", "unembedding"))
        norm = self.anatomy.final_norm
        assert norm is not None
        columns = self._columns(tokens)
        if foils is not None:
            columns = columns - self._columns(foils)
        found = norm.gained(columns) * self.anatomy.unembedding.scale
        require_finite_weights(self, "the readout directions of these tokens", found)
        return found

    def _columns(self, tokens: Sequence[Token] | Tensor) -> Tensor:
        ids = [self.token_id(t) for t in (tokens.tolist() if isinstance(tokens, Tensor) else tokens)]
        columns = self.W_U.detach()[:, ids].T
        return columns if columns.dtype == torch.float64 else columns.float()
