"""What must hold on these very texts before the study's numbers mean anything."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ... import sweep
from ...anatomy.compare import tolerance
from ...edits.cells import Edit
from ...metrics import next_token_log_prob
from ...model import Model
from ...prompts import Prompts
from ..study import Check
from .arms import Arms
from .material import Material
from .measure import FIRST

FEW = 8
"""Texts that are run whole for checking."""


def checks(model: Model, texts: Material, made: Arms, measured: xr.Dataset) -> list[Check]:
    """Texts apart; bases orthonormal; the removal is what it says; sweeps are whole runs; nothing leaks back."""
    allowed = tolerance(model.dtype)
    some = texts.test[list(range(min(FEW, len(texts.test))))]
    both = len({tuple(r) for r in _rows(texts.fit)} & {tuple(r) for r in _rows(texts.test)})
    statement = "number of tested texts, token by token, that are among the fitted ones"
    return [
        Check("texts apart", statement, float(both), 1e-9),
        _orthonormal(made),
        *_removal(model, some, made, allowed),
        _whole_runs(model, some, made, measured, allowed),
        _no_leak(model, some, made, measured, allowed),
    ]


def _rows(prompts: Prompts) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(prompts.ids, prompts.lengths.tolist(), strict=True)]


def _orthonormal(made: Arms) -> Check:
    worst = max(
        float((s.basis @ s.basis.T - torch.eye(s.rank, dtype=s.basis.dtype)).abs().max())
        for arm in made.every
        if arm.spaces is not None
        for s in arm.spaces.values()
    )
    falls = max(float(s.eigenvalues.diff().max()) / s.total for s in made.spectra.values() if s.width > 1)
    return Check(
        "components",
        "bases are orthonormal and variances descend: largest deviation from the identity, or rise of a variance",
        max(worst, falls, 0.0),
        1e-9,
    )


def _removal(model: Model, some: Prompts, made: Arms, allowed: float) -> list[Check]:
    """At the site of edited runs: nothing but the mean is left in the subspace, and nothing else has moved."""
    left = moved = first = size = 0.0
    keep = some.mask.clone()
    keep[:, 0] = False
    for layer, space in made.removed.items():
        old = model.trace(some)[space.site, layer].double().cpu()
        new = model.trace(some, edits=made.of("removed")[0].at(layer))[space.site, layer].double().cpu()
        inside = ((new - space.mean) @ space.basis.T)[keep]
        before = ((old - space.mean) @ space.basis.T)[keep]
        step = (new - old)[keep]
        scale = float(old[keep].abs().max())
        left = max(left, float(inside.abs().max()) / max(float(before.abs().max()), scale))
        moved = max(moved, float((step - step @ space.basis.T @ space.basis).abs().max()) / scale)
        first = max(first, float((new - old)[:, 0].abs().max()))
        if made.of("same norm"):
            size = max(size, _size(model, some, made, layer, old, keep, before))
    made_checks = [
        Check("removed", "what varies in the subspace after its removal, relative to before", left, allowed),
        Check("nothing else", "what the removal moved outside the subspace, relative to the values", moved, allowed),
        Check("first position", "change of the activation at position 0, which is not edited", first, 1e-12),
    ]
    if made.of("same norm"):
        statement = "norm of the random perturbation against the norm of what is removed, token by token"
        made_checks.append(Check("same norm", statement, size, 10 * allowed))
    return made_checks


def _size(model: Model, some: Prompts, made: Arms, layer: int, old: Tensor, keep: Tensor, before: Tensor) -> float:
    arm, site = made.of("same norm")[0], made.removed[layer].site
    step = (model.trace(some, edits=arm.at(layer))[site, layer].double().cpu() - old)[keep].norm(dim=-1)
    asked = before.norm(dim=-1)
    return float((step - asked).abs().max() / asked.max())


def _whole_runs(model: Model, some: Prompts, made: Arms, measured: xr.Dataset, allowed: float) -> Check:
    """The sweep's effect on every token against two runs of the whole model with ordinary hooks."""
    clean, worst, most = _next(model.trace(some).logits, some), 0.0, 1.0
    for i, layer in enumerate(sorted(made.removed)):
        edited = _next(model.trace(some, edits=made.of("removed")[0].at(layer)).logits, some)
        whole = (edited - clean)[:, FIRST - 1 :]
        swept = torch.from_numpy(measured["token_effect"].values[: len(some), i])[:, FIRST : some.n_positions]
        real = some.mask[:, FIRST:]
        worst = max(worst, float((whole - swept)[real].abs().max()))
        most = max(most, float(clean[:, FIRST - 1 :][real].abs().max()))
    return Check(
        "sweep against whole runs",
        "effect on every token from the edited layer upwards, and by running the whole model edited; relative to the "
        "largest |log-probability|",
        worst / most,
        allowed,
    )


def _next(logits: Tensor, prompts: Prompts) -> Tensor:  # [prompt, position - 1]
    """Log-probability of the token that follows."""
    p = torch.log_softmax(logits.double().cpu()[:, :-1].nan_to_num(), -1)
    return p.gather(-1, prompts.ids[:, 1:, None])[..., 0]


def _no_leak(model: Model, some: Prompts, made: Arms, measured: xr.Dataset, allowed: float) -> Check:
    """Cut every text in the middle: what was said of the tokens before must stay."""
    half = (some.lengths // 2).clamp_min(min(3, int(some.lengths.min())))
    cut = some.cut(half)
    worst, most = 0.0, 1.0
    for kind in ("removed", "same norm"):
        for arm in made.of(kind)[:1]:
            short, long = (_effects(model, p, arm.edits) for p in (cut, some))
            n = short.shape[-1]
            here = np.isfinite(short[:, :, FIRST - 1 :])
            worst = max(worst, float(np.abs(short - long[:, :, :n])[:, :, FIRST - 1 :][here].max(initial=0.0)))
            most = max(most, float(np.abs(long[np.isfinite(long)]).max(initial=0.0)))
    return Check(
        "no leak from later tokens",
        "change of the effects on earlier tokens when each text is cut in its middle, in nats",
        worst / most,
        10 * allowed,
    )


def _effects(model: Model, prompts: Prompts, edits: Edit) -> np.ndarray:  # [prompt, layer, read]
    found = sweep(model, prompts, edits, next_token_log_prob)
    assert isinstance(found, xr.Dataset)
    return np.asarray(found["effect"].transpose("prompt", "layer", "read").values)
