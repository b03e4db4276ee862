"""The first sentence under each sub-heading: the number that answers its question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from ...wording import between_in, several, signed
from .phrases import null_arms, rate, share

Arrays = Mapping[str, Any]


def use(arrays: Arrays, facts: Mapping[str, Any], context: str) -> str:
    """How often the vector succeeds, and how often the nulls do."""
    table = arrays[f"intervention_{context}"]
    return f"{_succeeds(table, facts['settings'].level)}; random vectors of its norm in {_by_chance(table)}."


def _succeeds(table: xr.Dataset, level: float) -> str:
    success, change = table.sel(outcome="success"), table.sel(outcome="logit change")
    on_top = rate(success["mean"].sel(arm="vector"), int(success["items"]), level)
    lead = between_in(change.sel(arm="vector"))
    items = several(int(success["items"]), "item")
    return f"The wanted token comes out on top in {on_top} of {items} (its lead changes by {lead} logits)"


def _by_chance(table: xr.Dataset) -> str:
    """The range of how often the nulls succeed."""
    success = table.sel(outcome="success")
    found = [float(success["mean"].sel(arm=a)) for a in null_arms(table)]
    return share(found[0]) if len(found) == 1 else f"{share(min(found))} to {share(max(found))}" if found else "—"


def stages(arrays: Arrays) -> str:
    data = arrays["stages"]
    counts = {}
    for context in ("asked", "elsewhere"):
        formed = data["formation"].values[data["context"].values == context] >= 0
        counts[context] = f"{int(formed.sum())} of {len(formed)}"
    return (
        f"Where it is asked, the argument is the model's first choice at some layer in {counts['asked']} items; in "
        f"prompts that never ask, in {counts['elsewhere']}."
    )


def flips(arrays: Arrays) -> str:
    if "flip_curves" not in arrays:
        return ""
    one = arrays["flip_curves"].sel(context="elsewhere", measure="target").isel(layer=-1)
    far = float(one["step"].values[-1])
    drawn = [a for a in ("isotropic", "covariance", "real difference") if a in one["arm"].values]
    parts = ", ".join(f"{share(one['share'].sel(arm=a, step=far))} {a}" for a in drawn)
    return (
        f"At the last layer, steps of up to {far:g} norms along the vector bring the wanted token out on top in "
        f"{share(one['share'].sel(arm='vector', step=far))} of items; along random vectors in {parts}."
    )


def factors(arrays: Arrays) -> str:
    if "factors" not in arrays:
        return ""
    data = arrays["factors"]["success"].sel(arm="vector").stack(cell=("mode", "place", "layers"))
    data = data.dropna("cell")
    most, least = (data.isel(cell=int(k)) for k in (data.values.argmax(), data.values.argmin()))
    places = {"last": "last position", "all": "all positions"}
    where = [
        f"{share(one)} ({one['mode'].item()}, {places.get(one['place'].item(), one['place'].item())}, "
        f"layers {one['layers'].item()})"
        for one in (most, least)
    ]
    return f"It succeeds most often in {where[0]} of items, least often in {where[1]}."


def specificity(arrays: Arrays) -> str:
    if "specificity" not in arrays or arrays["specificity"].sizes["relation"] < 2:
        return ""
    data = arrays["specificity"].sel(context="elsewhere")
    change, success = data["change"].values, data["success"].values
    return (
        f"On its own items it changes the lead by {signed(change[0])} logits and succeeds in {share(success[0])}; on "
        f"those of other relations by {signed(change[1:].min())} to {signed(change[1:].max())} logits, succeeding in "
        f"{share(success[1:].max())} at most."
    )


def kinds(arrays: Arrays) -> str:
    if "kinds" not in arrays:
        return ""
    success = arrays["kinds"]["success"]
    best, worst = (str(success["kind"].values[k]) for k in (success.values.argmax(), success.values.argmin()))
    return (
        f"Of {success.sizes['kind']} ways to take it, with one norm, {best} succeeds most often "
        f"({share(success.sel(kind=best))}), {worst} least often ({share(success.sel(kind=worst))})."
    )


def relations(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    parts = []
    for name in facts["others"]:
        table = arrays[f"relation_{name}"]
        got = share(table.sel(outcome="success")["mean"].sel(arm="vector"))
        parts.append(f"{name.replace('_', ' ')} {got} of items against {_by_chance(table)} by random vectors")
    return f"Each with its own vector, added where nobody asked: {'; '.join(parts)}." if parts else ""
