"""The readout as the linear map it is once the norm's scale is known: what makes a thousand readout edits cheap.

logit_t(x) = <w_t, c(x)> / s(x) + b_t, with w_t = gain * W_U[:, t], b_t = <W_U[:, t], norm bias> + b_U[t] (then the
model's own factor and soft-cap). So for x + a v the products with the vocabulary are those of x plus a times those of
v: each state and each vector is multiplied once, and every combination of them is an addition. The norm is applied
exactly once; that its formula is the model's is certified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BadInput
from ..finite import require_finite_logits, require_finite_states, require_finite_weights
from ..parts import logits_at_once, slices

if TYPE_CHECKING:
    from ..model import Model

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
"""States before the final norm."""


@torch.no_grad()
def decode(model: Model, values: Tensor, site: str) -> Tensor:  # [..., d_model] -> [..., vocab]
    """Logits from a state, with the final norm applied exactly once: `final_norm` is read as it is, stream sites are
    normed first.

    Raises:
        BadInput: the site is no state of the stream, such as a single write.
        Refused: the model has something other than one norm before its unembedding.
    """
    if site in STREAM:
        return model.read(values)
    if site == "final_norm":
        model.certificate.require("Reading a normed state as tokens", ("unembedding", "logits"))
        unembedding = model.anatomy.unembedding
        return unembedding.finish(unembedding.linear.module(values.to(unembedding.linear.weight.device)))
    raise BadInput(f"{site} is no state that the model reads tokens from. Decode {', '.join(STREAM)} or final_norm.")


@dataclass(frozen=True, eq=False)
class Products:
    """What the readout needs of vectors [n, d_model]: `onto` [n, vocab] = <w_t, c(v)>, and c(v) [n, d_model]."""

    onto: Tensor
    centred: Tensor

    def __len__(self) -> int:
        return len(self.centred)

    @cached_property
    def largest(self) -> float:
        """The largest |product|."""
        return float(self.onto.abs().max()) if self.onto.numel() else 0.0


class LinearReadout:
    """A model's final norm and unembedding, with the norm's scale taken apart.

    Raises:
        Refused: the model has something other than one norm before its unembedding.
    """

    def __init__(self, model: Model) -> None:
        model.certificate.require("Reading the stream as tokens", ("final_norm", "unembedding", "logits"))
        norm = model.anatomy.final_norm
        assert norm is not None
        self.model, self.norm, self.unembedding = model, norm, model.anatomy.unembedding
        self.weight = self.unembedding.linear.weight.detach()  # [d_model, vocab]
        self.dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        self.weight = self.weight.to(self.dtype)
        bias = torch.zeros(self.weight.shape[1], dtype=self.dtype, device=self.weight.device)
        if norm.bias is not None:
            bias = bias + norm.bias.to(self.weight) @ self.weight
        if self.unembedding.bias is not None:
            bias = bias + self.unembedding.bias.detach().to(bias)
        require_finite_weights(model, "the bias of the logits", bias)
        self.bias = bias  # [vocab]

    def products(self, vectors: Tensor, who: Callable[[int], str] = "Vector {}".format) -> Products:
        """Of vectors [n, d_model].

        Args:
            who: names one of them.

        Raises:
            NotFinite: NaN or infinity in one of them or among its products; the message says which and why.
        """
        vectors = vectors.detach().to(self.weight.device)
        require_finite_states(self.model, vectors, who)
        centred = self.norm.centre(vectors.to(torch.float64))
        made = Products(self.norm.gained(centred).to(self.dtype) @ self.weight, centred)
        require_finite_logits(self.model, made.onto, who)
        return made

    def one_by_one(
        self, states: Tensor, wanted: Sequence[int], who: Callable[[int], str]
    ) -> Iterator[tuple[int, Products, int]]:
        """Each wanted one of states [n, d_model]: its number, products that hold it, and its row in these. `who` names
        a state.

        Raises:
            NotFinite: as `products`.
        """
        for part in slices(len(wanted), logits_at_once(len(self.bias))):
            some = list(wanted[part])
            products = self.products(states[some], lambda j, some=some: who(some[j]))  # type: ignore[misc]
            for row, i in enumerate(some):
                yield i, products, row

    def direction(self, tokens: Tensor, foils: Tensor) -> Tensor:
        """w_token - w_foil, centred where the norm centres: <it, v> is what v changes of the pair's margin before the
        norm's scale. [n, d_model], float64."""
        columns = (self.weight[:, tokens].double() - self.weight[:, foils].double()).T
        gained = self.norm.gained(columns)
        return self.norm.centre(gained)

    def pair_bias(self, tokens: Tensor, foils: Tensor) -> Tensor:  # [n], float64
        """b_token - b_foil."""
        bias = self.bias.double()
        return bias[tokens] - bias[foils]

    def square(self, state: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s(x + a v)^2 = q0 + q1 a + q2 a^2, from centred x [..., d_model] and v [n, d_model], float64.

        Returns q0 [...], q1 [..., n], q2 [n]; where there is no norm, 1, 0 and 0.
        """
        if self.norm.module is None:
            shape = (*state.shape[:-1], len(vectors))
            zero = state.new_zeros(shape)
            return torch.ones_like(state[..., 0]), zero, zero.new_zeros(len(vectors))
        d = state.shape[-1]
        q0 = state.square().sum(-1) / d + self.norm.eps
        return q0, 2 * (state @ vectors.T) / d, vectors.square().sum(-1) / d

    def finish(self, logits: Tensor) -> Tensor:
        """The model's own factor and soft-cap; neither changes which token is on top."""
        return self.unembedding.finish(logits)
