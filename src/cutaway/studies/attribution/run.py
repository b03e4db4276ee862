"""Study one: which parts of the model wrote a next-token prediction.

One or more prompts, each with an answer and, where given, a foil. The prediction is taken apart exactly, by layer, by
attention and MLP, by head and by source token, and every step on which that rests is checked on these very prompts.
Method: direct logit attribution with the final norm handled exactly (Elhage et al. 2021 for the decomposition of the
stream; Ba et al. 2016 and Zhang & Sennrich 2019 for the norms).
"""

from __future__ import annotations

from dataclasses import asdict

import torch
import xarray as xr

from ...errors import BadInput
from ...model import Model
from ...readout.annotation import annotate
from ...readout.bos import bos_sensitivity
from ...results import run_card
from ...resume.parts import Parts
from ..study import Study, grouped, only
from .analyses import analysed, first_choices
from .checks import checks
from .findings import findings, headline
from .settings import Settings

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
        prompts.answers = torch.cat(model.over(prompts, first_choices))
    toward = "contrast" if prompts.foils is not None else "centred"
    part = Parts(model, prompts, settings)
    arrays, refused, parts = analysed(model, prompts, settings.top, toward, part)
    try:
        given = [None if column is None else column.tolist() for column in (prompts.answers, prompts.foils)]
        arrays["bos"] = part("bos", lambda: bos_sensitivity(model, list(settings.prompts), *given))
    except BadInput as error:
        refused["sensitivity to BOS"] = str(error)
    made = checks(model, prompts, parts, arrays)
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


def _written(terms: xr.DataArray) -> dict[str, str]:
    """The annotated sum of every prompt, as text and as LaTeX."""
    return {
        f"prompt {i}, {form}": annotate(terms, prompt=i, format=form)
        for i in range(terms.sizes["prompt"])
        for form in ("text", "latex")
    }
