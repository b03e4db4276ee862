"""What an edit that means nothing would do: random directions of the same length, or another word in the same frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..controls.draws import unit
from ..edits.cells import Change, Edit
from ..edits.operations import Operation, Runs, TakeFrom
from ..prompts import Prompts

if TYPE_CHECKING:
    from ..model import Model


@dataclass(frozen=True, eq=False)
class Push(Operation):
    """Adds a vector of its own to every token of one prompt."""

    vectors: Tensor  # [position, ...]

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        return old + self.vectors.to(old)[position.to(self.vectors.device)].to(old)

    def describe(self) -> str:
        return "random direction of the same length"


def same_length(site: str, change: Tensor, draws: int, seed: int = 0, **where: Any) -> Edit:
    """At each token a random direction, as long as the change [position, ...] is there; an axis `draw`."""
    generator = torch.Generator().manual_seed(seed)
    length = change.float().cpu().norm(dim=-1, keepdim=True)
    operations = []
    for _ in range(draws):
        random = torch.randn(change.shape, generator=generator)
        operations.append(Push(unit(random) * length))
    return Edit(site, (("draw", tuple(range(draws))),), tuple(operations), **where, name="random direction")


def other_words(model: Model, base: Prompts, source: Prompts, draws: int, seed: int = 0) -> list[Prompts]:
    """The source's frame with random tokens where it differs from the base; [] where nothing differs or lengths do."""
    if source.ids.shape != base.ids.shape:
        return []
    differs = (source.ids != base.ids)[0].nonzero()[:, 0]
    if not len(differs):
        return []
    generator = torch.Generator().manual_seed(seed)
    special = set(getattr(model.tokenizer, "all_special_ids", []) or [])
    allowed = torch.tensor([i for i in range(model.vocab_size) if i not in special])
    made = []
    for _ in range(draws):
        ids = source.ids.clone()
        ids[0, differs] = allowed[torch.randint(len(allowed), (len(differs),), generator=generator)]
        made.append(Prompts(ids, base.answers, base.foils, tokenizer=model.tokenizer, vocab_size=model.vocab_size))
    return made


def patched_from(site: str, sources: list[Prompts], **where: Any) -> Edit:
    """A patch from each of the sources in turn; an axis `draw`."""
    operations = tuple(TakeFrom(one) for one in sources)
    return Edit(site, (("draw", tuple(range(len(sources)))),), operations, **where, name="patch")
