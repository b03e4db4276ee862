"""Study three: is a relation, such as *capital of*, a vector that can be added?

The mean of what one layer's MLP writes on some items is added, or subtracted, on other items: in prompts that ask for
the relation, and in prompts that never do. Every effect stands beside a ladder of controls of the same norm, among them
a thousand random vectors of each kind. The unit is the item, a country for capitals, never the layer.

Methods: the question and the stages are those of Merullo, Eickhoff and Pavlick 2023 (arXiv 2305.16130); controls after
Heimersheim 2024 and Lee and Heimersheim 2024 (arXiv 2410.12555).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from ...controls import ladder
from ...directions import Direction, direction
from ...errors import BadInput, Refused, did_you_mean
from ...model import Model
from ...results import run_card
from ...resume.parts import Parts
from ...steering import Where
from ..study import Study, grouped, only
from ..threads import threads_for
from .checks import checks
from .experiments import (
    CONTEXTS,
    Bench,
    all_stages,
    compared,
    factors,
    ladders,
    other_ways,
    specificity,
    strength_map,
)
from .findings import findings, headline
from .items import RELATIONS, Relation, relation
from .settings import Settings
from .steps import flip_curves, flips_in_runs
from .vectors import Chosen, choose, kinds, material

CAVEATS = [
    "A readout edit changes a stored state and decodes it; nothing follows from it. An intervention changes a run, and "
    "everything after it is computed anew. They answer different questions and are never mixed here.",
    "That a vector does more than random vectors of its norm says that its direction matters. It does not say that the "
    "model works by adding it: the same could be reached by way of many other directions.",
    "Layer and strength were chosen on the items the vector was taken from. The tested items had no part in that, nor "
    "in the vector, but their frames did: another wording of the question is not covered by the intervals.",
    "An answer is one token. Words that are several tokens, or no token of their own, were left out.",
    "Prompts that never ask are lists of words that repeat. What a vector does there it need not do in prose.",
]


def run(model: Model, settings: Settings) -> Study:
    """Do the study.

    Raises:
        BadInput: the tokenizer cannot write the relation, too few items, or a setting that does not exist.
        Refused: the model is not certified for the site, or for reading the stream as tokens.
    """
    return study_of(model, settings)[0]


def study_of(model: Model, settings: Settings) -> tuple[Study, Direction]:
    """The study and the vector it is about, which can be saved."""
    with threads_for(model), torch.no_grad():
        return _run(model, settings)


def _run(model: Model, settings: Settings) -> tuple[Study, Direction]:
    s, refused = settings, {}
    relations: dict[str, Relation] = {}
    for name in dict.fromkeys((s.relation, *s.relations)):
        if name not in RELATIONS:
            raise BadInput(f"There is no relation {name!r}. {did_you_mean(name, list(RELATIONS))}")
        try:
            relations[name] = relation(model, name, s.items, s.seed, s.held_out, s.bos)
        except BadInput as error:
            if name == s.relation:
                raise
            refused[f"relation {name}"] = str(error)
    splits = {name: one.halves(s.share, s.seed) for name, one in relations.items()}
    others = [name for name in relations if name != s.relation]
    fit, test = splits[s.relation]
    chosen, test = _vector(model, s, fit, test)
    bench = Bench(model, test, chosen, s.level)
    layer = chosen.where.layers[0]
    other = splits[others[0]][0] if others else None
    controls = ladder(chosen.direction, material(model, fit, other, test, s.site, layer), s.draws, s.seed)
    part = Parts(model, s, relations, chosen.direction, chosen.where)
    staged = part("stages", lambda: all_stages(model, list(relations.values())))
    arrays: dict[str, Any] = {"stages": staged, "choice": chosen.table}
    few = max(2, s.flip_draws // 50)
    steps: dict[str, Callable[[], Any]] = {
        "map": lambda: strength_map(bench, s.strengths),
        "flip_curves": lambda: flip_curves(bench, controls, s.flip_draws),
        "flips_in_runs": lambda: flips_in_runs(bench, controls, few),
        "factors": lambda: factors(bench, controls, few),
        "specificity": lambda: specificity(bench, [splits[name][1] for name in others]),
    }
    if other is not None and not s.vector:
        steps["kinds"] = lambda: other_ways(bench, kinds(model, fit, other, chosen.direction, s.site))
    arrays |= part("ladders", lambda: ladders(bench, controls))
    for name, do in steps.items():
        try:
            arrays[name] = part(name, do)
        except Refused as error:
            refused[name.replace("_", " ")] = str(error)
    arrays |= compared(bench)
    for name in others:
        arrays[f"relation_{name}"] = part(f"relation {name}", partial(_elsewhere, model, s, splits, name))
    facts = {"settings": s, "fit": fit, "test": test, "chosen": chosen, "few": few, "others": others}
    made = checks(bench, controls, arrays)
    done = Study(
        kind="vector-arithmetic",
        title=headline(arrays, facts),
        settings=only(asdict(s)),
        run_card=run_card(
            model, test.prompts, study="vector-arithmetic", relation=s.relation, direction=chosen.direction.card()
        ),
        arrays=arrays,
        checks=made,
        **grouped(findings(arrays, made, facts)),
        caveats=CAVEATS,
        texts=_texts(relations, fit, test),
        refused=refused,
    )
    return done, chosen.direction


def _vector(model: Model, s: Settings, fit: Relation, test: Relation) -> tuple[Chosen, Relation]:
    """The vector with its place, and the tested items it was not taken from."""
    if s.vector is None:
        chosen = choose(model, fit, s.site, s.strengths, s.layer, s.strength)
    else:
        given: Direction = direction(s.vector, model)
        found = choose(model, fit, s.site, s.strengths, given.layer if s.layer is None else s.layer, s.strength)
        where = found.where
        chosen = Chosen(given, Where(where.layers, where.positions, where.mode, where.site, where.scale), found.table)
    free = chosen.direction.independent(test.prompts)
    if len(free) < 2:
        raise BadInput(
            f"The vector {chosen.direction.name!r} was taken from all but {len(free)} of the tested items, and two or "
            "more are needed. Ask for more items."
        )
    return chosen, test[free]


def _elsewhere(model: Model, s: Settings, splits: dict[str, tuple[Relation, Relation]], name: str) -> Any:
    """Another relation's own vector on its own items, elsewhere, against the random rungs and the studied relation."""
    from ...controls import against
    from ...steering import Outcomes

    fit, test = splits[name]
    chosen = choose(model, fit, s.site, s.strengths)
    layer = chosen.where.layers[0]
    rungs = ladder(
        chosen.direction, material(model, fit, splits[s.relation][0], test, s.site, layer), min(s.draws, 200), s.seed,
        ["nothing", "isotropic", "covariance", "real difference", "another relation", "minus"],
    )  # fmt: skip
    found = against(Outcomes(model, test.elsewhere, chosen.where), chosen.direction, rungs, test.items, s.level)
    scale = float(chosen.where.scale)  # type: ignore[arg-type]
    return found.assign_attrs(
        {**found.attrs, "layer": layer, "strength": scale, "relation": name, "units": "by outcome"}
    )


def _texts(relations: dict[str, Relation], fit: Relation, test: Relation) -> dict[str, str]:
    lines = []
    for name, one in relations.items():
        lines += [f"{name}, asked: {one.prompts.texts[0]!r}", f"{name}, elsewhere: {one.elsewhere.texts[0]!r}"]
    notes = [one.note for one in relations.values() if one.note]
    return {
        "example prompts": "\n".join(lines),
        "items": f"Taken from: {', '.join(fit.items)}.\nTested on: {', '.join(test.items)}.",
        "words": " ".join(notes) or "No word was left out.",
    }


__all__ = ["CONTEXTS", "run", "study_of"]
