"""Targets against controls: differences of pairs, their intervals, and one correction for the whole grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats as sps

from ...stats import crossed_interval, family_means, max_t, mean_interval

Array = NDArray[np.float64]


def compare(
    target: Array,
    control: Array,
    families: Sequence[Any],
    grid: Mapping[str, Sequence[Any]],
    level: float = 0.95,
    draws: int = 10_000,
    resolution: float = 0.0,
) -> xr.Dataset:
    """Mean of target - control over families, at every cell of a grid.

    Args:
        target, control: [pair, *grid]. families: a label a pair.
        resolution: smaller differences are rounding and count as 0, lest a test find them the same in every family.

    Returns:
        Dataset over the grid. `difference` with its t interval over families `low`, `high`; `t`; `p_corrected`, by
        sign-flip max-T over the whole grid; `verdict`, 1 where the target is above, -1 below, 0 not significant at
        1 - level; `p_t` of the paired t test of each cell alone, and `p_bonferroni`, that times the number of tests
        made (the attribute `tests`), as the source does with one too many. `target`, `control`: means over families.

    Raises:
        BadInput: fewer than two families, or values that are not finite.
    """
    dims, difference = tuple(grid), np.asarray(target) - np.asarray(control)
    difference = np.where(np.abs(difference) < resolution, 0.0, difference)
    interval = mean_interval(difference, families, level=level)
    test = max_t(difference, families, draws=draws, alpha=1 - level)
    n = test.families
    p_t = np.where(test.t == 0, 1.0, 2 * sps.t.sf(np.abs(test.t), n - 1))
    data = {
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "t": test.t,
        "p_corrected": test.p_corrected,
        "verdict": verdicts(test.t, test.p_corrected, level),
        "p_t": p_t,
        "p_bonferroni": np.minimum(p_t * test.tested, 1.0),
        "skewness": test.skewness,
        "target": family_means(target, families).means.mean(0),
        "control": family_means(control, families).means.mean(0),
    }
    attrs = {
        "families": n,
        "pairs": test.prompts,
        "tests": test.tested,
        "level": level,
        "smallest_p": test.smallest_p,
        "correction": "sign-flip max-T over the whole grid",
        "warning": test.warning,
    }
    return xr.Dataset({k: (dims, v) for k, v in data.items()}, {k: list(v) for k, v in grid.items()}, attrs)


def verdicts(t: Array, p: Array, level: float) -> NDArray[np.int64]:
    """1 above, -1 below, 0 not significant."""
    return np.where(p <= 1 - level + 1e-12, np.sign(t), 0).astype(np.int64)


def by_type(
    target: Array,
    control: Array,
    families: Sequence[Any],
    types: Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    level: float = 0.95,
    resolution: float = 0.0,
) -> xr.Dataset | None:
    """`compare` for each type of target that has two families or more, with a `type` axis; None if fewer than two do.

    p-values are those of each type's own max-T times the number of types (Bonferroni), so that one correction covers
    all types and cells.
    """
    kept, found = [], []
    for kind in dict.fromkeys(types):
        index = [i for i, t in enumerate(types) if t == kind]
        mine = [families[i] for i in index]
        if len(set(mine)) >= 2:
            kept.append(kind)
            found.append(compare(target[index], control[index], mine, grid, level, resolution=resolution))
    if len(kept) < 2:
        return None
    whole = xr.concat(found, dim="type", combine_attrs="drop").assign_coords(type=kept)
    for name in ("p_corrected", "p_bonferroni"):
        whole[name] = np.minimum(whole[name] * len(kept), 1.0)
    whole["verdict"] = (("type", *grid), verdicts(whole["t"].values, whole["p_corrected"].values, level))
    whole["families"] = ("type", [one.attrs["families"] for one in found])
    return whole.assign_attrs(
        level=level,
        tests=sum(one.attrs["tests"] for one in found),
        correction="sign-flip max-T over each type's grid, times the number of types",
        smallest_p=max(one.attrs["smallest_p"] for one in found) * len(kept),
    )


def over_words(
    target: Array,
    control: Array,
    types: Sequence[str],
    words: Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    level: float = 0.95,
) -> xr.Dataset:
    """The same mean difference with the words drawn at random too: target types crossed with control words.

    `compare` speaks for other sentences with these words. This speaks for other words of these kinds, so its intervals
    are wider: `stats.crossed_interval`, each cell by itself, not corrected for their number.

    Raises:
        BadInput: one type or one control word, or a combination that no pair has.
    """
    found = crossed_interval(np.asarray(target) - np.asarray(control), types, words, level=level)
    outside = np.where((found.low > 0) | (found.high < 0), np.sign(found.estimate), 0).astype(np.int64)
    data = {"difference": found.estimate, "low": found.low, "high": found.high, "verdict": outside}
    attrs = {
        "level": level,
        "types": len(set(types)),
        "words": len(set(words)),
        "correction": "none: each interval by itself",
        "warning": found.warning,
    }
    return xr.Dataset({k: (tuple(grid), v) for k, v in data.items()}, {k: list(v) for k, v in grid.items()}, attrs)
