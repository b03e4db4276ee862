"""Means over families of prompts: the numbers under every picture of a result that has several prompts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr

from ..stats import max_t, mean_interval

_PARTS = {"effect": "estimate", "low": "low", "high": "high"}


def over_families(values: xr.DataArray, tested: bool = False) -> xr.Dataset:
    """The mean over families of prompts, with t intervals where there are several and no number is missing.

    Args:
        values: over `prompt`, with its `family`, and any other dimensions.
        tested: whether 0 is what nothing would be, so that a test against it says something.

    Returns:
        Dataset over the other dimensions: `effect`; with several families `low`, `high`; if tested `p_corrected`, by
        sign-flip max-T over all cells. Attribute `mean`: what it is over, in words.
    """
    dims = tuple(d for d in values.dims if d != "prompt")
    array = np.asarray(values.transpose("prompt", *dims).values, dtype=float)
    named = "family" in values.coords
    families = [str(f) for f in values["family"].values] if named else list(map(str, range(len(array))))
    count = len(set(families))
    data: dict[str, Any]
    if count > 1 and np.isfinite(array).all():
        interval, mean = (
            mean_interval(array, families),
            f"mean over {count} {'families of prompts' if named else 'prompts'}",
        )
        data = {name: (dims, getattr(interval, part)) for name, part in _PARTS.items()}
        if tested:
            data["p_corrected"] = (dims, max_t(array, families).p_corrected)
    else:
        mean = f"mean over {len(array)} prompts" if len(array) > 1 else "one prompt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a cell that no prompt has stays empty
            data = {"effect": (dims, np.nanmean(array, axis=0))}
    coords = {d: values[d] for d in dims if d in values.coords}
    return xr.Dataset(data, coords, {"level": 0.95, "mean": mean})
