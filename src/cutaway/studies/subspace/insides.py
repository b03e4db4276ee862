"""What a removal does to the activations themselves: before and after at the site, and down the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ...geometry.moments import moments, recorded_rows
from ...model import Model
from ...prompts import Prompts
from ...stats import mean_interval
from ...trace import Trace
from .arms import Arms, after

Array = NDArray[np.float64]
SAMPLE = 2000
"""Numbers kept of a distribution, evenly spread over all of them."""
KEPT = 64
"""Components of a spectrum that are kept, from the first."""
FEATURES = 40
"""Features whose covariances are drawn: those with the largest variance."""
LOOKED = 24
"""Texts of which hidden states are compared."""


def held_out(model: Model, test: Prompts, made: Arms) -> xr.Dataset:
    """How much of the tested tokens' variance the removal and every single component holds, and their spectra.

    Returns:
        Dataset over layer: `share_removed`; over layer and component: `share_fitted`, the fitted tokens' spectrum,
        `share_along`, the tested tokens' variance along the same components, `share_tested` and `share_after`, the
        spectrum of the tested tokens and what is left of it (relative to the same total) after the removal; of the
        first `KEPT` components each.
    """
    layers = sorted(made.spectra)
    site = made.removed[layers[0]].site
    found = moments(model, test, [(site, n) for n in layers])
    rows: dict[str, list[Any]] = {}
    for n in layers:
        fitted, space, covariance = made.spectra[n], made.removed[n], found[site, n].covariance
        total = float(covariance.diagonal().sum())
        rest = torch.eye(len(covariance), dtype=torch.float64) - space.basis.T @ space.basis
        one = {
            "share_fitted": fitted.shares,
            "share_along": (fitted.components @ covariance * fitted.components).sum(1) / total,
            "share_tested": torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0) / total,
            "share_after": torch.linalg.eigvalsh(rest @ covariance @ rest).flip(0).clamp_min(0) / total,
            "share_removed": (space.basis @ covariance * space.basis).sum() / total,
        }
        for name, value in one.items():
            rows.setdefault(name, []).append(value[:KEPT].numpy() if value.dim() else value.numpy())
    dims = {"share_removed": ("layer",)}
    data = {name: (dims.get(name, ("layer", "component")), np.stack(value)) for name, value in rows.items()}
    coords = {"layer": layers, "component": np.arange(1, rows["share_along"][0].size + 1)}
    return xr.Dataset(data, coords, {"tokens": found[site, layers[0]].n})


def change_over_depth(model: Model, test: Prompts, made: Arms, level: float) -> xr.Dataset:
    """|dx| / |x| of the stream after each layer when one layer is edited.

    Both are of the stream before the final norm, token by token, averaged over the positions from 1 of a text.

    Returns:
        Dataset over edited, layer (after which it is read) and kind (removal, and a random direction of equal norm):
        `change` with `low`, `high` over families; 0 exactly below the edited layer.
    """
    some = _some(test)
    keep = some.mask.clone()
    keep[:, 0] = False
    clean = _stream(model.trace(some))
    kinds = {"removed": made.of("removed")[0], "same norm": made.of("same norm")[0] if made.of("same norm") else None}
    layers = sorted(made.spectra)
    change = np.zeros((len(some), len(layers), model.n_layers, sum(v is not None for v in kinds.values())))
    for i, layer in enumerate(layers):
        for j, arm in enumerate(v for v in kinds.values() if v is not None):
            edited = _stream(model.trace(some, edits=arm.at(layer)))
            ratio = (edited - clean).norm(dim=-1) / clean.norm(dim=-1)  # [layer, prompt, position]
            change[:, i, :, j] = (ratio.where(keep, 0.0).sum(-1) / keep.sum(-1)).T.numpy()
    interval = mean_interval(change, some.families, level=level)
    dims = ("edited", "layer", "kind")
    data = {"change": (dims, interval.estimate), "low": (dims, interval.low), "high": (dims, interval.high)}
    coords = {"edited": layers, "layer": range(model.n_layers), "kind": [k for k, v in kinds.items() if v is not None]}
    return xr.Dataset(data, coords, {"level": level, "texts": len(some)})


def _stream(trace: Trace) -> Tensor:
    """What leaves each block [layer, prompt, position, d_model]; the last one's before the final norm."""
    return trace["resid_post"].double().cpu().nan_to_num()


def looks(model: Model, test: Prompts, made: Arms, layer: int, text: int) -> dict[str, xr.Dataset]:
    """One layer's activations before and after: values, covariances of features, similarities of tokens.

    Returns:
        `values`: over value, `before` and `after` at the same places, an even sample. `covariances`: over feature x
        feature_2, of the features that vary most, tokens as the sample; `entries` of all pairs of features.
        `similarities`: over token x token_2, cosines of one text's stream after the layer, position 0 left out; `pairs`
        within all looked-at texts.
    """
    space = made.removed[layer]
    key = (space.site, layer)
    old = torch.cat([found.rows[key] for found in recorded_rows(model, _some(test), [key])]).double()
    new = after(space, old)
    stride = max(1, old.numel() // SAMPLE)
    values = xr.Dataset(
        {"before": ("value", old.flatten()[::stride].numpy()), "after": ("value", new.flatten()[::stride].numpy())}
    )
    return {
        "values": values,
        "covariances": _covariances(old, new),
        "similarities": _similarities(model, test, made, layer, text),
    }


def _some(test: Prompts) -> Prompts:
    """Up to `LOOKED` texts, evenly spread, so that families that stand together do not crowd out the others."""
    return test[np.unique(np.linspace(0, len(test) - 1, min(LOOKED, len(test))).astype(int)).tolist()]


def _covariances(old: Tensor, new: Tensor) -> xr.Dataset:
    before, now = torch.cov(old.T), torch.cov(new.T)
    top = before.diagonal().topk(min(FEATURES, len(before))).indices
    pairs = torch.triu_indices(len(before), len(before), 1)
    stride = max(1, pairs.shape[1] // SAMPLE)
    i, j = pairs[:, ::stride]
    return xr.Dataset(
        {
            "before": (("feature", "feature_2"), before[top][:, top].numpy()),
            "after": (("feature", "feature_2"), now[top][:, top].numpy()),
            "entries_before": ("pair", before[i, j].numpy()),
            "entries_after": ("pair", now[i, j].numpy()),
        },
        {"feature": top.numpy(), "feature_2": top.numpy()},
    )


def _similarities(model: Model, test: Prompts, made: Arms, layer: int, text: int) -> xr.Dataset:
    some = _some(test)
    runs = {"before": model.trace(some), "after": model.trace(some, edits=made.of("removed")[0].at(layer))}
    drawn, data = test[[text]], {}
    n = int(drawn.lengths[0])
    single = {
        "before": model.trace(drawn),
        "after": model.trace(drawn, edits=made.of("removed")[0].at(layer)),
    }
    pairs: dict[str, Tensor] = {}
    for name in runs:
        data[name] = (("token", "token_2"), cosines(single[name]["resid_post", layer][0, 1:n]).numpy())
        stream, found = runs[name]["resid_post", layer], []
        for row, length in zip(stream, some.lengths.tolist(), strict=True):
            square = cosines(row[1:length])
            i, j = torch.triu_indices(len(square), len(square), 1)
            found.append(square[i, j])
        pairs[name] = torch.cat(found)
    stride = max(1, len(pairs["before"]) // SAMPLE)
    data |= {f"pairs_{k}": ("pair", v[::stride].numpy()) for k, v in pairs.items()}  # type: ignore[misc]
    data["token_text"] = ("token", np.array(drawn.tokens[0][1:n], dtype=object))  # type: ignore[assignment]
    return xr.Dataset(data, {"token": range(1, n), "token_2": range(1, n)}, {"text": text, "layer": layer})


def cosines(rows: Tensor) -> Tensor:
    """Cosine of every pair of rows [row, row], in float64; 0 with a row of zeros."""
    x = rows.double().cpu()
    size = x.norm(dim=1, keepdim=True)
    unit = x / torch.where(size > 0, size, torch.ones_like(size))
    return unit @ unit.T
