"""What a readout is linear in: the direction whose product with the normalised state is the quantity asked for.

logit_t = cap(scale * (b_U[t] + <W_U[:, t], beta> + (1/s) <gain * W_U[:, t], c(x)>)) with s = s(x). Since c is a
symmetric projection, <w, c(y)> = <c(w), y>: one vector a prompt serves every part of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..anatomy import Unembedding
from ..errors import BadInput
from ..finite import named, require_finite_logits
from ..model import Model
from ..prompts import Prompts, Read
from ..trace import Trace

CHUNK = 2**23
"""Logits held at once: 64 MB in float64."""
TOWARD = ("contrast", "centred", "log_prob", "logit")


@dataclass(frozen=True)
class Direction:
    """A readout, prompt by prompt, in float64.

    value before the cap = (1 / scale) <stream, x> + norm_bias + unembed_bias; `own` is that value as the model's own
    unembedding gives it, `total` the model's own answer (after a soft-cap; for a log-probability, the log-probability).
    """

    stream: Tensor  # [prompt, d_model]: c(gain * W_U[:, answer - foil])
    scale: Tensor  # [prompt]: s(x) of the final norm
    centred: Tensor  # [prompt, d_model]: c(x)
    eps: float
    norm_bias: Tensor  # [prompt]
    unembed_bias: Tensor  # [prompt]
    own: Tensor  # [prompt]
    total: Tensor  # [prompt]
    normed: bool  # False where the model has no final norm, so that nothing is rescaled


def _ids(column: Tensor | None, kind: str, prompts: Prompts, toward: str) -> Tensor:
    if column is None:
        more = " or ask for toward='centred' or 'log_prob'" if kind == "foils" else ""
        raise BadInput(f"toward={toward!r} needs {kind}: give {kind}=[...] to the prompts{more}.")
    return column


def read_direction(trace: Trace, x: Tensor, read: Read, toward: str) -> Direction:
    """The direction of one readout.

    Args:
        trace: the run that is read.
        x: the stream after the last block at the read position, [prompt, d_model].
        read: which position that is.
        toward: `contrast` (answer - foil), `centred` (answer - mean over the vocabulary), `log_prob` (its gradient), or
            `logit` (the bare logit, which means nothing by itself: logits are identified only up to a constant).

    Raises:
        BadInput: unknown `toward`, or answers or foils missing.
        Refused: the readout of this model is not certified.
    """
    if toward not in TOWARD:
        raise BadInput(f"toward must be one of {', '.join(TOWARD)}, not {toward!r}.")
    model, prompts = trace.model, trace.prompts
    model.certificate.require("Attribution", ("final_norm", "unembedding", "logits"))
    norm = model.anatomy.final_norm
    assert norm is not None
    answers = _ids(prompts.answers, "answers", prompts, toward)
    foils = _ids(prompts.foils, "foils", prompts, toward) if toward == "contrast" else None
    rows = trace.rows("resid_post", model.n_layers - 1, prompts.at(read))
    step = max(1, CHUNK // model.vocab_size)
    parts = [
        _of_rows(
            model,
            rows[i : i + step],
            answers[i : i + step],
            None if foils is None else foils[i : i + step],
            toward,
            lambda j, i=i: named(prompts, i + j),  # type: ignore[misc]
        )
        for i in range(0, len(rows), step)
    ]
    column, constant, own, total = (torch.cat(part).to(x.device) for part in zip(*parts, strict=True))
    x, beta = x.double(), norm.bias
    return Direction(
        stream=norm.centre(norm.gained(column)),
        scale=norm.scale(x)[:, 0],
        centred=norm.centre(x),
        eps=norm.eps,
        norm_bias=torch.zeros_like(constant) if beta is None else column @ beta.to(column),
        unembed_bias=constant,
        own=own,
        total=total,
        normed=norm.module is not None,
    )


def _of_rows(
    model: Model, rows: Tensor, answers: Tensor, foils: Tensor | None, toward: str, who: Callable[[int], str]
) -> tuple[Tensor, ...]:
    """For some states [prompt, d_model] before the final norm: the readout's column of W_U [prompt, d_model] and
    constant of b_U [prompt], with the logits' factor; the model's own value before the cap, and its own answer."""
    unembedding = model.anatomy.unembedding
    raw = model.read_before_cap(rows).double()  # [prompt, vocab]
    require_finite_logits(model, raw, who, rows)
    logits = unembedding.cap_only(raw)
    at = torch.arange(len(answers), device=raw.device)
    answers = answers.to(raw.device)
    if toward == "log_prob":
        log_p = torch.log_softmax(logits, -1)
        gradient = -log_p.exp()
        gradient[at, answers] += 1
        gradient *= unembedding.slope(logits)
        column, constant = _combined(unembedding, gradient)
        own, total = (gradient * raw).sum(-1), log_p[at, answers]
    else:
        column, constant = _picked(unembedding, answers)
        own, total = raw[at, answers], logits[at, answers]
    if foils is not None:
        foils = foils.to(raw.device)
        other, other_constant = _picked(unembedding, foils)
        column, constant = column - other, constant - other_constant
        own, total = own - raw[at, foils], total - logits[at, foils]
    elif toward == "centred":
        mean = torch.full((1, raw.shape[1]), 1 / raw.shape[1], dtype=torch.float64, device=raw.device)
        other, other_constant = _combined(unembedding, mean)
        column, constant = column - other, constant - other_constant
        own, total = own - raw.mean(-1), total - logits.mean(-1)
    return column * unembedding.scale, constant * unembedding.scale, own, total


def _picked(unembedding: Unembedding, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(W_U, b_U) of tokens [prompt]."""
    column = unembedding.linear.weight[:, ids].T.double()
    bias = unembedding.bias
    return column, torch.zeros_like(column[:, 0]) if bias is None else bias[ids].double()


def _combined(unembedding: Unembedding, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """(W_U, b_U) times coefficients [prompt, vocab], without a float64 copy of W_U."""
    weight, bias = unembedding.linear.weight, unembedding.bias
    step = 8192
    wide = [weight[:, i : i + step].double() @ coefficients[:, i : i + step].T for i in range(0, weight.shape[1], step)]
    column = sum(wide[1:], wide[0]).T
    return column, torch.zeros_like(column[:, 0]) if bias is None else coefficients @ bias.double()
