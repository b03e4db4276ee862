"""From a sweep to means over families: intervals, one correction for the whole grid, shares of the clean effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import sweep
from ..errors import Refused
from ..model import Model
from ..parts import TOKENS
from ..prompts import Prompts
from ..stats import max_t, mean_interval, normalized_effect

Array = NDArray[np.float64]


def swept(model: Model, base: Prompts, edits: Any, metric: Any = "logit_diff") -> xr.Dataset:
    """`cutaway.sweep` with all prompts of a usual task in one group: a wave is then about one copy of them."""
    return sweep(model, base, edits, metric, budget=min(max(1024, len(base) * base.n_positions), TOKENS))


def effects(
    values: xr.DataArray, base: Array, source: Array, families: Sequence[str], level: float = 0.95
) -> xr.Dataset:
    """What a grid of edits does on average over families.

    Args:
        values: metric of the edited runs, dims prompt and the grid's own. base: of the unedited runs, [prompt].
        source: of the runs that values were taken from, [prompt].

    Returns:
        Dataset over the grid: `effect` = mean of (edited - base) in the metric's unit, with a t interval over families
        `low`, `high`; `p_corrected`, sign-flip max-T over the whole grid; `share`, the ratio of means of effect to
        (source - base), with a Fieller interval, where source and base can be told apart (else NaN, and the attribute
        `no_share` says why). Over prompt and grid: `value`; over prompt: `base`.
    """
    dims, grid = values.dims[1:], {d: values[d] for d in values.dims[1:] if d in values.coords}
    plain = np.asarray(values.values, dtype=np.float64)
    change = plain - np.asarray(base, dtype=np.float64).reshape((-1,) + (1,) * len(dims))
    interval, test = mean_interval(change, families, level=level), max_t(change, families, alpha=1 - level)
    data: dict[str, Any] = {
        "value": (values.dims, plain),
        "base": ("prompt", np.asarray(base, dtype=np.float64)),
        "effect": (dims, interval.estimate),
        "low": (dims, interval.low),
        "high": (dims, interval.high),
        "p_corrected": (dims, test.p_corrected),
    }
    attrs: dict[str, Any] = {
        "level": level,
        "families": int(interval.units),
        "tested": test.tested,
        "smallest_p": test.smallest_p,
        "warning": test.warning,
    }
    try:
        share = normalized_effect(plain, source, base, families, level=level)
        found = (share.estimate, share.low, share.high)
        attrs["difference"] = share.difference
    except Refused as error:
        found = (np.full(change.shape[1:], np.nan),) * 3
        attrs["no_share"] = str(error)
    data |= {name: (dims, x) for name, x in zip(("share", "share_low", "share_high"), found, strict=True)}
    coords: dict[Any, Any] = {k: values[k] for k in ("prompt", "text", "family") if k in values.coords}
    coords |= grid
    return xr.Dataset(data, coords, attrs)


def with_example(found: xr.Dataset, clean: Prompts, other: Prompts) -> xr.Dataset:
    """With the first prompt's tokens at each position of the grid, `clean_token` and `other_token`, as an example."""
    if "position" not in found["effect"].dims:
        return found
    wanted = found["position"].values.tolist()
    tokens = [[_first(run, p) for p in wanted] for run in (clean, other)]
    return found.assign_coords(clean_token=("position", tokens[0]), other_token=("position", tokens[1]))


def _first(run: Prompts, position: str | int) -> str:
    """The first prompt's token at a role or an index; "" beyond its end."""
    at = int(run.roles[position][0]) if position in run.roles else int(position)
    return run.tokens[0][at] if at < len(run.tokens[0]) else ""


def part(found: xr.Dataset, prompts: Sequence[int], source: Array, level: float = 0.95) -> xr.Dataset:
    """The same on some of the prompts."""
    index = list(prompts)
    some = found.isel(prompt=index)
    return effects(some["value"], some["base"].values, source[index], [str(f) for f in some["family"].values], level)
