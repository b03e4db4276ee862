"""What an edit that means nothing would do: random directions of the same length, or another word in the same frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..controls.draws import generator, random_units
from ..edits.cells import Change, Edit
from ..edits.operations import Operation, Runs, TakeFrom
from ..prompts import Prompts

if TYPE_CHECKING:
    from ..model import Model

SAME_LENGTH, OTHER_WORD = "random, same length", "another word there"
OTHER_TOKEN, OTHER_HEAD = "same weight, other token", "same weight, other head"


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
    rng, width = generator(seed, "same length"), change.shape[-1]
    length = change.double().cpu().norm(dim=-1, keepdim=True)
    units = random_units(draws * length.numel(), width, rng).view(draws, *change.shape)
    operations = tuple(Push(one * length) for one in units)
    return Edit(site, (("draw", tuple(range(draws))),), operations, **where, name="random direction")


@dataclass(frozen=True)
class Shift(Operation):
    """Adds a number: to the weights of a pattern that are chosen."""

    by: float

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        return old + self.by

    def describe(self) -> str:
        return f"{self.by:+.6g}"


def same_weight(
    by: float, layer: int, head: int, query: int, key: int, n_heads: int, draws: int, seed: int = 0
) -> dict[str, Edit]:
    """The same change of a weight [layer, head, query, key] of a pattern elsewhere: on other keys, in other heads."""
    rng = generator(seed, "same weight")

    def some(n: int, but: int) -> list[int]:
        others = [i for i in range(n) if i != but]
        return sorted(rng.permutation(others)[:draws].tolist())

    keys, heads = some(query + 1, key), some(n_heads, head)
    made = {}
    if keys:
        made[OTHER_TOKEN] = Edit("pattern", (), (Shift(by),), layer, head, queries=query, keys=keys)
    if heads:
        made[OTHER_HEAD] = Edit("pattern", (), (Shift(by),), layer, heads, queries=query, keys=key)
    return made


def other_words(model: Model, base: Prompts, source: Prompts, draws: int, seed: int = 0) -> list[Prompts]:
    """The source's frame with random tokens where it differs from the base; [] where nothing differs or lengths do."""
    if source.ids.shape != base.ids.shape:
        return []
    differs = (source.ids != base.ids)[0].nonzero()[:, 0]
    if not len(differs):
        return []
    rng = generator(seed, "other words")
    special = set(getattr(model.tokenizer, "all_special_ids", []) or [])
    allowed = torch.tensor([i for i in range(model.vocab_size) if i not in special])
    made = []
    for _ in range(draws):
        ids = source.ids.clone()
        ids[0, differs] = allowed[torch.from_numpy(rng.integers(0, len(allowed), len(differs)))]
        made.append(Prompts(ids, base.answers, base.foils, tokenizer=model.tokenizer, vocab_size=model.vocab_size))
    return made


def patched_from(site: str, sources: list[Prompts], **where: Any) -> Edit:
    """A patch from each of the sources in turn; an axis `draw`."""
    operations = tuple(TakeFrom(one) for one in sources)
    return Edit(site, (("draw", tuple(range(len(sources)))),), operations, **where, name="patch")
