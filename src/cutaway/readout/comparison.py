"""Before | after, row by row: what each layer would say without and with an edit, as data that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..errors import BadInput
from ..prompts import Read
from ..results import prompt_coords, run_card
from ..tokens import token_texts
from ..trace import Trace
from .editing import STATES, Given, Scales, chosen_layers, reader

SIDES = ("before", "after")


@torch.no_grad()
def before_after(
    trace: Trace,
    vectors: Any = None,
    scale: Any = 1.0,
    after: Trace | None = None,
    layers: Sequence[int] | int | None = None,
    position: Read = -1,
    site: str = "resid_post",
    top: int = 5,
) -> xr.Dataset:
    """The top tokens of every layer, before and after one edit.

    Args:
        vectors, scale: one vector at one strength or schedule, added to each stored state by itself (a readout edit).
        after: instead, an edited run of the same prompts, `model.trace(prompts, edits=...)` (an intervention).

    Returns:
        Dataset over prompt, layer, side (`before`, `after`), rank: `token_id`, `token`, `probability`; over prompt,
        layer: `changed` (another token on top), `changed_set` (other tokens among the top ones); over prompt:
        `n_changed`. Attribute `operation` says which of the two it is.

    Raises:
        BadInput: not exactly one of `vectors` and `after`, a grid of vectors or scales, or a run of other prompts.
    """
    model, prompts = trace.model, trace.prompts
    if (vectors is None) == (after is None):
        raise BadInput("Give either a vector (a readout edit) or an edited run `after` (an intervention).")
    if after is not None and not torch.equal(after.prompts.ids, prompts.ids):
        raise BadInput("The edited run is of other prompts. Trace the same ones: model.trace(prompts, edits=...).")
    if site not in STATES:
        raise BadInput(f"States of the stream are compared ({', '.join(STATES)}), not {site}.")
    chosen, at = chosen_layers(model, site, layers), prompts.at(position)
    top = min(top, model.vocab_size)
    given, scales = (None, None) if vectors is None else (Given.of(model, vectors, len(prompts)), Scales.of(scale))
    if given is not None and scales is not None and (given.n > 1 or scales.axis):
        raise BadInput(
            "Before and after are compared for one vector at one strength. Choose them, or use readout_edit."
        )
    ids = np.zeros((len(prompts), len(chosen), 2, top), dtype=np.int64)
    probability = np.zeros(ids.shape)
    for k, layer in enumerate(chosen):
        own = trace.rows(site, layer, at)
        if after is not None:
            edited = after.rows(site, layer, at)
        else:
            assert given is not None and scales is not None
            vector = given.vectors[0].to(own.device)
            edited = (own.double() + scales.at(layer)[0] * vector).to(own.dtype)
        for side, state in enumerate((own, edited)):
            for some, logits in model.read_in_parts(state, reader(prompts, site, layer)):
                values, best = torch.softmax(logits.double(), -1).topk(top)
                ids[some, k, side], probability[some, k, side] = best.cpu().numpy(), values.cpu().numpy()
    unique = np.unique(ids)
    names = dict(zip(unique.tolist(), token_texts(model.tokenizer, unique.tolist()), strict=True))
    dims = ("prompt", "layer", "side", "rank")
    changed = ids[:, :, 0, 0] != ids[:, :, 1, 0]
    sets = (np.sort(ids[:, :, 0], -1) != np.sort(ids[:, :, 1], -1)).any(-1)
    operation = "readout edit" if after is None else "intervention"
    return xr.Dataset(
        {
            "token_id": (dims, ids),
            "token": (dims, np.vectorize(names.__getitem__, otypes=[str])(ids)),
            "probability": (dims, probability),
            "changed": (dims[:2], changed),
            "changed_set": (dims[:2], sets),
            "n_changed": (dims[0], changed.sum(1)),
        },
        {**prompt_coords(prompts), "layer": chosen, "side": list(SIDES)},
        run_card(model, prompts, operation=operation, site=site, position=str(position), units="probability"),
    )
