"""What is made of some prompts from one trace of them, so that of many prompts one part's trace is held at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from ...errors import Refused
from ...model import Model
from ...parts import at_once, slices
from ...prompts import Prompts
from ...readout.attribution import terms_of
from ...readout.lenses import cumulative, lens
from ...readout.patterns import attention_patterns
from ...results import joined, prompt_coords, run_card
from ...resume.parts import Parts
from ...tokens import token_texts
from ...trace import Trace
from .checks import Measured, measured

SPLITS = ("layer", "component", "head", "source")


def analysed(
    model: Model, prompts: Prompts, top: int, toward: str, part: Parts
) -> tuple[dict[str, Any], dict[str, str], list[Measured]]:
    """Every analysis of the prompts, a part of them after the other.

    Returns:
        Name -> labelled array of all prompts; what this model refuses, and why; what was measured in each part.
    """
    analysis, made = partial(_of_trace, top=top, toward=toward), []
    for some in slices(len(prompts), at_once(prompts)):  # the same ones where an interrupted study goes on
        index = range(some.start, some.stop)
        made += part(
            f"prompts {some.start} to {some.stop - 1}",
            lambda index=index: model.over(prompts.padded(index), analysis),  # type: ignore[misc]
        )
    # a part's arrays go when they are joined: at most the largest is there twice
    arrays = {name: joined(model, prompts, _taken(made, name)) for name in list(made[0]["arrays"])}
    return arrays, made[0]["refused"], [one["measured"] for one in made]


def _taken(made: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [one["arrays"].pop(name) for one in made]


def _of_trace(trace: Trace, top: int, toward: str) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "next_tokens": next_tokens(trace, top),
        "lens": lens(trace, top=top, of=_asked(trace.prompts)),
        "cumulative": cumulative(trace, toward=toward),
    }
    refused = {}
    for by in SPLITS:
        try:
            arrays[f"by_{by}"] = terms_of(trace, by=by, toward=toward)
        except Refused as error:
            refused[f"attribution by {by}"] = str(error)
    try:
        arrays["patterns"] = attention_patterns(trace)
    except Refused as error:
        refused["attention"] = str(error)
    return {"arrays": arrays, "refused": refused, "measured": measured(trace, arrays)}


def _asked(prompts: Prompts) -> dict[str, Tensor]:
    """The answer and the foil of each prompt: those of other prompts would make the lens grow by the square of them."""
    return {kind: ids for kind, ids in (("answer", prompts.answers), ("foil", prompts.foils)) if ids is not None}


def first_choices(trace: Trace) -> Tensor:  # [prompt]
    """The model's own first choice after each prompt."""
    return torch.cat([logits.argmax(-1).cpu() for _, logits in trace.each_logits(trace.prompts.at(-1))])


def next_tokens(trace: Trace, top: int) -> xr.Dataset:
    """The model's first choices after each prompt, and where answer and foil stand among all tokens (rank from 0)."""
    prompts, model = trace.prompts, trace.model
    asked = _asked(prompts)
    parts = [
        _choices(logits.double().cpu(), top, {kind: ids[some] for kind, ids in asked.items()})
        for some, logits in trace.each_logits(prompts.at(-1))
    ]
    found = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    table: dict[str, Any] = {k: (("prompt", "rank")[: v.ndim], v) for k, v in found.items()}
    table["token"] = (("prompt", "rank"), [token_texts(model.tokenizer, row) for row in found["token_id"].tolist()])
    table |= {kind: ("prompt", token_texts(model.tokenizer, ids)) for kind, ids in asked.items()}
    coords = {**prompt_coords(prompts), "rank": range(found["token_id"].shape[1])}
    return xr.Dataset(table, coords, run_card(model, prompts, units="logits; probability"))


def _choices(logits: Tensor, top: int, asked: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of some prompts: ids, logits and probabilities of the first choices, and rank, probability and logit of one asked
    token a prompt."""
    log_p = torch.log_softmax(logits, -1)
    values, ids = logits.topk(min(top, logits.shape[-1]))
    found = {"token_id": ids, "logit": values, "probability": log_p.gather(1, ids).exp()}
    for kind, column in asked.items():
        mine = logits.gather(1, column[:, None])
        found[f"{kind}_rank"] = (logits > mine).sum(-1)
        found[f"{kind}_probability"] = log_p.gather(1, column[:, None])[:, 0].exp()
        found[f"{kind}_logit"] = mine[:, 0]
    return found
