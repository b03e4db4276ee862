"""Which tokens a direction comes from: its energy by token, so that one token cannot pass for a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from ..parts import TOKENS
from ..prompts import Prompts
from ..results import run_card
from ..tokens import token_text
from .moments import recorded_rows
from .subspaces import Subspace

if TYPE_CHECKING:
    from ..model import Model


def energy_by_token(
    model: Model, prompts: Prompts, subspace: Subspace, top: int = 12, start: int = 1, batch: int = TOKENS
) -> xr.Dataset:
    """Share of the squared projections |V V^T (h - mean)|^2 that each token has.

    Returns:
        Dataset over `largest` (the single tokens with most): `share` of the energy of all tokens at `start` and later,
        `token`, `prompt`, `position`; over `kind` (tokens of one text taken together): `kind_share`, `kind_tokens`.
        Attributes: `effective_tokens` = (sum e)^2 / sum e^2, the number of tokens that equal shares would come from;
        `tokens`; `before`: the mean energy of a token before `start`, in units of the mean of the others.
    """
    assert subspace.layer is not None
    key = (subspace.site, subspace.layer)
    n, total, square = 0, 0.0, 0.0
    first, n_first = 0.0, 0
    by_id = torch.zeros(model.vocab_size, 2, dtype=torch.float64)
    best: list[tuple[float, int, int, int]] = []
    for rows in recorded_rows(model, prompts, [key], 0, batch):
        x = rows.rows[key].double() - subspace.mean
        energy = (x @ subspace.basis.T).square().sum(1)
        late = rows.position >= start
        first, n_first = first + float(energy[~late].sum()), n_first + int((~late).sum())
        e, ids = energy[late], rows.token_id[late]
        n, total, square = n + len(e), total + float(e.sum()), square + float(e.square().sum())
        by_id.index_add_(0, ids, torch.stack([e, torch.ones_like(e)], 1))
        some = e.topk(min(top, len(e))).indices
        found = zip(e[some], rows.prompt[late][some], rows.position[late][some], ids[some], strict=True)
        best = sorted(best + [(float(a), int(b), int(c), int(d)) for a, b, c, d in found], reverse=True)[:top]
    kinds = [int(i) for i in by_id[:, 0].topk(min(top, len(by_id))).indices if by_id[i, 1] > 0]
    total = total or 1.0
    data = {
        "share": ("largest", [e / total for e, *_ in best]),
        "prompt_of": ("largest", [p for _, p, _, _ in best]),
        "position": ("largest", [t for _, _, t, _ in best]),
        "token": ("largest", [token_text(model.tokenizer, i) for *_, i in best]),
        "kind_share": ("kind", (by_id[kinds, 0] / total).numpy()),
        "kind_tokens": ("kind", by_id[kinds, 1].numpy().astype(np.int64)),
    }
    coords = {"largest": range(len(best)), "kind": [token_text(model.tokenizer, i) for i in kinds]}
    attrs = run_card(
        model, prompts, subspace=subspace.name, layer=subspace.layer, site=subspace.site, tokens=n,
        effective_tokens=total**2 / square if square else 0.0,
        before=(first / n_first) / (total / n) if n_first and n else float("nan"),
    )  # fmt: skip
    return xr.Dataset(data, coords, attrs)
