"""Short sentences with a pronoun as object, and as many of the same build with a noun or a name there.

No two sentences agree up to the object; a sentence with a pronoun and its twin with a noun are built alike, so their
objects stand at the same place. Each pronoun is the object as often as each noun, and none of them occurs elsewhere:
position and frequency are matched by design.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..wording import capital
from .sentences import Sentences, sentences
from .task import Words

if TYPE_CHECKING:
    from ..model import Model

PRONOUNS = ("her", "him", "them", "me", "us")
NOUNS = ("Mary", "John", "children", "teachers", "horses")
"""Of the words that can stand there, some that the pocket model's training text uses about as often as the pronouns:
her 4700 and him 1400 times in a million tokens, Mary and John 820; them, me and us 360, children 290, the rest 160."""
OPENINGS = ("", "Yesterday ", "Last night ", "In the morning, ", "After dinner, ", "In summer, ", "Long ago, ")
SUBJECTS = (
    ("Emma", "Tom", "Julia", "Peter", "Clara", "Felix"),
    ("the doctor", "the nurse", "the farmer", "the singer", "my brother", "my sister", "the neighbors", "two girls"),
    ("the old man", "the young woman", "the happy boy", "the quiet girl", "the tall painter", "the clever lawyer"),
    ("the man near the bridge", "the women at the station", "the boys behind the castle", "the girl near the garden"),
)
"""By how many words they have."""
VERBS = (
    ("saw", "helped", "thanked", "followed", "called", "met", "remembered", "liked", "asked", "heard"),
    ("talked about", "looked for", "waited for", "sang with", "laughed with", "dreamed of", "worked with"),
)
ENDS = (".", " at the market.", " near the river.", " again.", " every day.", " and went home.", " for a while.")


def pronoun_sentences(
    model: Model,
    families: int = 80,
    seed: int = 0,
    pronouns: Sequence[str] = PRONOUNS,
    bos: bool | None = None,
) -> Sentences:
    """So many sentences with a pronoun and so many without.

    Raises:
        BadInput: fewer than two families, more than the words suffice for, or no pronoun that is one token here.
    """
    if families < 2:
        raise BadInput(f"families is {families}: a test needs at least two.")
    words = Words(model)
    targets, nouns = words.usable("pronouns", pronouns), words.usable("nouns", NOUNS)
    rng = Random(seed)
    builds = list(islice(_builds(rng), families))
    if len(builds) < families:
        raise BadInput(f"{families} families were asked for, and the words suffice for {len(builds)}. Ask for fewer.")

    def made(start: str, objects: list[str], k: int) -> str:
        return capital(f"{start} {objects[k % len(objects)]}{rng.choice(ENDS)}")

    rows: list[str | dict[str, Any]] = [made(one, targets, k) for k, (one, _) in enumerate(builds)]
    turn = len(targets)  # each pronoun meets each noun: the one is not the other under another name
    rows += [{"text": made(other, nouns, k + k // turn), "target": None} for k, (_, other) in enumerate(builds)]
    return sentences(model, rows, targets, bos=bos)


def _builds(rng: Random) -> Iterator[tuple[str, str]]:
    """Two different beginnings of the same build, up to the object, builds in random order; none comes twice."""
    queues = []
    for opening in OPENINGS:
        for subjects in SUBJECTS:
            for verbs in VERBS:
                every = [f"{opening}{subject} {verb}" for subject in subjects for verb in verbs]
                queues.append(rng.sample(every, len(every)))
    while queues := [queue for queue in queues if len(queue) >= 2]:
        for queue in rng.sample(queues, len(queues)):
            yield queue.pop(), queue.pop()


__all__ = ["NOUNS", "PRONOUNS", "pronoun_sentences"]
