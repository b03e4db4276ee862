"""What the edits do to the next token: text-level means, tests over layers, comparisons with the controls.

The number behind everything is d_t = log p(x_t | before) in the edited run minus the same in the unedited one, in nats
for every token that an edit can reach: positions from 1 are edited, so tokens from 2 are scored. Negative: the token
has become less likely. Tokens of one text are not independent, so texts (or families of texts) are the unit: a text's
mean over its tokens is one observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ... import sweep
from ...errors import Refused
from ...geometry.moments import recorded_rows
from ...metrics import next_token_kl, next_token_log_prob
from ...model import Model
from ...parts import slices
from ...prompts import Prompts
from ...results import prompt_coords
from ...stats import bootstrap, max_t, mean_interval, normalized_effect
from .arms import DRAWN, Arm, Arms, taken

Array = NDArray[np.float64]
FIRST = 2
"""The first token that is scored: position 0 is not edited, and token 1 is predicted there."""
BUDGET = 1024
GRID = 2**23
"""Numbers [prompt, layer, edit, read] of one sweep: more edits than that are swept some at a time."""


def measure(model: Model, test: Prompts, made: Arms) -> xr.Dataset:
    """Run every edit.

    Returns:
        Dataset over prompt, layer, arm: `effect`, the text's mean of d_t in nats a token; `kl`, its mean KL from the
        unedited to the edited distribution (NaN for all but the first draw of a control, and for single components);
        `norm`, its mean of |new - old| at the edited site over the tokens whose prediction is scored. Over prompt,
        layer, position: `token_effect`, d_t of the removal (NaN where it is not scored). Over prompt: `base`, the
        unedited mean log-probability.
    """
    close = [arm for arm in made.every if not arm.draw and arm.component is None]
    rest = [arm for arm in made.every if arm.draw or arm.component is not None]
    names, n, width = [arm.name for arm in made.every], len(test), test.n_positions
    effect = np.full((n, len(made.spectra), len(names)), np.nan)
    kl, token = np.full_like(effect, np.nan), np.full((n, len(made.spectra), width), np.nan)
    for metrics, group in (([next_token_log_prob, next_token_kl], close), ([next_token_log_prob], rest)):
        for some in slices(len(group), max(1, GRID // (n * len(made.spectra) * width * len(metrics)))):
            swept, found = [arm.name for arm in group[some]], _swept(model, test, group[some], metrics)
            index = [names.index(name) for name in swept]
            each = found.sel(edit=swept).transpose("prompt", "layer", "edit", "read", ...)
            change = each["effect"] if len(metrics) == 1 else each["effect"].sel(metric="next_token_log_prob")
            moved = change.values
            effect[:, :, index] = scored_mean(moved)
            if group is close:
                kl[:, :, index] = scored_mean(each["value"].sel(metric="next_token_kl").values)
            if "removed" in swept:
                token[:, :, 1:] = moved[:, :, swept.index("removed")]
                base, first = found["base"].sel(metric="next_token_log_prob").values, found.attrs
    token[:, :, :FIRST] = np.nan
    token = token.round(7)  # below what float32 can tell, and half the size of the file
    dims = ("prompt", "layer", "arm")
    return xr.Dataset(
        {
            "effect": (dims, effect),
            "kl": (dims, kl),
            "norm": (dims, norms(model, test, made)),
            "token_effect": (("prompt", "layer", "position"), token),
            "base": ("prompt", scored_mean(base)),
        },
        {
            **prompt_coords(test),
            "layer": sorted(made.spectra),
            "arm": names,
            "kind": ("arm", [arm.kind for arm in made.every]),
        },
        {"path": first["path"], "plan": first["plan"], "units": "nats a token"},
    )


def _swept(model: Model, test: Prompts, some: Sequence[Arm], metric: Any) -> xr.Dataset:
    found = sweep(model, test, {arm.name: arm.edits for arm in some}, metric, budget=max(BUDGET, test.n_positions))
    assert isinstance(found, xr.Dataset)
    return found


def scored_mean(values: Array) -> Array:
    """Mean over the reads [..., read] that predict a scored token; read r predicts token r + 1."""
    return np.nanmean(values[..., FIRST - 1 :], axis=-1)


def norms(model: Model, test: Prompts, made: Arms) -> Array:
    """Mean of |new - old| over the edited tokens whose prediction is scored, [prompt, layer, arm]."""
    layers, site = sorted(made.spectra), made.removed[min(made.removed)].site
    total = np.zeros((len(test), len(layers), len(made.every)))
    count = np.zeros(len(test))
    for rows in recorded_rows(model, test, [(site, layer) for layer in layers], FIRST - 1):
        keep = rows.position < test.lengths[rows.prompt] - 1
        prompt = rows.prompt[keep].numpy()
        np.add.at(count, prompt, 1)
        for i, layer in enumerate(layers):
            values = rows.rows[site, layer][keep].double()
            sizes = np.stack([taken(arm, values, layer).numpy() for arm in made.every], 1)
            np.add.at(total[:, i], prompt, sizes)
    return total / count[:, None, None]


# -- what it amounts to -------------------------------------------------------------------------------------------


def by_layer(measured: xr.Dataset, made: Arms, held_out: xr.Dataset, level: float) -> xr.Dataset:
    """The removal layer by layer.

    Returns:
        Dataset over layer: `effect` with `low`, `high` (t interval over families); `t`, `p`, `p_corrected` (sign-flip
        max-T over layers); `kl` with interval; `per_norm` = mean effect / mean removed norm with a Fieller interval;
        `norm`; `share` of variance among the fitted tokens and `share_tested` among the tested ones; `rank`, `span`.
    """
    families = [str(f) for f in measured["family"].values]
    effect = measured["effect"].sel(arm="removed").values
    interval, test = mean_interval(effect, families, level=level), max_t(effect, families, alpha=1 - level)
    kl = mean_interval(measured["kl"].sel(arm="removed").values, families, level=level)
    norm = measured["norm"].sel(arm="removed").values
    ratio = np.array([per_norm(effect[:, i], norm[:, i], families, level) for i in range(effect.shape[1])])
    layers = [int(n) for n in measured["layer"].values]
    data = {
        "effect": interval.estimate, "low": interval.low, "high": interval.high,
        "t": test.t, "p": test.p, "p_corrected": test.p_corrected, "skewness": test.skewness,
        "kl": kl.estimate, "kl_low": kl.low, "kl_high": kl.high,
        "per_norm": ratio[:, 0], "per_norm_low": ratio[:, 1], "per_norm_high": ratio[:, 2], "norm": norm.mean(0),
        "share": np.array([made.removed[n].share for n in layers]),
        "share_tested": held_out["share_removed"].values,
        "rank": np.array([made.removed[n].rank for n in layers]),
        "span": np.array([made.span[n] for n in layers]),
    }  # fmt: skip
    attrs = {
        "level": level, "families": int(interval.units), "texts": len(families), "smallest_p": test.smallest_p,
        "warning": test.warning, "t_critical": test.t_critical,
    }  # fmt: skip
    return xr.Dataset({k: ("layer", v) for k, v in data.items()}, {"layer": layers}, attrs)


def per_norm(effect: Array, norm: Array, families: Sequence[str], level: float) -> tuple[float, float, float]:
    """Mean effect over mean norm with its Fieller interval; NaN where nothing was moved."""
    if not (norm > 0).all():
        return (float("nan"),) * 3
    try:
        found = normalized_effect(effect, norm, np.zeros_like(norm), families, level=level)
    except Refused:
        return (float("nan"),) * 3
    return float(found.estimate), float(found.low), float(found.high)


def against_controls(measured: xr.Dataset, level: float) -> xr.Dataset:
    """The removal against each kind of control, layer by layer.

    Returns:
        Dataset over layer and kind: `effect` of the control, averaged over its draws, with `low`, `high` over families;
        `difference` = removal - control with interval, and `p_corrected` by sign-flip max-T over all layers and kinds
        of control; `per_norm` of the control with interval, `per_norm_difference` = removal - control (no interval);
        `draws`, `beaten`: how many draws the removal exceeds in the size of its mean effect; `p_rank` by `rank_p`;
        `kl`. Kinds that are drawn come first, then rejection, mean shift and mean, which have one draw.
    """
    families = [str(f) for f in measured["family"].values]
    kinds = [k for k in (*DRAWN, "rejected", "mean shift", "mean") if (measured["kind"] == k).any()]
    main, main_norm = measured["effect"].sel(arm="removed").values, measured["norm"].sel(arm="removed").values
    found: dict[str, list[Any]] = {}
    gap = []
    for kind in kinds:
        some = measured.isel(arm=np.flatnonzero(measured["kind"].values == kind))
        each = some["effect"].transpose("prompt", "layer", "arm").values
        mean, norm = each.mean(-1), some["norm"].transpose("prompt", "layer", "arm").values.mean(-1)
        interval, apart = (mean_interval(x, families, level=level) for x in (mean, main - mean))
        gap.append(main - mean)
        ratio = np.array([per_norm(mean[:, i], norm[:, i], families, level) for i in range(mean.shape[1])])
        own = np.array([per_norm(main[:, i], main_norm[:, i], families, level)[0] for i in range(mean.shape[1])])
        draws = each.mean(0)  # [layer, draw]
        one = {
            "effect": interval.estimate, "low": interval.low, "high": interval.high,
            "difference": apart.estimate, "difference_low": apart.low, "difference_high": apart.high,
            "per_norm": ratio[:, 0], "per_norm_low": ratio[:, 1], "per_norm_high": ratio[:, 2],
            "per_norm_difference": own - ratio[:, 0], "norm": norm.mean(0),
            "draws": np.full(mean.shape[1], draws.shape[1]),
            "beaten": (np.abs(main.mean(0))[:, None] > np.abs(draws)).sum(1),
            "p_rank": rank_p(main.mean(0), draws),
            "kl": np.nanmean(some["kl"].transpose("prompt", "layer", "arm").values, axis=(0, 2)),
        }  # fmt: skip
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    test = max_t(np.stack(gap, -1), families, alpha=1 - level)  # [layer, kind]
    data = {name: (("layer", "control"), np.stack(value, -1)) for name, value in found.items()}
    data |= {"p_corrected": (("layer", "control"), test.p_corrected), "t": (("layer", "control"), test.t)}
    coords = {"layer": measured["layer"].values, "control": kinds}
    return xr.Dataset(data, coords, {"level": level, "families": test.families})


def rank_p(main: Array, draws: Array) -> Array:
    """(1 + #{|draw| >= |main|}) / (1 + draws), of means [...] against those of draws [..., draw]: how often a control
    drawn at random has an effect as large. Never below 1 / (1 + draws)."""
    reached = (np.abs(draws) >= np.abs(np.asarray(main))[..., None]).sum(-1)
    return np.asarray((1 + reached) / (1 + np.shape(draws)[-1]))


def components(measured: xr.Dataset, made: Arms, level: float) -> xr.Dataset | None:
    """Single components, layer by layer: effect with interval, `p_corrected` over all of them, share of variance."""
    some = [arm for arm in made.every if arm.component is not None]
    if not some:
        return None
    families = [str(f) for f in measured["family"].values]
    effect = measured["effect"].sel(arm=[arm.name for arm in some]).transpose("prompt", "layer", "arm").values
    interval, test = mean_interval(effect, families, level=level), max_t(effect, families, alpha=1 - level)
    layers = [int(n) for n in measured["layer"].values]
    share = np.array([[float(made.spectra[n].shares[(arm.component or 1) - 1]) for arm in some] for n in layers])
    norm = measured["norm"].sel(arm=[arm.name for arm in some]).transpose("prompt", "layer", "arm").values.mean(0)
    data = {
        "effect": interval.estimate, "low": interval.low, "high": interval.high, "p_corrected": test.p_corrected,
        "share": share, "norm": norm,
    }  # fmt: skip
    coords = {"layer": layers, "component": [arm.component for arm in some]}
    return xr.Dataset({k: (("layer", "component"), v) for k, v in data.items()}, coords, {"level": level})


def relation(measured: xr.Dataset, layers: xr.Dataset, level: float, seed: int) -> dict[str, float]:
    """Pearson's r over layers between the removal's share of variance and the size of its effect, with an interval over
    families; empty with fewer than three layers, or where one of the two does not vary.

    Layers are no sample: the interval says how far r would move with other texts, not with other models.
    """
    share, effect = layers["share"].values, measured["effect"].sel(arm="removed").values
    if len(share) < 3 or np.ptp(share) == 0 or np.ptp(effect.mean(0)) == 0:
        return {}

    def r(rows: Array) -> Array:
        size = np.abs(rows.mean(0))
        return np.array(np.corrcoef(share, size)[0, 1] if np.ptp(size) > 0 else 0.0)

    families = [str(f) for f in measured["family"].values]
    found = bootstrap(effect, r, families, level=level, method="percentile", seed=seed)
    return {"r": float(found.estimate), "low": float(found.low), "high": float(found.high), "layers": len(share)}
