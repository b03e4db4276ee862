"""What follows the last block, called alone: the model's own forward with its blocks answered for.

Logits can be read from any stream in this way, whatever stands between the last block and the logits, as long as it
looks at one position at a time and at nothing but the stream. A probe says whether that is so.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import Hooks, first_tensor, with_hidden
from .placed import input_device


@dataclass(frozen=True)
class Tail:
    """The model after its last block. `forms` is what each block's output looks like, with None for every tensor."""

    model: nn.Module
    head: nn.Module
    blocks: tuple[nn.Module, ...]
    forms: tuple[Any, ...]

    def logits(self, rows: Tensor) -> Tensor:  # [..., d_model] -> [..., vocab]
        """The model's own logits where its last block puts out `rows`."""
        found = self._run(rows, Hooks())
        return found.reshape(*rows.shape[:-1], -1)

    def normed(self, rows: Tensor) -> Tensor:  # [..., d_model] -> [..., what the unembedding reads]
        """What the unembedding reads where the last block puts out `rows`; the vocabulary is never computed."""
        hooks, seen = Hooks(), []

        def stop(module: nn.Module, args: tuple, kwargs: dict) -> None:
            seen.append(first_tensor(args, kwargs))
            raise _Reached

        hooks.before(self.head, stop)
        with suppress(_Reached):
            self._run(rows, hooks)
        (found,) = seen
        assert found is not None
        return found.reshape(*rows.shape[:-1], -1)

    def _run(self, rows: Tensor, hooks: Hooks) -> Tensor:
        """Each row as a prompt of one token: no block runs, and the last one's answer is the row."""
        flat = rows.reshape(-1, 1, rows.shape[-1])
        ids = torch.zeros(len(flat), 1, dtype=torch.long, device=input_device(self.model))
        with hooks:
            for block, form in zip(self.blocks[:-1], self.forms[:-1], strict=True):
                hooks.instead(block, _passing(form))
            hooks.instead(self.blocks[-1], lambda *args, **kwargs: with_hidden(self.forms[-1], flat))
            return self.model(input_ids=ids, use_cache=False).logits


class _Reached(Exception):
    """The unembedding is about to be called."""


def _passing(form: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return with_hidden(form, first_tensor(args, kwargs))  # type: ignore[arg-type]

    return forward


def form_of(output: Any) -> Any:
    """A block's output without its tensors."""
    return type(output)(None for _ in output) if isinstance(output, tuple | list) else None
