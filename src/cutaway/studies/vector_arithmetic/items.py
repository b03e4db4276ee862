"""Items of a relation: one word each, asked about once, with the word itself as what the answer competes with.

A task pairs two words a family. Here the unit is the word, so each is asked about in one prompt only, the answer is its
image, and the foil is the word: the question is whether a vector moves a prediction from the one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from ...errors import BadInput
from ...model import Model
from ...prompts import Prompts
from ...tasks import make_task
from ...tasks.task import Words, with_templates

RELATIONS = ("capitals", "upper_casing", "past_tense")
FILLERS = 3
"""Unrelated words before the argument of a prompt that never asks for the relation."""


@dataclass(frozen=True, eq=False)
class Relation:
    """One relation's items.

    Attributes:
        prompts: one an item; answers: its image; foils: the argument's own token; families: the item.
        elsewhere: the same items in text that repeats itself and never asks for the relation, ready to repeat the item.
        items: the words. note: what was left out.
    """

    name: str
    prompts: Prompts
    elsewhere: Prompts
    items: tuple[str, ...]
    note: str

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, which: list[int]) -> Relation:
        return Relation(
            self.name, self.prompts[which], self.elsewhere[which], tuple(self.items[i] for i in which), self.note
        )

    def halves(self, share: float, seed: int) -> tuple[Relation, Relation]:
        """Items a vector is taken from, and the items it is tested on: no item is in both.

        Raises:
            BadInput: fewer than two items in a part.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        n = round(share * len(self))
        if min(n, len(self) - n) < 2:
            raise BadInput(f"{len(self)} items of {self.name} cannot be split by {share:g}: each part needs two.")
        return self[sorted(order[:n].tolist())], self[sorted(order[n:].tolist())]


def relation(
    model: Model, name: str, items: int, seed: int = 0, held_out: bool = True, bos: bool | None = None
) -> Relation:
    """Up to so many items of a relation, each word once.

    Raises:
        BadInput: the tokenizer cannot write the relation, or fewer than four items are left.
    """
    task = None
    for families in (4 * items, 2 * items, items, max(2, items // 2), 4, 2):
        try:
            task = make_task(name, model, families=families, seed=seed, held_out=held_out, bos=bos)
            break
        except BadInput as error:
            reason = error
    if task is None:
        raise reason
    words, clean = Words(model), task.clean
    chosen: dict[str, tuple[int, int]] = {}  # item -> its prompt, its token
    for i in range(len(clean)):
        item = clean.tokens[i][int(clean.roles["ARG"][i])].strip()
        token = words.find(item)
        if item not in chosen and token is not None and token != int(clean.answers[i]):  # type: ignore[index]
            chosen[item] = (i, token)
        if len(chosen) == items:
            break
    if len(chosen) < 4:
        raise BadInput(
            f"Only {len(chosen)} words of {name} can be asked about and be an answer as one token each, and four are "
            "needed. Use another relation or model."
        )
    index = [i for i, _ in chosen.values()]
    prompts = with_templates(clean[index], [task.templates[i] for i in index])
    prompts.foils = torch.tensor([token for _, token in chosen.values()])
    prompts.families = list(chosen)
    elsewhere = _elsewhere(model, prompts, seed, bos)
    return Relation(name, prompts, elsewhere, tuple(chosen), task.note())


def _elsewhere(model: Model, prompts: Prompts, seed: int, bos: bool | None) -> Prompts:
    """Three unrelated words and the item, twice, then the three words: what follows by repetition is the item."""
    from ...tasks.words import OBJECTS, PLACES

    words = Words(model)
    fillers = [word for word in (*OBJECTS, *PLACES) if words.find(word) is not None]
    rng = Random(seed)
    if len(fillers) < FILLERS:
        raise BadInput("Prompts that never ask for the relation need three words that are one token each.")
    texts = []
    for item in prompts.families:
        before = " ".join(rng.sample([word for word in fillers if word != item], FILLERS))
        texts.append(f"{before} {item} {before} {item} {before}")
    assert prompts.answers is not None and prompts.foils is not None
    return model.prompts(texts, prompts.answers.tolist(), prompts.foils.tolist(), prompts.families, bos=bos)
