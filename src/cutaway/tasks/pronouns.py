"""The pronoun that agrees with a name: the sentence after a biography's first begins with She or He."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from .arguments import one_difference
from .frames import LIFE_OPENINGS
from .splits import held_out as is_held_out
from .task import Item, Task, Words, as_evenly, assemble, choose_frames
from .words import CAPITALS, FEMALE_NAMES, MALE_NAMES

if TYPE_CHECKING:
    from ..model import Model

FRAMES = LIFE_OPENINGS
"""Sentences by the keys under which `splits` holds names out."""
JOBS = ("teacher", "doctor", "singer", "painter", "writer", "lawyer")
CORRUPTIONS = {"argument": "the name is replaced by one of the other gender"}


def pronouns(
    model: Model,
    families: int = 24,
    seed: int = 0,
    frames: Sequence[str] | None = None,
    held_out: bool = True,
    bos: bool | None = None,
) -> Task:
    """Two prompts a family, with a woman's and a man's name; answer and foil are She and He.

    Args:
        held_out: only names that the bundled model never saw in that sentence.

    Raises:
        BadInput: too few words are single tokens, or too few names remain.
    """
    used = choose_frames(FRAMES, frames)
    words = Words(model)
    words.usable("pronouns", ("She", "He"), 2)
    women, men = words.usable("names", FEMALE_NAMES, 2), words.usable("names", MALE_NAMES, 2)
    countries = words.usable("countries", CAPITALS, 1)
    cities, jobs = words.usable("cities", CAPITALS.values(), 1), words.usable("jobs", JOBS, 1)
    rng = Random(seed)
    queues = {
        key: [
            [n for n in rng.sample(names, len(names)) if not held_out or is_held_out("biography", key, n)]
            for names in (women, men)
        ]
        for key in used
    }
    items: list[Item] = []
    for key in as_evenly({key: min(map(len, queue)) for key, queue in queues.items()}, families, "pronouns"):
        she, he = (queue.pop() for queue in queues[key])
        slots = {"country": rng.choice(countries), "city": rng.choice(cities), "job": rng.choice(jobs)}
        a, b = (used[key].format(name=name, **slots) for name in (she, he))
        family = f"{key}: {she}+{he}"
        items += [
            Item(a, "She", "He", family, key, {"argument": b}),
            Item(b, "He", "She", family, key, {"argument": a}),
        ]
    question = "the pronoun that agrees with a name, against the other"
    return assemble(model, "pronouns", question, CORRUPTIONS, words, items, one_difference, bos)
