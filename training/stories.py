"""Short stories in which somebody gives something to somebody: the indirect-object task, in easy and hard layouts.

The rule is always the same: the receiver is the one who belongs together with the giver. The layouts are made
so that no shortcut replaces the rule. Extra sentences mention either of the pair, so how often or how recently
a name occurred says nothing; third names and second pairs stand in the way, so "the other name" is not enough;
a pronoun may stand for the giver. A model that wants to be right on all of them has to find the giver, find
whom the giver belongs to, and carry that name to the end, which takes several blocks.
"""

from __future__ import annotations

from random import Random

from cutaway.tasks.frames import ABOUT_NOBODY, ABOUT_ONE
from cutaway.tasks.splits import pair_held_out
from cutaway.tasks.words import FEMALE_NAMES, IOI_ACTIONS, IOI_OPENINGS, MALE_NAMES, NAMES, OBJECTS, PLACES

OUTSIDER = (
    "{name} stayed at home.",
    "{name} was there.",
    "{name} came later.",
    "{name} was at the {place}.",
    "Far away, {name} was asleep.",
    "{name} walked past.",
)
LEAVES = ("Then {name} went home.", "Soon {name} had to leave.", "{name} left early.")
LISTS = (
    "Last summer {a}, {b} and {c} met at the {place}.",
    "One day {a}, {b} and {c} visited the {place}.",
    "Yesterday {a}, {b} and {c} had lunch at the {place}.",
)


def names(rng: Random, count: int, pool: tuple[str, ...] = NAMES) -> list[str]:
    """Distinct names, no two of which are a held-out pair."""
    while True:
        chosen = rng.sample(pool, count)
        if not any(pair_held_out(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]):
            return chosen


def fill(rng: Random, frame: str, **slots: str) -> str:
    """The frame with its names, and with a random place and object."""
    return frame.format(place=rng.choice(PLACES), object=rng.choice(OBJECTS), **slots)


def opening(rng: Random, pair: list[str]) -> str:
    """Introduce two people together, in random order."""
    first, second = rng.sample(pair, 2)
    return fill(rng, rng.choice(IOI_OPENINGS), first=first, second=second)


def sentence_opening(rng: Random, pair: list[str]) -> str:
    """An opening that is a sentence of its own, so that another sentence may follow."""
    while not (text := opening(rng, pair)).endswith("."):
        pass
    return text


def action(rng: Random, giver: str, receiver: str) -> str:
    return f"{fill(rng, rng.choice(IOI_ACTIONS), giver=giver)} {receiver}."


def give(rng: Random, pair: list[str]) -> str:
    """One of the pair gives, the other receives."""
    giver, receiver = rng.sample(pair, 2)
    return action(rng, giver, receiver)


def fillers(rng: Random, pair: list[str], most: int) -> list[str]:
    """Up to `most` sentences that change nothing; they name one of the pair, or nobody."""
    count = rng.randint(0, most)
    return [
        fill(rng, rng.choice(ABOUT_ONE), name=rng.choice(pair))
        if rng.random() < 0.7
        else fill(rng, rng.choice(ABOUT_NOBODY))
        for _ in range(count)
    ]


def plain(rng: Random) -> list[str]:
    pair = names(rng, 2)
    return [opening(rng, pair), give(rng, pair)]


def chain(rng: Random) -> list[str]:
    """Several gifts between the same two people, with other sentences between them."""
    pair = names(rng, 2)
    parts = [sentence_opening(rng, pair)]
    for _ in range(rng.randint(1, 3)):
        parts += [*fillers(rng, pair, 2), give(rng, pair)]
    return parts


def outsider(rng: Random) -> list[str]:
    """A third person is mentioned before or between, and has nothing to do with it."""
    *pair, other = names(rng, 3)
    aside = fill(rng, rng.choice(OUTSIDER), name=other)
    parts = [aside, opening(rng, pair)] if rng.random() < 0.4 else [sentence_opening(rng, pair), aside]
    if rng.random() < 0.2:
        parts = [opening(rng, pair), aside] if rng.random() < 0.5 else [aside, sentence_opening(rng, pair), aside]
    parts.append(give(rng, pair))
    if rng.random() < 0.5:
        parts += [fill(rng, rng.choice(OUTSIDER), name=other), give(rng, pair)]
    return parts


def two_pairs(rng: Random) -> list[str]:
    """Two couples in one story: the receiver is the one who was introduced together with the giver."""
    people = names(rng, 4)
    pairs = [people[:2], people[2:]]
    parts = [sentence_opening(rng, pair) for pair in pairs]
    for _ in range(rng.randint(1, 3)):
        parts.append(give(rng, rng.choice(pairs)))
    return parts


def one_leaves(rng: Random) -> list[str]:
    """Three people meet and one leaves: the receiver is the one who is left with the giver."""
    a, b, c = people = names(rng, 3)
    gone = rng.choice(people)
    stay = [name for name in people if name != gone]
    parts = [fill(rng, rng.choice(LISTS), a=a, b=b, c=c), rng.choice(LEAVES).format(name=gone)]
    return [*parts, *fillers(rng, stay, 1), give(rng, stay), *([give(rng, stay)] if rng.random() < 0.5 else [])]


def pronoun(rng: Random) -> list[str]:
    """The giver is a pronoun, which only one of the two names agrees with."""
    while True:
        woman, man = rng.choice(FEMALE_NAMES), rng.choice(MALE_NAMES)
        if not pair_held_out(woman, man):
            break
    giver, receiver = ("She", man) if rng.random() < 0.5 else ("He", woman)
    return [sentence_opening(rng, [woman, man]), *fillers(rng, [woman, man], 1), action(rng, giver, receiver)]


LAYOUTS = {plain: 0.26, chain: 0.26, outsider: 0.26, two_pairs: 0.06, one_leaves: 0.08, pronoun: 0.08}


def story(rng: Random) -> str:
    (layout,) = rng.choices(list(LAYOUTS), list(LAYOUTS.values()))
    return " ".join(layout(rng))
