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
from torch import Tensor

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
        chosen = [logits.argmax(-1).cpu() for _, logits in Trace(model, prompts).each_logits(prompts.at(-1))]
        prompts.answers = torch.cat(chosen)
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
    asked = {k: ids for k, ids in (("answer", prompts.answers), ("foil", prompts.foils)) if ids is not None}
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


def _written(terms: xr.DataArray) -> dict[str, str]:
    """The annotated sum of every prompt, as text and as LaTeX."""
    return {
        f"prompt {i}, {form}": annotate(terms, prompt=i, format=form)
        for i in range(terms.sizes["prompt"])
        for form in ("text", "latex")
    }
