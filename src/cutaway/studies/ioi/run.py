"""Study two: the indirect object, from behaviour to heads.

Two people are introduced, one gives something, and the model should name the other. What wrote the name, where the
information travels, which heads carry it, where they look, and what happens without them. Every effect is a mean over
families of prompts with its interval; heads are chosen on one half of the families and tested on the other.

Methods: direct logit attribution and logit lens; activation patching by denoising and noising (Zhang & Nanda 2023,
arXiv 2309.16042; Heimersheim & Nanda 2024, arXiv 2404.15255); the task of Wang et al. 2022 (arXiv 2211.00593).
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ...errors import Refused
from ...finite import named
from ...model import Model
from ...readout.attribution import attribute
from ...readout.head_scores import head_scores, role_attention
from ...readout.lenses import cumulative
from ...readout.patterns import attention_patterns
from ...results import prompt_coords, run_card
from ...stats import mean_interval
from ...tasks.ioi import CORRUPTIONS, ioi
from ...trace import Trace
from ..study import Study, grouped, only
from ..threads import threads_for
from .checks import checks
from .findings import findings, headline
from .heads import attention_table, choose, halves, head_table, stability
from .settings import Settings
from .sweeps import Head, Sweeper, ablations, logit_difference

PAIRS = (("S2", "S1"), ("S2", "S1+1"), ("END", "S2"), ("END", "IO"), ("END", "S1"))


CAVEATS = [
    "Patching asks what one part can restore or break while everything else stays in the other run. A part that "
    "another one stands in for, or that matters only together with another, can show nothing: small is not unused.",
    "Denoising and noising, zero, mean and resample ablation, and a direct effect are answers to different questions. "
    "They stand side by side; where they disagree, neither is wrong.",
    "Intervals and tests are over families of this task: other pairs of names, places and objects in these frames. "
    "They do not speak for other frames, other tasks, or text in general. A sign-flip test assumes that the effects of "
    "families are symmetric around 0 where there is none.",
    "Scores on repeated random ids say where a head looks there. A head can do so and write nothing, or look by "
    "repetition in text and not on random ids.",
]


def run(model: Model, settings: Settings) -> Study:
    """Do the study.

    Raises:
        BadInput: the tokenizer cannot write the task, or a setting that does not exist.
        Refused: the model is not certified for reading the stream as tokens, or for sweeps.
    """
    with threads_for(model), torch.no_grad():
        return _run(model, settings)


def _run(model: Model, settings: Settings) -> Study:
    frames = None if settings.frames is None else list(settings.frames)
    task = ioi(model, settings.families, settings.seed, frames, bos=settings.bos)
    task.corrupt(settings.corruption)
    sweeper = Sweeper(model, task, settings.corruption, settings.level)
    part = sweeper.part
    arrays: dict[str, Any] = {
        "behaviour": part("behaviour", lambda: behaviour(sweeper)),
        "depth": part("depth", lambda: model.over(sweeper.clean, depth)),
        "cumulative": part("cumulative", lambda: model.over(sweeper.clean, cumulative)),
    }
    both = attributions(sweeper, arrays)
    arrays |= sweeper.patching()
    if both is not None and "patch_z" in arrays:
        arrays["direct"] = sweeper.direct(*both)
    scored, attended = (
        partial(part, "head scores", lambda: head_scores(model, settings.rows, seed=settings.seed), settings),
        partial(part, "attention", lambda: model.over(sweeper.clean, partial(role_attention, pairs=PAIRS))),
    )
    scores = sweeper.attempt("head scores", scored)
    attention = sweeper.attempt("attention between roles", attended)
    arrays |= {k: v for k, v in (("head_scores", scores), ("attention", attention)) if v is not None}
    facts = heads(sweeper, arrays, settings)
    made = checks(sweeper, arrays)
    return Study(
        kind="ioi",
        title=headline(arrays, facts),
        settings=only({**asdict(settings), "frames": frames}),
        run_card=run_card(model, task.clean, study="ioi", corruption=settings.corruption),
        arrays=arrays,
        checks=made,
        **grouped(findings(arrays, made, facts)),
        caveats=[*CAVEATS, _corruption(settings.corruption)],
        texts=_texts(sweeper),
        refused=sweeper.refused,
    )


def _corruption(name: str) -> str:
    text = f"Corrupted prompts (“{name}”): {CORRUPTIONS[name]}."
    if name in ("swap", "s2"):
        text += (
            " They are other prompts of the same family, so the mean logit difference of corrupted runs is minus that "
            "of clean ones by construction and tells nothing of its own, and noising would mirror denoising: that pair "
            "is made with three unrelated names (“abc”) instead."
        )
    if name == "s2":
        text += " The token after the giver's first mention is the same in both, so heads that work there stay unseen."
    return text


def _texts(sweeper: Sweeper) -> dict[str, str]:
    task = sweeper.task
    examples = [task.clean.texts[0], *(f"{k}: {p.texts[0]}" for k, p in task.corruptions.items())]
    return {"example prompts": "\n".join(examples), "words": task.note() or "No word was left out."}


def behaviour(sweeper: Sweeper) -> xr.Dataset:
    """Each prompt's logit difference, clean and under every corruption, and the answer's rank and probability."""
    model, task = sweeper.model, sweeper.task
    assert task.clean.answers is not None and task.clean.foils is not None
    ranks, chances = torch.cat(model.over(task.clean, _chances)).T
    values = {"clean": sweeper.clean_value}
    for name, prompts in task.corruptions.items():
        same = name == sweeper.corruption
        values[name] = sweeper.corrupt_value if same else logit_difference(model, prompts)
    stacked = np.stack(list(values.values()), axis=1)
    interval = mean_interval(stacked, task.clean.families, level=sweeper.level)
    text = [sweeper.model.token_text(int(t)) for t in task.clean.answers]
    foil = [sweeper.model.token_text(int(t)) for t in task.clean.foils]
    return xr.Dataset(
        {
            "logit_difference": (("prompt", "run"), stacked),
            "mean": ("run", interval.estimate),
            "low": ("run", interval.low),
            "high": ("run", interval.high),
            "answer_rank": ("prompt", ranks.long().numpy()),
            "answer_probability": ("prompt", chances.numpy()),
            "answer": ("prompt", text),
            "foil": ("prompt", foil),
            "template": ("prompt", list(task.templates)),
        },
        {**prompt_coords(task.clean), "run": list(values)},
        run_card(sweeper.model, task.clean, units="logits; probability", families=int(interval.units)),
    )


def _chances(trace: Trace) -> Tensor:  # [prompt, 2]
    """The answer's rank and probability at the last token."""
    prompts, found = trace.prompts, []
    assert prompts.answers is not None
    for some, logits in trace.each_logits(prompts.at(-1)):
        ids = prompts.answers[some, None].to(logits.device)
        rank, chance = (logits > logits.gather(1, ids)).sum(-1), logits.double().softmax(-1).gather(1, ids)[:, 0]
        found.append(torch.stack([rank.double(), chance], dim=1).cpu())
    return torch.cat(found)


def depth(trace: Trace) -> xr.Dataset:
    """The logit lens at the last token: what the model would answer if it ended after each layer, with the norm
    statistics of that layer."""
    prompts = trace.prompts
    assert prompts.answers is not None and prompts.foils is not None
    last, pairs = prompts.at(-1), torch.stack([prompts.answers, prompts.foils], dim=1)
    found: dict[str, list[np.ndarray]] = {"logit_difference": [], "answer_probability": [], "foil_probability": []}
    for layer in range(trace.model.n_layers):
        parts = []
        for some, logits in trace.model.read_in_parts(trace.rows("resid_post", layer, last), partial(named, prompts)):
            two, total = logits.gather(1, pairs[some].to(logits.device)), logits.double().logsumexp(-1, keepdim=True)
            parts.append(torch.cat([two.double(), total], dim=1).cpu())
        answer, foil, total = torch.cat(parts).T
        found["logit_difference"].append((answer - foil).numpy())
        found["answer_probability"].append((answer - total).exp().numpy())
        found["foil_probability"].append((foil - total).exp().numpy())
    data = {k: (("prompt", "layer"), np.stack(v, axis=1)) for k, v in found.items()}
    coords = {**prompt_coords(prompts), "layer": np.arange(trace.model.n_layers)}
    return xr.Dataset(data, coords, run_card(trace.model, prompts, readout="logit lens", units="logits; probability"))


_HEAVY = ("removal_frozen", "removal_true", "removal_difference", "dot", "quantity")


def attributions(sweeper: Sweeper, arrays: dict[str, Any]) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Attribution by layer, component and head into `arrays`; clean and corrupted by head, with inner products."""
    both = None
    for by in ("layer", "component", "head"):
        try:
            terms = _attributed(sweeper, "clean", by)
            if by == "head":
                both = terms, _attributed(sweeper, "corrupt", by)
        except Refused as error:
            sweeper.refused[f"attribution by {by}"] = str(error)
            continue
        interval = mean_interval(terms.values, sweeper.families, level=sweeper.level)
        light = terms.drop_vars([name for name in _HEAVY if name in terms.coords]).rename("value")
        parts = {k: ("term", getattr(interval, v)) for k, v in (("mean", "estimate"), ("low", "low"), ("high", "high"))}
        arrays[f"by_{by}"] = light.to_dataset(promote_attrs=True).assign(parts)
    return both


def _attributed(sweeper: Sweeper, run: str, by: Any) -> xr.DataArray:
    prompts, analysis = getattr(sweeper, run), partial(attribute, by=by, toward="contrast")
    return sweeper.part(f"attribution by {by}, {run}", lambda: sweeper.model.over(prompts, analysis))


def heads(sweeper: Sweeper, arrays: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Choose heads on one half of the families; table, attention, patterns and ablations on the other half."""
    facts: dict[str, Any] = {"settings": settings, "heads": [], "task": sweeper.task.note()}
    if "patch_z" not in arrays or "direct" not in arrays:
        return facts
    split = halves(sweeper.families, settings.seed)
    everyone = list(range(len(sweeper.families)))
    choosing, testing = (everyone, everyone) if split is None else (split.choosing.tolist(), split.testing.tolist())
    facts |= {
        "split": None if split is None else (len(split.choosing_families), len(split.testing_families)),
        "stability": stability(arrays["patch_z"], settings.top),
    }
    chosen: list[Head] = choose(arrays, choosing, settings.top)
    facts["heads"] = chosen
    if not chosen:
        return facts
    arrays["heads"] = head_table(sweeper, arrays, chosen, testing, settings.smallest)
    if "attention" in arrays:
        arrays["heads_attention"] = attention_table(arrays["attention"], chosen, testing, settings.level)
        shown = attention_patterns(sweeper.model.trace(sweeper.clean[testing[:1]]))
        arrays["patterns"] = shown.assign_coords(prompt=testing[:1])
    some = sweeper.task[testing]
    ablated = partial(ablations, sweeper.model, some, chosen, settings.level)
    taken = sweeper.attempt("ablation", lambda: sweeper.part("ablation", ablated, some, chosen))
    if taken is not None:
        arrays["ablation"], arrays["ledger"] = taken
    return facts
