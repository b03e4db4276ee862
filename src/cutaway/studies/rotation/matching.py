"""What is measured and what it is compared with: one occurrence a causal prefix, and a control for each.

A control is another token at the same position of another sentence, of a word that is about as frequent. Each sentence
gives at most one control, chosen so that the frequencies differ least over all pairs together (the assignment problem,
`scipy.optimize.linear_sum_assignment`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

from ...tasks.sentences import Sentences, joined, word

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
    targets = {word(given.token(o.sentence, o.position)) for o in found}
    size = np.full((len(found), len(given)), NEVER)
    octaves = np.zeros_like(size)
    group = {o.sentence: o.family for o in found}
    holders = {given.prefix(o.sentence, o.position): o.family for o in found}
    for j, at in enumerate(given.targets):  # sentences whose target is a repetition of another's
        if at is not None:
            group[j] = holders[given.prefix(j, at)]
    for i, one in enumerate(found):
        own = frequency(frequencies, given.token(one.sentence, one.position))
        for j in range(len(given)):
            if group.get(j) == one.family or one.position >= int(given.prompts.lengths[j]):
                continue
            token = given.token(j, one.position)
            if not any(c.isalnum() for c in token) or word(token) in targets:
                continue
            if int(given.prompts.ids[j, one.position]) in special:
                continue
            octaves[i, j] = log2(frequency(frequencies, token) / own)
            if abs(octaves[i, j]) <= caliper:
                size[i, j] = abs(octaves[i, j]) + AFTER * _after(given, j, one.position)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(size)
    chosen: list[Control | None] = [None] * len(found)
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        if size[i, j] < NEVER:
            at = found[i].position
            chosen[i] = Control(j, at, float(octaves[i, j]), _after(given, j, at))
    return chosen


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
