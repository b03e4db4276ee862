"""Study one: which parts of the model wrote a next-token prediction.

One or more prompts, each with an answer and, where given, a foil. The prediction is taken apart exactly, by layer, by
attention and MLP, by head and by source token, and every step on which that rests is checked on these very prompts.
Method: direct logit attribution with the final norm handled exactly (Elhage et al. 2021 for the decomposition of the
stream; Ba et al. 2016 and Zhang & Sennrich 2019 for the norms).
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import xarray as xr

from ...errors import BadInput, Refused
from ...model import Model
from ...prompts import Prompts, Token
from ...readout.annotation import annotate
from ...readout.attribution import terms_of
from ...readout.bos import bos_sensitivity
from ...readout.lenses import cumulative, lens
from ...readout.patterns import attention_patterns
from ...results import prompt_coords, run_card
from ...resume.parts import Parts
from ...tokens import token_texts
from ...trace import Trace
from ..study import Study, grouped, only
from .checks import checks
from .findings import findings, headline
from .settings import Settings

SPLITS = ("layer", "component", "head", "source")
CAVEATS = [
    "These are direct contributions: what each part wrote along the direction that the unembedding reads, in these "
    "runs. Nothing was rerun without a part. What the model would do without it also depends on the parts that read "
    "from it, and is another question.",
    "Only differences between logits have a meaning: adding a constant to all logits of a position changes no "
    "probability. So the quantity taken apart is answer minus foil, or answer minus the mean of the vocabulary.",
]


def run(model: Model, settings: Settings) -> Study:
    """Do the study.

    Raises:
        BadInput: a prompt, answer or foil that cannot be used.
        Refused: the model is not certified for reading the stream as tokens.
    """
    prompts = model.prompts(
        list(settings.prompts), answers=settings.answers or None, foils=settings.foils or None, bos=settings.bos
    )
    if prompts.answers is None:
        prompts.answers = Trace(model, prompts).logits_at(-1).argmax(-1).cpu()
    trace = model.trace(prompts)
    toward = "contrast" if prompts.foils is not None else "centred"
    part = Parts(model, prompts, settings)
    arrays: dict[str, Any] = {
        "next_tokens": part("next tokens", lambda: next_tokens(trace, settings.top)),
        "lens": part("lens", lambda: lens(trace, top=settings.top, of=_asked(prompts))),
        "cumulative": part("cumulative", lambda: cumulative(trace, toward=toward)),
    }
    refused = {}
    for by in SPLITS:
        try:
            arrays[f"by_{by}"] = part(f"attribution by {by}", partial(terms_of, trace, by=by, toward=toward))
        except Refused as error:
            refused[f"attribution by {by}"] = str(error)
    try:
        arrays["patterns"] = part("patterns", lambda: attention_patterns(trace))
    except Refused as error:
        refused["attention"] = str(error)
    try:
        given = [None if column is None else column.tolist() for column in (prompts.answers, prompts.foils)]
        arrays["bos"] = part("bos", lambda: bos_sensitivity(model, list(settings.prompts), *given))
    except BadInput as error:
        refused["sensitivity to BOS"] = str(error)
    made = checks(trace, arrays)
    texts = _written(arrays["by_component"] if "by_component" in arrays else arrays["by_layer"])
    return Study(
        kind="attribution",
        title=headline(prompts, arrays),
        settings=only(asdict(settings)),
        run_card=run_card(model, prompts, study="attribution", toward=toward),
        arrays=arrays,
        checks=made,
        **grouped(findings(prompts, arrays, made)),
        caveats=CAVEATS,
        texts=texts,
        refused=refused,
    )


def _asked(prompts: Prompts) -> list[Token]:
    """Every answer and foil once."""
    columns = [c for c in (prompts.answers, prompts.foils) if c is not None]
    return list(dict.fromkeys(int(i) for column in columns for i in column.tolist()))


def next_tokens(trace: Trace, top: int) -> xr.Dataset:
    """The model's first choices after each prompt, and where answer and foil stand among all tokens (rank from 0)."""
    prompts, model = trace.prompts, trace.model
    log_p, logits = _log_probabilities(trace)
    values, ids = logits.topk(min(top, logits.shape[-1]))
    tokens = [token_texts(model.tokenizer, row) for row in ids.tolist()]
    table = {
        "token_id": (("prompt", "rank"), ids.cpu().numpy()),
        "token": (("prompt", "rank"), tokens),
        "logit": (("prompt", "rank"), values.cpu().numpy()),
        "probability": (("prompt", "rank"), log_p.gather(1, ids).exp().cpu().numpy()),
    }
    for kind, column in (("answer", prompts.answers), ("foil", prompts.foils)):
        if column is not None:
            table |= _standing(model, kind, column, log_p, logits)
    coords = {**prompt_coords(prompts), "rank": range(ids.shape[1])}
    return xr.Dataset(table, coords, run_card(model, prompts, units="logits; probability"))


def _log_probabilities(trace: Trace) -> tuple[torch.Tensor, torch.Tensor]:
    logits = trace.logits_at(-1).double()
    return torch.log_softmax(logits, -1), logits


def _standing(
    model: Model, kind: str, column: torch.Tensor, log_p: torch.Tensor, logits: torch.Tensor
) -> dict[str, Any]:
    """Token, rank, probability and logit of one token a prompt."""
    mine = logits.gather(1, column.to(logits.device)[:, None])
    return {
        kind: ("prompt", token_texts(model.tokenizer, column)),
        f"{kind}_rank": ("prompt", (logits > mine).sum(-1).cpu().numpy()),
        f"{kind}_probability": ("prompt", log_p.gather(1, column.to(log_p.device)[:, None])[:, 0].exp().cpu().numpy()),
        f"{kind}_logit": ("prompt", mine[:, 0].cpu().numpy()),
    }


def _written(terms: xr.DataArray) -> dict[str, str]:
    """The annotated sum of every prompt, as text and as LaTeX."""
    return {
        f"prompt {i}, {form}": annotate(terms, prompt=i, format=form)
        for i in range(terms.sizes["prompt"])
        for form in ("text", "latex")
    }
