"""Metrics of a run, from what it left at the read positions after the last block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..finite import named, require_finite_logits
from ..metrics import Metric
from ..model import tokens_of
from ..parts import logits_at_once
from ..prompts import Prompts, Read

if TYPE_CHECKING:
    from ..model import Model


def _reads(given: Any) -> tuple[list[Read], bool]:
    """(positions and roles, whether they are an axis) of what a caller may give as `read`.

    Raises:
        BadInput: it is neither a position or role nor a list of them.
    """
    several = isinstance(given, list | tuple | range | np.ndarray | Tensor)
    names = (
        np.asarray(given).tolist() if isinstance(given, np.ndarray | Tensor) else list(given) if several else [given]
    )
    fits = [isinstance(n, int | np.integer | str) and not isinstance(n, bool) for n in names]
    if not fits or not all(fits):
        raise BadInput(f"read is a position (-1: each prompt's last token), a role, or a list of them, not {given!r}.")
    return [n if isinstance(n, str) else int(n) for n in names], several


class Readings:
    """Where each metric reads, and how it is computed there.

    Args:
        prompts: whose answers and foils are meant.
        read: a position or role, or a list of them; a metric that is defined everywhere reads every position that has a
            next token.
    """

    def __init__(self, model: Model, prompts: Prompts, metrics: Sequence[Metric], read: Read | Sequence[Read]) -> None:
        self.model, self.prompts, self.metrics = model, prompts, metrics
        names, self.several = _reads(read)
        self.labels = [str(r) for r in names]
        self.chosen = torch.stack([prompts.at(r) for r in names], dim=1)  # [prompt, read]
        every = torch.arange(max(prompts.n_positions - 1, 1)).expand(len(prompts), -1)
        self.everywhere = every.minimum((prompts.lengths - 1).clamp_min(0)[:, None])
        self.follows = every + 1 < prompts.lengths[:, None]  # where there is a next token
        self.at = self.everywhere if any(m.everywhere for m in metrics) else self.chosen[:, :0]
        if any(not m.everywhere for m in metrics):
            self.at = torch.cat([self.at, self.chosen], dim=1)

    @property
    def whole_rows(self) -> int:
        """Rows of logits over the whole vocabulary that are held at once; none where a metric reads a few columns."""
        whole = [m for m in self.metrics if not (m.columns and m.tokens is not None)]
        return logits_at_once(self.model.vocab_size) if whole else 0

    def columns_of(self, metric: Metric) -> slice:
        """Which of the positions in `at` a metric reads."""
        n = self.at.shape[1]
        if metric.everywhere:
            return slice(0, self.everywhere.shape[1])
        return slice(n - self.chosen.shape[1], n)

    def __call__(self, left: Tensor, which: np.ndarray, base: Tensor | None = None) -> list[np.ndarray]:
        """Every metric of a group of prompts, each [prompt, variant, read] in float64.

        Args:
            left: the stream after the last block, [prompt, variant, read, d_model], at positions `at`; of a model
                whose stream cannot be read alone, the logits.
            which: the prompts of the group.
            base: the same of the unedited run, [prompt, 1, read, d_model], for metrics that compare with it.
        """
        return [self.tensor(m, left, which, base).detach().cpu().numpy() for m in self.metrics]

    def _whole(self, metric: Metric, logits: Tensor, group: Prompts) -> Tensor:  # [prompt, read]
        """A user's function of logits [prompt, read, vocab]; without an axis of reads if only one is read."""
        assert metric.whole is not None
        given = metric.whole(logits if self.several else logits[:, 0], group)
        n, reads = len(group), logits.shape[1]
        forms = [(n,), (n, reads)] if self.several else [(n,)]
        try:
            found = torch.as_tensor(given).double()
        except (TypeError, ValueError, RuntimeError):
            found = torch.empty(0, 0, 0)
        if tuple(found.shape) not in forms:
            wanted = " or ".join(map(str, forms))
            kind = f"shape {tuple(found.shape)}" if isinstance(given, Tensor) else type(given).__name__
            each = "one number a prompt" + ", or one a prompt and read" * self.several
            raise BadInput(f"The metric {metric.name} must return {each}: shape {wanted} here. It returned {kind}.")
        return found if found.dim() == 2 else found[:, None].expand(-1, reads)

    def _logits(self, left: Tensor, which: np.ndarray) -> Tensor:  # [..., vocab]
        logits = self.model.read(left) if self.model.reads_stream else left
        self._require_finite(logits, which, left)
        return logits

    def _tokens(self, left: Tensor, tokens: Tensor, which: np.ndarray) -> Tensor:  # [prompt, read, n, token]
        if self.model.reads_stream:
            found = self.model.read_tokens(left, tokens)
        else:
            found = torch.stack([tokens_of(some, t) for some, t in zip(left, tokens, strict=True)])
        self._require_finite(found, which, left)
        return found

    def _require_finite(self, logits: Tensor, which: np.ndarray, left: Tensor) -> None:
        """`which`: the prompts of the first axis, or the one prompt of all of it."""
        some = np.atleast_1d(which)
        each = logits.shape[:-1].numel() // len(some)
        rows = left if self.model.reads_stream else None
        require_finite_logits(self.model, logits, lambda i: named(self.prompts, int(some[i // each])), rows)

    def tensor(self, metric: Metric, left: Tensor, which: np.ndarray, base: Tensor | None = None) -> Tensor:
        """One metric, [prompt, variant, read] in float64, differentiable in `left`; arguments as in a call."""
        columns = self.columns_of(metric)
        left = left[:, :, columns]
        group = self.prompts[which.tolist()]
        n_prompts, n, n_reads, _ = left.shape
        if metric.whole is not None:
            rows = (self._logits(left[:, i], which) for i in range(n))
            return torch.stack([self._whole(metric, logits, group) for logits in rows], dim=1)
        at = self.at[torch.from_numpy(which)][:, columns]
        tokens = None if metric.tokens is None else metric.tokens(group, at)  # [prompt, read, token]
        if metric.columns and tokens is not None:
            few = self._tokens(left.transpose(1, 2), tokens, which)  # [prompt, read, variant, token]
            return metric.value(few.flatten(0, 2), None, None).unflatten(0, (n_prompts, n_reads, n)).mT.double()
        reads = min(n_reads, logits_at_once(self.model.vocab_size))
        step = logits_at_once(self.model.vocab_size * max(1, reads))
        before = None if base is None else base[:, 0, columns]
        parts = []
        for p in range(n_prompts):
            some: list[list[Tensor]] = [[] for _ in range(0, n, step)]
            for r in (slice(start, start + reads) for start in range(0, n_reads, reads)):
                reference = own = None
                if metric.needs_base:
                    assert before is not None
                    reference = self._logits(before[p, r], which[p])
                for i, found in zip(range(0, n, step), some, strict=True):
                    logits = self._logits(left[p, i : i + step, r], which[p])  # [variant, read, vocab]
                    k, width = logits.shape[:2]
                    mine = None if tokens is None else tokens[p, r].expand(k, -1, -1).flatten(0, 1).to(logits.device)
                    own = None if reference is None else reference.expand(k, -1, -1).flatten(0, 1)
                    found.append(metric.value(logits.flatten(0, 1), mine, own).unflatten(0, (k, width)).double())
                    del logits, own  # before the next are made
            parts += [torch.cat(found, dim=1) for found in some]
        return torch.cat(parts).unflatten(0, (n_prompts, n))
