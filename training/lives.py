"""Short biographies: a name, and then pronouns that agree with it.

A frame keeps its pronouns in slots, so the same sentences serve women and men, and nothing but the name tells which.
"""

from __future__ import annotations

from random import Random

from cutaway.tasks.frames import FEMALE, JOBS, LIFE, LIFE_OPENINGS, MALE, QUALITIES
from cutaway.tasks.splits import held_out
from cutaway.tasks.words import CAPITALS, FEMALE_NAMES, NAMES, PLACES


def fill(rng: Random, frame: str, name: str) -> str:
    """The frame with the pronouns of this name, and random facts."""
    country = rng.choice(list(CAPITALS))
    return frame.format(
        **(FEMALE if name in FEMALE_NAMES else MALE),
        name=name,
        country=country,
        city=rng.choice(list(CAPITALS.values())),
        job=rng.choice(JOBS),
        quality=rng.choice(QUALITIES),
        place=rng.choice(PLACES),
    )


def life(rng: Random) -> str:
    name = rng.choice(NAMES)
    key = rng.choice([key for key in LIFE_OPENINGS if not held_out("biography", key, name)])
    frames = [LIFE_OPENINGS[key], *rng.sample(LIFE, rng.randint(1, 4))]
    return " ".join(fill(rng, frame, name) for frame in frames)
