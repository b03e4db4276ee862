"""The model's own logits, for checks: by plain forward passes and nothing of ours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..anatomy import steady
from ..model import Model
from ..parts import in_parts, logits_at_once
from ..prompts import Prompts


def last_logits(model: Model, prompts: Prompts) -> Iterator[tuple[list[int], Tensor]]:
    """Logits [prompt, vocab] at the last tokens, a bounded number of logits at a time, with which prompts these are."""

    def run(some: list[int]) -> Tensor:
        part = prompts.part(some)
        with steady(model.hf):
            return model.forward(part)[torch.arange(len(part)), part.at(-1)]

    return in_parts(len(prompts), logits_at_once(prompts.n_positions * model.vocab_size), run)


__all__ = ["last_logits"]
