"""Where every head looks: attention patterns as a labelled array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from ..certificate import ANALYSES
from ..results import run_card, token_grid
from ..trace import Trace


@torch.no_grad()
def attention_patterns(trace: Trace, prompts: Sequence[int] | None = None) -> xr.DataArray:
    """The attention of every head.

    Args:
        trace: a run. prompts: which of its prompts; default all of them.

    Returns:
        DataArray over prompt, layer, head, query and key, from 0 to 1, float32; padding is NaN. Coordinate over prompt
        and key: `input_token`.

    Raises:
        Refused: patterns are not certified.
    """
    model, asked = trace.model, trace.prompts
    model.certificate.require("Attention patterns", ANALYSES["attention patterns, q, k, v"])
    chosen = list(range(len(asked))) if prompts is None else list(prompts)
    lengths = [int(asked.lengths[i]) for i in chosen]
    n = asked.n_positions if prompts is None else max(lengths)
    values = np.full((len(chosen), model.n_layers, model.n_heads, n, n), np.nan, dtype=np.float32)
    for layer in range(model.n_layers):
        for some, seen in trace.each(layer, ["pattern"]):
            pattern = seen["pattern"]  # [prompt, head, query, key]
            for row, (i, length) in enumerate(zip(chosen, lengths, strict=True)):
                if some.start <= i < some.stop:
                    one = pattern[i - some.start, :, :length, :length]
                    values[row, layer, :, :length, :length] = one.float().cpu().numpy()
    coords = {
        "prompt": np.asarray(chosen),
        "text": ("prompt", [asked.texts[i] for i in chosen]),
        "family": ("prompt", [asked.families[i] for i in chosen]),
        "layer": np.arange(model.n_layers),
        "head": np.arange(model.n_heads),
        "input_token": (("prompt", "key"), token_grid(asked)[chosen][:, :n]),
    }
    card = run_card(model, asked, readout="attention", units="attention, 0 to 1")
    dims = ("prompt", "layer", "head", "query", "key")
    return xr.DataArray(values, dims=dims, coords=coords, name="attention", attrs=card)
