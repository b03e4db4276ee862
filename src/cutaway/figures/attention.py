"""Attention of heads on one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from .. import views
from ..views import Picture
from ..wording import prose


def attention_figure(
    data: xr.DataArray,
    text: str,
    scores: Mapping[str, np.ndarray] | None = None,
    prompt: int | str | None = None,
    first: int = 0,
    code: str = "",
) -> Picture:
    """Every head of `data` on one prompt.

    Args:
        data: weights over (layer, head, query, key), with the texts of tokens as the coordinate `input_token` [key].
        text: the prompt. scores: [layer, head] each, what heads can be sorted by. first: the head that is shown first,
            counted through layers and heads.
    """
    flat = data.transpose("layer", "head", "query", "key")
    layers, heads, n = flat["layer"].values, flat["head"].values, flat.sizes["key"]
    at = [(i, j) for i in range(len(layers)) for j in range(len(heads))]
    places: Sequence[dict[str, int]] = [{"layer": int(layers[i]), "head": int(heads[j])} for i, j in at]
    names = [f"L{layers[i]}H{heads[j]}" for i, j in at]
    weights = np.stack([flat.values[i, j] for i, j in at]).reshape(len(at), n, n)
    ranked = {name: [float(values[i, j]) for i, j in at] for name, values in (scores or {}).items()}
    caption = (
        f"Attention on “{prose(text, 240)}”: each head's weights from 0 to 1, a row for who looks, a column for where; "
        "shading by the square root, so that small weights can be seen."
    )
    tokens = [str(t) for t in data["input_token"].values]
    title = f"{len(names)} heads"
    held = {} if prompt is None else {"prompt": prompt}
    return views.attention(weights, names, tokens, title, caption, places, ranked, held, code, first)
