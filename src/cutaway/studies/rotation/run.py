"""The study of rotations: how far does each block turn a token's vector, and is it more than for other tokens?

Angles between the stream before and after each block, at target tokens and at controls matched in position and
frequency; the part of each update along the vector and across it; and what an update of the same size would do in a
random direction. Every comparison is a paired difference over families of sentences, corrected over its whole grid.

Why so: one occurrence a causal prefix, since nothing after a token changes it; states before the final norm; position 0
and padding out; controls that share neither sentence nor measurement.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...errors import BadInput
from ...geometry.standards import Standard, standard
from ...model import Model
from ...results import run_card
from ...resume.parts import Parts
from ...tasks import make_task
from ...tasks.pronoun_sentences import PRONOUNS, pronoun_sentences
from ...tasks.sentences import Sentences, counted, counts, of_role, read_frequencies, read_sentences, sentences
from ...wording import several
from ..study import Study, grouped, only
from ..threads import threads_for
from .checks import checks
from .findings import findings, headline
from .matching import matched, occurrences
from .settings import Settings
from .work import Work

CAVEATS = [
    "An angle says how far a vector turned, not what for: nothing here shows that a turn changes what the model says.",
    "Intervals and tests are over sentences, each causal prefix once. They speak for other sentences with these target "
    "words and controls; only where it says “over words” are other words spoken for.",
    "Controls are matched in position and frequency. They still differ from the targets in part of speech and meaning, "
    "so a difference is one between these kinds of words, whatever in them makes it.",
    "Norms grow over depth in many models, and an update of the same size then turns less. The excess over the angle "
    "arctan(|update| / |vector|) takes that out; below 0 the update points along the vector or straight against it.",
    "A sign-flip test assumes that the differences of families are symmetric around 0 where there is none.",
]


def run(model: Model, settings: Settings, given: Sentences | None = None) -> Study:
    """Do the study.

    Args:
        given: sentences made elsewhere, instead of those that the settings name.

    Raises:
        BadInput: sentences whose target cannot be told, fewer than two families, a file or setting that does not fit.
    """
    with threads_for(model), torch.no_grad():
        return _run(model, settings, given if given is not None else chosen(model, settings))


def chosen(model: Model, settings: Settings) -> Sentences:
    """The sentences that the settings name."""
    s = settings
    sources = {"sentences": s.texts, "a file": s.file, "a task": s.task}
    if sum(map(bool, sources.values())) > 1:
        raise BadInput(f"Give one of {', '.join(sources)}, not several.")
    fillers: list[str | dict[str, Any]] = [{"text": text, "target": None} for text in s.fillers]
    if s.task is not None:
        if s.role is None:
            raise BadInput(f"Which token of task {s.task}? Name a role, as in: --task ioi --role S2")
        return of_role(make_task(s.task, model, families=s.families, seed=s.seed, bos=s.bos).clean, s.role, s.control)
    if s.texts or s.file:
        rows: list[Any] = list(s.texts) or read_sentences(Path(str(s.file)))
        return sentences(model, [*rows, *fillers], s.targets, control=s.control, bos=s.bos)
    if s.fillers or s.control:
        raise BadInput("A control word and sentences for controls go with sentences of your own. Give those too.")
    return pronoun_sentences(model, s.families, s.seed, s.targets or PRONOUNS, s.bos)


def _run(model: Model, s: Settings, given: Sentences) -> Study:
    found = occurrences(given)
    if len({one.family for one in found}) < 2:
        raise BadInput(
            f"{several(len(found), 'beginning')} up to a target, and all of one family: a test needs two families. Add "
            "sentences that begin otherwise."
        )
    special = frozenset(getattr(model.tokenizer, "all_special_ids", ()))
    pairs = matched(given, found, frequencies(given, s), s.caliper, special)
    reference = Standard(**Parts(model, given.prompts)("reference", lambda: vars(standard(model, given.prompts))))
    work = Work(model, given, found, pairs, reference, s.level)
    arrays = work.measured(s.draws, s.seed) | work.compared()
    card = run_card(model, given.prompts, study="rotation", reference=reference.said)
    for one in arrays.values():
        one.attrs = {**card, **one.attrs}
    made = checks(work, arrays["turns"])
    told = {**asdict(s), "frequencies": s.frequencies if isinstance(s.frequencies, str | None) else "a table"}
    return Study(
        kind="rotation",
        title=headline(arrays),
        settings=only({k: v for k, v in told.items() if v != ()}),
        run_card=card,
        arrays=arrays,
        checks=made,
        **grouped(findings(work, arrays, made)),
        caveats=CAVEATS,
        refused=work.refused,
    )


def frequencies(given: Sentences, settings: Settings) -> dict[str, float]:
    """Word -> frequency: the user's, or counted in the sentences."""
    if settings.frequencies is None:
        return counted(given.prompts)
    if isinstance(settings.frequencies, str):
        return read_frequencies(Path(settings.frequencies))
    return counts(settings.frequencies)
