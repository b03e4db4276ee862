"""What is measured and what it is compared with: one occurrence a causal prefix, and a control for each.

A control is another token at the same position of another sentence, of a word that is about as frequent. Each sentence
gives at most one control, chosen so that the frequencies differ least over all pairs together (the assignment problem).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from ...tasks.sentences import Sentences, joined, word
from .assigning import Array, assigned

NEVER, AFTER = 1e9, 1e4  # costs, in octaves: no control at all; one whose state may hold a target's


@dataclass(frozen=True)
class Occurrence:
    """A target with everything before it: the unit that is measured.

    Attributes:
        sentence, position: where it is first found. type: of the target.
        family: number shared by occurrences that are not independent.
        sentences: how many of the given sentences hold it.
    """

    sentence: int
    position: int
    type: str
    family: int
    sentences: int


@dataclass(frozen=True)
class Control:
    """A token that an occurrence is compared with. `octaves`: log2 of its word's frequency over the target's."""

    sentence: int
    position: int
    octaves: float
    after_target: bool


def occurrences(given: Sentences) -> list[Occurrence]:
    """One for each causal prefix; those of sentences that share a prefix or a label of the user's are one family."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, at in enumerate(given.targets):
        if at is not None:
            found.setdefault(given.prefix(i, at), []).append(i)
    holders = list(found.values())
    groups = joined([[given.prompts.families[i] for i in mine] for mine in holders])
    made = []
    for mine, group in zip(holders, groups, strict=True):
        at = given.targets[mine[0]]
        assert at is not None
        made.append(Occurrence(mine[0], at, given.types[mine[0]], group, len(mine)))
    return made


def matched(
    given: Sentences,
    found: Sequence[Occurrence],
    frequencies: Mapping[str, float],
    caliper: float,
    special: frozenset[int] = frozenset(),
) -> list[Control | None]:
    """A control for each occurrence, or None where there is no token at its position of similar frequency.

    Args:
        frequencies: of words. A word without one counts as half an occurrence.
        caliper: largest difference of frequency, in octaves (factors of two).
        special: ids that are no words.
    """
    costs = _Costs(given, found, frequencies, caliper, special)
    chosen: list[Control | None] = [None] * len(found)
    for i, j in enumerate(assigned(costs.row, len(found), len(given)).tolist()):
        if costs.row(i)[j] < NEVER:
            at = found[i].position
            chosen[i] = Control(j, at, costs.octaves(i, j), _after(given, j, at))
    return chosen


class _Costs:
    """What it costs to compare an occurrence with a sentence; a row of it is made when it is asked for."""

    def __init__(
        self,
        given: Sentences,
        found: Sequence[Occurrence],
        frequencies: Mapping[str, float],
        caliper: float,
        special: frozenset[int],
    ) -> None:
        self.given, self.found, self.table = given, found, frequencies
        self.caliper, self.special = caliper, special
        self.targets = {word(given.token(o.sentence, o.position)) for o in found}
        self.family = np.full(len(given), -1)  # of the sentences whose target is an occurrence or a repetition of one
        holders = {given.prefix(o.sentence, o.position): o.family for o in found}
        for j, at in enumerate(given.targets):
            if at is not None:
                self.family[j] = holders[given.prefix(j, at)]
        self._offered = lru_cache(16)(self._tokens_at)
        self._costs = lru_cache(64)(self._cost)

    def own(self, i: int) -> float:
        one = self.found[i]
        return frequency(self.table, self.given.token(one.sentence, one.position))

    def octaves(self, i: int, j: int) -> float:
        return log2(frequency(self.table, self.given.token(j, self.found[i].position)) / self.own(i))

    def row(self, i: int) -> Array:  # [sentence]
        one = self.found[i]
        return np.where(self.family == one.family, NEVER, self._costs(one.position, self.own(i)))

    def _cost(self, position: int, own: float) -> Array:
        """At a position, against a word of some frequency."""
        offered, after = self._offered(position)
        different, which = np.unique(offered, return_inverse=True)  # few, of many sentences
        away = np.array([abs(log2(f / own)) if f else np.inf for f in different.tolist()])[which]
        return np.where(away <= self.caliper, away + AFTER * after, NEVER)

    def _tokens_at(self, position: int) -> tuple[Array, NDArray[np.bool_]]:
        """Of each sentence: its token's frequency, 0 where it offers none; whether the state may hold a target's."""
        offered, given = np.zeros(len(self.given)), self.given
        for j in np.flatnonzero(given.prompts.lengths.numpy() > position).tolist():
            token = given.token(j, position)
            if not any(c.isalnum() for c in token) or word(token) in self.targets:
                continue
            if int(given.prompts.ids[j, position]) not in self.special:
                offered[j] = frequency(self.table, token)
        return offered, np.array([_after(given, j, position) for j in range(len(given))])


def _after(given: Sentences, sentence: int, position: int) -> bool:
    at = given.targets[sentence]
    return at is not None and at < position


def frequency(table: Mapping[str, float], token: str) -> float:
    """Of a token's word; half an occurrence where the table does not have it."""
    return table.get(word(token), 0.0) + 0.5


def families_of(given: Sentences, found: Sequence[Occurrence], spots: Sequence[tuple[int, int]]) -> list[int]:
    """The units of a comparison: occurrences of one family, or with the same measurement as their control, are one."""
    return joined(
        [[("family", one.family), ("control", given.prefix(*spot))] for one, spot in zip(found, spots, strict=True)]
    )
