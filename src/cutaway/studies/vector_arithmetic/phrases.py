"""Shares, p-values and null arms in the sentences of the study."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ...controls import NULL


def share(value: Any) -> str:
    """A share as a percentage without decimals, or with one where it is small."""
    value = 100 * float(value)
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def p_of(value: Any) -> str:
    """A p-value in a sentence."""
    value = float(value)
    return "—" if value != value else f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def rate(value: Any, items: int, level: float) -> str:
    """A share of items with its exact limits."""
    from ...stats import rate_interval

    found = rate_interval(round(float(value) * items), items, level=level)
    return f"{share(value)} [{share(found.low)}, {share(found.high)}]"


def beaten(table: xr.Dataset, outcome: str, level: float) -> tuple[list[str], list[str]]:
    """Null rungs whose draws reach the vector's mean rarely enough, Holm over the rungs, and those whose do not."""
    from ...stats import holm

    one = table.sel(outcome=outcome)
    names = null_arms(table)
    values = one["p_greater"].sel(arm=names).values
    if not names or not np.isfinite(values).all():
        return [], names
    corrected = holm(values)
    yes = [name for name, p in zip(names, corrected, strict=True) if p <= 1 - level + 1e-12]
    return yes, [name for name in names if name not in yes]


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "none"


def null_arms(table: xr.Dataset) -> list[str]:
    """The arms of random vectors."""
    return [str(a) for a, kind in zip(table["arm"].values, table["kind"].values, strict=True) if kind == NULL]
