"""What is measured at the end of a run, and what of the logits it needs.

A metric that needs only a few tokens' logits declares them (`columns`), and the vocabulary is never materialised. All
are computed prompt by prompt at the read positions; logits are the model's own, soft-cap and scale included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput
from .prompts import Prompts


@dataclass(frozen=True)
class Metric:
    """A number from the logits of one read position.

    `value(logits, tokens, base)` gets logits [n, vocab] or, with `columns`, those of its tokens [n, token]; `tokens`
    [n, token] their ids; `base` the unedited run's logits at the same places, in the same form, if it `needs_base`.
    """

    name: str
    units: str
    tokens: (
        Callable[[Prompts, Tensor], Tensor] | None
    )  # (prompts, read positions [prompt, read]) -> [prompt, read, token]
    value: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    columns: bool = False  # only the tokens' logits are needed
    needs_base: bool = False
    everywhere: bool = False  # read at every position that has a next token
    whole: Callable[[Tensor, Prompts], Tensor] | None = None  # a user's function of all read positions at once

    def __call__(self, logits: Tensor, prompts: Prompts, read: int | str = -1) -> Tensor:  # [prompt]
        """The metric of logits [prompt, position, vocab] or [prompt, vocab] that were obtained elsewhere."""
        at = prompts.at(read)
        if logits.dim() == 3:
            logits = logits[torch.arange(len(prompts)), at]
        if self.whole is not None:
            return self.whole(logits, prompts)
        if self.needs_base:
            raise BadInput(f"{self.name} compares with the base run and is only defined in a sweep.")
        tokens = None if self.tokens is None else self.tokens(prompts, at[:, None])[:, 0]
        if self.columns and tokens is not None:
            logits = logits.gather(1, tokens.to(logits.device))
        return self.value(logits, tokens, None)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _answers(what: str, needs: Sequence[str]) -> Callable[[Prompts, Tensor], Tensor]:
    def tokens(prompts: Prompts, at: Tensor) -> Tensor:
        columns = []
        for name in needs:
            column = getattr(prompts, name)
            if column is None:
                raise BadInput(
                    f"{what} needs {' and '.join(needs)}, and the prompts have no {name}. Give them to "
                    "model.prompts(...), or choose a metric that needs none (kl, entropy)."
                )
            columns.append(column)
        return torch.stack(columns, -1)[:, None].expand(-1, at.shape[1], -1)

    return tokens


def _next_tokens(prompts: Prompts, at: Tensor) -> Tensor:
    return prompts.ids.gather(1, (at + 1).clamp_max(prompts.n_positions - 1))[..., None]


def _log_probs(logits: Tensor) -> Tensor:
    return torch.log_softmax(_wide(logits), dim=-1)


def _of(values: Tensor, tokens: Tensor | None) -> Tensor:
    assert tokens is not None
    return values.gather(-1, tokens[..., :1].to(values.device))[..., 0]


def _rank(logits: Tensor, tokens: Tensor | None, base: Tensor | None) -> Tensor:
    own = _of(logits, tokens)
    return (logits > own[..., None]).sum(-1).to(_wide(logits).dtype)


def _kl(logits: Tensor, tokens: Tensor | None, base: Tensor | None) -> Tensor:
    assert base is not None
    p, q = _log_probs(base), _log_probs(logits)
    less = q.neg_().add_(p)  # p - q, in the place of q: two tensors as large as the logits, not five
    return p.exp_().mul_(less).sum(-1)


def _entropy(logits: Tensor, tokens: Tensor | None, base: Tensor | None) -> Tensor:
    p = _log_probs(logits)
    return -(p.exp() * p).sum(-1)


logit_diff = Metric(
    "logit_diff",
    "logits",
    _answers("logit_diff", ("answers", "foils")),
    lambda x, t, b: _wide(x[:, 0]) - _wide(x[:, 1]),
    True,
)
"""logit(answer) - logit(foil)."""
logit = Metric("logit", "logits", _answers("logit", ("answers",)), lambda x, t, b: _wide(x[:, 0]), True)
"""The answer's logit. Logits are defined up to a constant per position: compare within a position only."""
log_prob = Metric("log_prob", "nats", _answers("log_prob", ("answers",)), lambda x, t, b: _of(_log_probs(x), t))
"""The answer's log-probability."""
prob = Metric("prob", "probability", _answers("prob", ("answers",)), lambda x, t, b: _of(_log_probs(x), t).exp())
"""The answer's probability."""
rank = Metric("rank", "rank", _answers("rank", ("answers",)), _rank)
"""How many tokens have a larger logit than the answer (0: it is the top one)."""
top_token = Metric("top_token", "token id", None, lambda x, t, b: x.argmax(-1).to(_wide(x).dtype))
"""Id of the token with the largest logit: to count which and how many change, not to subtract."""
kl = Metric("kl", "nats", None, _kl, needs_base=True)
"""KL(base || edited): how far the edit moves the whole next-token distribution of the unedited base run."""
entropy = Metric("entropy", "nats", None, _entropy)
"""Entropy of the next-token distribution."""
next_token_log_prob = Metric(
    "next_token_log_prob", "nats", _next_tokens, lambda x, t, b: _of(_log_probs(x), t), everywhere=True
)
"""Log-probability of the token that really follows, at every position but the last."""
next_token_kl = Metric("next_token_kl", "nats", None, _kl, needs_base=True, everywhere=True)
"""KL(base || edited) at every position but the last: what an edit does to whole distributions all along a text."""

METRICS = {
    m.name: m
    for m in (logit_diff, logit, log_prob, prob, rank, top_token, kl, entropy, next_token_log_prob, next_token_kl)
}


def as_metric(given: Any) -> Metric:
    """A `Metric` from one, its name, or any function of (logits at the read positions, prompts).

    The function gets logits [prompt, vocab] (or [prompt, read, vocab] for a list of read positions) and the prompts
    they belong to, which may be some of the prompts, in any order and repeated; it returns one number a prompt, or for
    a list of read positions one a prompt and read.

    Raises:
        BadInput: it is none of these.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        if given not in METRICS:
            raise BadInput(f"There is no metric {given!r}. Known: {', '.join(METRICS)}, or any function.")
        return METRICS[given]
    if not callable(given):
        raise BadInput(f"A metric is one of {', '.join(METRICS)} or a function of (logits, prompts), not {given!r}.")
    name = getattr(given, "__name__", type(given).__name__)
    return Metric(name, "", None, _unused, whole=given)


def _unused(logits: Tensor, tokens: Tensor | None, base: Tensor | None) -> Tensor:
    raise AssertionError("a user's function is called as a whole")


def renamed(metric: Metric, name: str) -> Metric:
    """The same metric under another name."""
    return replace(metric, name=name)
