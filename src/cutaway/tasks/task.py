"""A task: prompts with answers, foils, families and roles, and corrupted prompts that line up with them token by token.

Words are put into the prompts only if this tokenizer has them as one token where they stand; the others are left out
and counted. What is left out, and why, goes with the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, did_you_mean
from ..prompts import Prompts

if TYPE_CHECKING:
    from ..model import Model

CARRIER = "in"
"""A word is measured behind this one: tokenizers treat the start of a text in ways of their own."""


@dataclass(frozen=True, eq=False)
class Task:
    """Clean prompts and their corruptions.

    Attributes:
        clean: prompts with answers, foils, families (prompts of one lexical draw), roles and templates.
        corruptions: name -> prompts of the same length, prompt by prompt. They carry the answers, foils, families and
            roles of the clean ones: a metric asks the same question of both.
        meanings: name of a corruption -> what it does, in words.
        templates: of each prompt, the frame and the order in which its words come.
        excluded: list of words -> those left out, because they are not one token here.
        dropped: why -> how many families were left out.
    """

    name: str
    question: str
    clean: Prompts
    corruptions: Mapping[str, Prompts]
    meanings: Mapping[str, str]
    templates: tuple[str, ...]
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    metric: Any = "logit_diff"

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def n_families(self) -> int:
        return len(set(self.clean.families))

    def corrupt(self, name: str | None = None) -> Prompts:
        """The prompts of one corruption; the first where none is named.

        Raises:
            BadInput: there is none of that name.
        """
        name = next(iter(self.corruptions)) if name is None else name
        if name not in self.corruptions:
            known = list(self.corruptions)
            raise BadInput(f"Task {self.name} has no corruption {name!r}. {did_you_mean(name, known)}")
        return self.corruptions[name]

    def __getitem__(self, which: Sequence[int]) -> Task:
        """The task on some of its prompts."""
        index = [int(i) for i in which]
        return Task(
            self.name,
            self.question,
            with_templates(self.clean[index], [self.templates[i] for i in index]),
            {k: with_templates(p[index], [self.templates[i] for i in index]) for k, p in self.corruptions.items()},
            self.meanings,
            tuple(self.templates[i] for i in index),
            self.excluded,
            self.dropped,
            self.metric,
        )

    def note(self) -> str:
        """What was left out, in one line; empty if nothing was."""
        words = [
            f"{len(v)} of the {k} ({', '.join(v[:5])}{', …' if len(v) > 5 else ''})"
            for k, v in self.excluded.items()
            if v
        ]
        left = [f"{', '.join(words)}: not one token each"] if words else []
        left += [f"{n} families: {why}" for why, n in self.dropped.items() if n]
        return f"Left out of {self.name}: {'; '.join(left)}." if left else ""


def with_templates(prompts: Prompts, templates: Sequence[str]) -> Prompts:
    """The prompts, with the template of each: means of ablations can then be taken template by template."""
    prompts.templates = list(templates)
    return prompts


class Words:
    """The words that are one token behind another word, and a record of those that are not."""

    def __init__(self, model: Model) -> None:
        if model.tokenizer is None:
            raise BadInput("A task is text, and this model has no tokenizer. Give one: Model(hf_model, tokenizer).")
        self.tokenizer = model.tokenizer
        self.excluded: dict[str, tuple[str, ...]] = {}
        self._start = self._encode(CARRIER)
        self._ids: dict[str, int | None] = {}

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def find(self, word: str) -> int | None:
        """The id of ` word`, or None where it is several tokens or unknown."""
        if word not in self._ids:
            ids = self._encode(f"{CARRIER} {word}")
            whole = ids[:-1] == self._start and ids[-1] != self.tokenizer.unk_token_id
            self._ids[word] = int(ids[-1]) if whole else None
        return self._ids[word]

    def id(self, word: str) -> int:
        """The id of a word that was found to be one token."""
        found = self.find(word)
        assert found is not None, word
        return found

    def usable(self, what: str, words: Iterable[str], least: int = 1) -> list[str]:
        """Those of `words` that are one token each, all different.

        Raises:
            BadInput: fewer than `least` are.
        """
        words = list(words)
        kept: dict[int, str] = {}
        for word in words:
            found = self.find(word)
            if found is not None:
                kept.setdefault(found, word)
        chosen = list(kept.values())
        out = tuple(word for word in words if word not in set(chosen))
        self.excluded[what] = tuple(dict.fromkeys((*self.excluded.get(what, ()), *out)))
        if len(chosen) < least:
            raise BadInput(
                f"Of the {len(words)} {what} only {len(chosen)} are one token each in this tokenizer, and {least} are "
                f"needed. The others are split, as in {out[0]!r} = {self._pieces(out[0])}. Use another task or model."
            )
        return chosen

    def _pieces(self, word: str) -> str:
        ids = self._encode(f"{CARRIER} {word}")
        rest = ids[len(self._start) :] if ids[: len(self._start)] == self._start else ids
        return " + ".join(str(piece) for piece in self.tokenizer.convert_ids_to_tokens(rest))


@dataclass(frozen=True)
class Item:
    """One clean text with what belongs to it, and its corrupted texts by name."""

    text: str
    answer: str  # words, without their leading space
    foil: str
    family: str
    template: str
    corrupted: Mapping[str, str]


Roles = dict[str, int]
FindRoles = Callable[[list[int], Mapping[str, list[int]], int, int], Roles | None]
"""(clean ids, corrupted ids by name, answer id, foil id) -> positions by role, or None if they cannot be told."""


def assemble(
    model: Model,
    name: str,
    question: str,
    meanings: Mapping[str, str],
    words: Words,
    items: Sequence[Item],
    find_roles: FindRoles,
    bos: bool | None = None,
    metric: Any = "logit_diff",
) -> Task:
    """Tokenise, line up, find the roles; a family with a prompt that cannot be lined up is left out whole.

    Raises:
        BadInput: fewer than two families are left.
    """
    texts = [item.text for item in items]
    answers, foils = [words.id(i.answer) for i in items], [words.id(i.foil) for i in items]
    clean = model.prompts(texts, answers, foils, [item.family for item in items], bos=bos)
    corrupted = {key: model.prompts([item.corrupted[key] for item in items], bos=bos) for key in meanings}
    roles: list[Roles | None] = []
    for i, (answer, foil) in enumerate(zip(answers, foils, strict=True)):
        ids = _row(clean, i)
        others = {key: _row(prompts, i) for key, prompts in corrupted.items()}
        aligned = all(len(other) == len(ids) for other in others.values())
        roles.append(find_roles(ids, others, answer, foil) if aligned else None)
    bad = {item.family for item, found in zip(items, roles, strict=True) if found is None}
    keep = [i for i, item in enumerate(items) if item.family not in bad]
    if len({items[i].family for i in keep}) < 2:
        raise BadInput(
            f"Task {name}: {len(bad)} of {len({i.family for i in items})} families cannot be lined up token by token "
            "in this tokenizer, and at least two must remain. Use another task or model."
        )
    found = [r for i in keep if (r := roles[i]) is not None]
    templates = [items[i].template for i in keep]
    clean = with_templates(clean[keep], templates)
    for role in found[0]:
        clean.roles[role] = torch.tensor([r[role] for r in found])
    asked = {key: _asked_alike(with_templates(prompts[keep], templates), clean) for key, prompts in corrupted.items()}
    why = "clean and corrupted prompts do not line up token by token, or a role cannot be told"
    return Task(
        name, question, clean, asked, dict(meanings), tuple(templates), dict(words.excluded), {why: len(bad)}, metric
    )


def _row(prompts: Prompts, i: int) -> list[int]:
    return prompts.ids[i, : int(prompts.lengths[i])].tolist()


def _asked_alike(prompts: Prompts, clean: Prompts) -> Prompts:
    prompts.answers, prompts.foils = clean.answers, clean.foils
    prompts.families, prompts.roles = list(clean.families), dict(clean.roles)
    return prompts


def spread_over(frames: Sequence[str], families: int) -> list[str]:
    """So many frames, each as often as the others up to one."""
    if families < 2:
        raise BadInput(f"families is {families}: an interval needs at least two.")
    return [frames[i % len(frames)] for i in range(families)]


def as_evenly(left: Mapping[str, int], families: int, task: str) -> list[str]:
    """So many frames, each as often as the others as long as its supply (`left`, families it can give) lasts.

    Raises:
        BadInput: the supply of all frames together is too small.
    """
    if sum(left.values()) < families:
        raise BadInput(
            f"Task {task}: {families} families were asked for, and the words suffice for {sum(left.values())}. "
            "Ask for fewer."
        )
    supply = dict(left)
    chosen: list[str] = []
    while len(chosen) < families:
        for key in [k for k, n in supply.items() if n][: families - len(chosen)]:
            supply[key] -= 1
            chosen.append(key)
    return chosen


def choose_frames(frames: Mapping[str, str], chosen: Sequence[str] | None) -> dict[str, str]:
    """Some of the frames, by key; all by default.

    Raises:
        BadInput: there is none of that key.
    """
    if chosen is None:
        return dict(frames)
    for key in chosen:
        if key not in frames:
            raise BadInput(f"There is no frame {key!r}. {did_you_mean(key, list(frames))}")
    return {key: frames[key] for key in chosen}


__all__ = [
    "FindRoles",
    "Item",
    "Roles",
    "Task",
    "Words",
    "as_evenly",
    "assemble",
    "choose_frames",
    "spread_over",
    "with_templates",
]
