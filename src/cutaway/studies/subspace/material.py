"""Which texts a subspace is fitted on, and which it is tested on: never the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import BadInput
from ...model import Model
from ...prompts import Prompts, tokenise
from ...stats import split_families
from ...tasks.passages import passages
from ...tasks.texts import read_texts

if TYPE_CHECKING:
    from .settings import Settings


@dataclass(frozen=True)
class Material:
    """Texts to fit on and to test on, and what has to be said of them."""

    fit: Prompts
    test: Prompts
    source: str
    notes: list[str]


def material(model: Model, settings: Settings) -> Material:
    """The texts of a study, tokenised; longer ones cut to `settings.tokens` or the model's context.

    Raises:
        BadInput: a text is in both sets, a test text is too short to hold a token that the edit can reach, there are
            fewer than two families, or the tokenizer cannot write them.
    """
    fit, test, families, source = _texts(settings)
    both = set(fit) & set(test)
    if both:
        raise BadInput(
            f"{len(both)} of the texts to test on are among those the subspace is fitted on, such as "
            f"{min(both)[:60]!r}: what is tested must not have been fitted. Give other texts for one of the two."
        )
    notes, sets = [], []
    for name, texts, labels in (("fitted", fit, None), ("tested", test, families)):
        prompts, cut = _tokenised(model, texts, labels, settings)
        if cut:
            notes.append(f"{cut} of {len(texts)} {name} texts were cut to {prompts.n_positions} tokens.")
        sets.append(prompts)
    short = (sets[1].lengths < 3).nonzero()
    if len(short):
        raise BadInput(
            f"Text {int(short[0])} to test on has {int(sets[1].lengths[short[0]])} tokens; with fewer than 3 it has no "
            "token after an edited one. Remove it."
        )
    shared = len(_sentences(fit) & _sentences(test))
    if shared:
        notes.append(
            f"{shared} of the {len(_sentences(test))} different sentences tested also stand in a text that was fitted."
        )
    return Material(sets[0], sets[1], source, notes)


def _texts(settings: Settings) -> tuple[list[str], list[str], list[str], str]:
    """(to fit on, to test on, families of the latter, where they come from)."""
    if settings.text is None and settings.fit_text is None:
        fit = passages(settings.fit_passages, settings.seed, "fit")
        test = passages(settings.passages, settings.seed, "test")
        return fit, test, [str(i) for i in range(len(test))], "passages of the package"
    if settings.text is None:
        raise BadInput("There are texts to fit on and none to test on. Give those too, or these alone: they are split.")
    texts, families = read_texts(settings.text)
    if settings.fit_text is not None:
        return read_texts(settings.fit_text)[0], texts, families, f"{settings.text}, fitted on {settings.fit_text}"
    split = split_families(families, seed=settings.seed)
    test = [texts[i] for i in split.testing]
    labels = [families[i] for i in split.testing]
    return [texts[i] for i in split.choosing], test, labels, f"{settings.text}, fitted on one half of its families"


def _tokenised(model: Model, texts: list[str], families: list[str] | None, settings: Settings) -> tuple[Prompts, int]:
    """The texts as prompts, cut where they are too long, and how many were."""
    prompts = tokenise(model.tokenizer, texts, families=families, bos=settings.bos, vocab_size=model.vocab_size)
    limits = [n for n in (settings.tokens, model.context) if n is not None]
    most = min(limits) if limits else prompts.n_positions
    return prompts.cut(most), int((prompts.lengths > most).sum())


def _sentences(texts: list[str]) -> set[str]:
    return {s.strip() for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()}
