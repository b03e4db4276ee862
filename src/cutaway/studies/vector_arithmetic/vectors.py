"""Which vector: taken on some items, its layer and strength chosen on the same, so that other items can test it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ...controls import Material
from ...directions import Direction, activations, difference_of_means, update
from ...edits.making import add
from ...errors import BadInput, Refused
from ...finite import NotFinite
from ...geometry.moments import moments
from ...model import Model
from ...readout.linear import LinearReadout
from ...steering import Where, swept
from .items import Relation


@dataclass(frozen=True, eq=False)
class Chosen:
    """A vector with where and how strongly it is used, and the table it was chosen from."""

    direction: Direction
    where: Where
    table: xr.Dataset


def choose(
    model: Model,
    fit: Relation,
    site: str,
    strengths: tuple[float, ...],
    layer: int | None = None,
    strength: float | None = None,
) -> Chosen:
    """The mean update of the layer, and the strength, with which the fitting items' own answers come out on top most
    often where nobody asked for them; at equal numbers, with the largest mean logit change.

    The vector of each layer is added at that layer, at the last position of prompts that repeat the item.
    """
    layers = list(range(model.n_layers)) if layer is None else [layer]
    scales = list(strengths) if strength is None else [strength]
    vectors = {n: update(model, fit.prompts, n, site, name=f"{fit.name} vector, L{n}") for n in layers}
    edit = add(site, {n: v.vector for n, v in vectors.items()}, scales, layers=layers, positions=-1)
    found = swept(model, fit.elsewhere, edit, ["logit_diff", "rank"])
    change = found["effect"].sel(metric="logit_diff", drop=True).mean("prompt").transpose("layer", "scale")
    success = (found["value"].sel(metric="rank", drop=True) == 0).mean("prompt").transpose("layer", "scale")
    table = xr.Dataset({"logit_change": change, "success": success}, attrs=dict(found.attrs))
    order = np.lexsort((change.values.ravel(), success.values.ravel()))
    k, s = np.unravel_index(int(order[-1]), success.shape)
    where = Where((layers[int(k)],), -1, "add", site, float(scales[int(s)]))
    return Chosen(vectors[layers[int(k)]], where, table)


def material(model: Model, fit: Relation, other: Relation | None, test: Relation, site: str, layer: int) -> Material:
    """What the control ladder is made of. Nothing of the tested items is in it but their tokens' readout directions."""
    reference = moments(model, fit.prompts, [(site, layer)])[site, layer]
    rows = torch.cat([activations(model, p, site, layer) for p in (fit.prompts, fit.elsewhere)])
    readout = LinearReadout(model)
    assert test.prompts.answers is not None and test.prompts.foils is not None
    tokens = torch.cat([test.prompts.answers, test.prompts.foils])
    few = len(tokens) <= model.d_model // 2  # more would leave next to nothing of any vector
    return Material(
        mean=reference.mean,
        covariance=reference.covariance,
        rows=rows,
        boundary=readout.direction(test.prompts.answers, test.prompts.foils).cpu(),
        other=None if other is None else update(model, other.prompts, layer, site, name=f"{other.name} vector"),
        same=update(model, fit.prompts[[0]], layer, site, name=f"vector of “{fit.prompts.texts[0]}”"),
        readable=model.directions(tokens).cpu() if few else None,
    )


def kinds(model: Model, fit: Relation, other: Relation, chosen: Direction, site: str) -> dict[str, Direction]:
    """Other ways to take a vector for the same relation, all at the chosen layer and with the chosen vector's norm."""
    assert chosen.layer is not None
    layer = chosen.layer
    made: dict[str, Any] = {
        "mean update": lambda: chosen,
        "one prompt's update": lambda: update(model, fit.prompts[[0]], layer, site),
        "minus another relation": lambda: difference_of_means(model, fit.prompts, other.prompts, layer, site),
        "minus elsewhere": lambda: difference_of_means(model, fit.prompts, fit.elsewhere, layer, site),
        "state, minus another relation": lambda: difference_of_means(model, fit.prompts, other.prompts, layer),
        "attention's update": lambda: update(model, fit.prompts, layer, "attn_out"),
        "best head's update": lambda: _best_head(model, fit, layer),
    }
    found: dict[str, Direction] = {}
    for name, make in made.items():
        try:
            found[name] = make().scaled_to(chosen.norm)
        except NotFinite:
            raise
        except (BadInput, Refused):
            continue  # this model has no such part, or it writes nothing
    return found


def _best_head(model: Model, fit: Relation, layer: int) -> Direction:
    """Of the heads of a layer, the one whose mean write points most from the arguments to the answers, by cosine."""
    readout = LinearReadout(model)
    assert fit.prompts.answers is not None and fit.prompts.foils is not None
    toward = readout.direction(fit.prompts.answers, fit.prompts.foils).cpu().mean(0)
    best: tuple[float, Direction] | None = None
    for head in range(model.n_heads):
        one = update(model, fit.prompts, layer, "attn_out", head)
        if one.norm == 0:
            continue
        value = cosine(one.vector, toward)
        if best is None or value > best[0]:
            best = (value, one)
    if best is None:
        raise Refused(f"No head of layer {layer} writes anything.")
    return best[1]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))
