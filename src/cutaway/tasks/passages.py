"""Short passages of plain English, several sentences each, for studies of text as it runs on.

Half of them tell of one person's life, half of two people who meet and give something to each other. What was said
before helps to predict what follows: names come back, pronouns agree, the receiver is whoever the giver came with. The
two halves, `fit` and `test`, share frames but no name of a person, country or city, so what is fitted on one can be
tested on the other without meeting a sentence with a name again. The bundled model knows the frames.
"""

from __future__ import annotations

from random import Random

from ..errors import BadInput
from .frames import ABOUT_NOBODY, ABOUT_ONE, FEMALE, JOBS, LIFE, LIFE_OPENINGS, MALE, QUALITIES
from .words import CAPITALS, FEMALE_NAMES, IOI_ACTIONS, IOI_OPENINGS, MALE_NAMES, OBJECTS, PLACES

HALVES = ("fit", "test")


def passages(count: int, seed: int = 0, half: str = "test") -> list[str]:
    """Distinct passages of three or four sentences.

    Args:
        half: `fit` or `test`: whose names are used.

    Raises:
        BadInput: there is no such half, or none are asked for.
    """
    if half not in HALVES or count < 1:
        raise BadInput(f"Passages are drawn one or more, from the half fit or test, not {count} from {half!r}.")
    rng = Random(f"{seed} {half}")
    found: dict[str, None] = {}
    while len(found) < count:
        kind = _life if len(found) % 2 else _gift
        found[" ".join(kind(rng, HALVES.index(half)))] = None
    return list(found)


def _life(rng: Random, half: int) -> list[str]:
    """Who somebody is."""
    name = rng.choice((FEMALE_NAMES + MALE_NAMES)[half::2])
    frames = [rng.choice(list(LIFE_OPENINGS.values())), *rng.sample(LIFE, rng.randint(2, 3))]
    return [_filled(rng, frame, half, name=name) for frame in frames]


def _gift(rng: Random, half: int) -> list[str]:
    """Two people meet, something is said of one of them or of nobody, and one gives to the other, perhaps twice."""
    pair = rng.sample((FEMALE_NAMES + MALE_NAMES)[half::2], 2)
    opening = rng.choice([frame for frame in IOI_OPENINGS if frame.endswith(".")])
    told = [_filled(rng, opening, half, first=pair[0], second=pair[1])]
    for _ in range(rng.randint(1, 2)):
        aside = rng.choice(ABOUT_ONE if rng.random() < 0.7 else ABOUT_NOBODY)
        told.append(_filled(rng, aside, half, name=rng.choice(pair)))
        giver, receiver = rng.sample(pair, 2)
        told.append(f"{_filled(rng, rng.choice(IOI_ACTIONS), half, giver=giver)} {receiver}.")
    return told


def _filled(rng: Random, frame: str, half: int, **names: str) -> str:
    """A frame with these names, the pronouns that agree with them, and words drawn anew."""
    countries = list(CAPITALS)[half::2]
    words = FEMALE if names.get("name") in FEMALE_NAMES else MALE
    drawn = {
        "country": rng.choice(countries),
        "city": CAPITALS[rng.choice(countries)],
        "job": rng.choice(JOBS),
        "quality": rng.choice(QUALITIES),
        "place": rng.choice(PLACES),
        "object": rng.choice(OBJECTS),
    }
    return frame.format(**{**words, **drawn, **names})
