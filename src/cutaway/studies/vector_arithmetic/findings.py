"""What the numbers of the study say, in sentences that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ...controls import FIXED, GENERALISATION, NULL
from ...wording import between_in, number, several, signed
from ..study import Check, Groups, verdict
from . import leads
from .phrases import beaten, listed, null_arms, p_of, rate, share

Arrays = Mapping[str, Any]


def headline(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    """The main finding in one line."""
    table = arrays["intervention_elsewhere"]
    one = table.sel(outcome="success")
    if not int(one["items"]):
        one = table.sel(outcome="pair")
    got = one["mean"].sel(arm="vector")
    chance = [f"{share(one['mean'].sel(arm=a))} {a}" for a in null_arms(table)]
    name, layer = facts["settings"].relation.replace("_", " "), facts["chosen"].where.layers[0]
    return (
        f"Added at L{layer} where nobody asked, the {name} vector brings the answer out in {share(got)} of "
        f"{several(int(one['items']), 'new item')}; random vectors of its norm in {', '.join(chance)}"
    )


def findings(arrays: Arrays, made: list[Check], facts: Mapping[str, Any]) -> Groups:
    """Checks, added, subtracted, stages, readout, flips, strengths, factors, specificity, others."""
    added, subtracted = _used(arrays, facts)
    return [
        ("", [verdict(made)]),
        (
            "Added where nobody asked",
            [leads.use(arrays, facts, "elsewhere"), added, _choice(facts), *_generalises(arrays)],
        ),
        ("Subtracted where it is asked", [leads.use(arrays, facts, "asked"), subtracted]),
        ("Does the model first form the argument?", [leads.stages(arrays), *_stages(arrays)]),
        ("Without a run: readout edits", [_readout(arrays), _score(arrays)]),
        ("How long must a step be?", [leads.flips(arrays), *_flips(arrays)]),
        ("Layers and strengths, in runs", _runs(arrays)),
        ("Replace or add, where, which layers", [leads.factors(arrays), *_factors(arrays)]),
        ("Is it about this relation alone?", [leads.specificity(arrays), *_specific(arrays)]),
        ("Taken in other ways", [leads.kinds(arrays), *_kinds(arrays)]),
        ("Other relations", [leads.relations(arrays, facts), *_relations(arrays, facts)]),
    ]


def _choice(facts: Mapping[str, Any]) -> str:
    chosen, fit, test = facts["chosen"], facts["fit"], facts["test"]
    table = chosen.table
    layer, strength = chosen.where.layers[0], float(chosen.where.scale)
    best = table.sel(layer=layer, scale=strength)
    return (
        f"The vector is {chosen.direction.name} ({chosen.direction.how}, norm "
        f"{number(chosen.direction.norm)}). Added at "
        f"L{layer} with strength {strength:g}, it brought the answer on top for {share(best['success'])} of the "
        f"{several(len(fit), 'item')} it was taken from, more than at any other layer and strength tried; all that "
        f"follows is about {several(len(test), 'other item')}."
    )


def _stages(arrays: Arrays) -> list[str]:
    data = arrays["stages"]
    made = []
    for context, what in (("asked", "In prompts that ask"), ("elsewhere", "In prompts that never ask")):
        parts = []
        for name in dict.fromkeys(data["relation"].values.tolist()):
            one = data.isel(prompt=np.flatnonzero((data["relation"] == name) & (data["context"] == context)))
            n = one.sizes["prompt"]
            formed, stays = (one[k].values >= 0 for k in ("formation", "saturation"))
            top, pair = ((one["switch"].sel(reading=r).values >= 0).sum() for r in ("top", "pair"))
            text = f"{name.replace('_', ' ')}: argument on top at some layer in {formed.sum()} of {n}"
            if formed.any():
                text += f" (first at L{int(np.median(one['formation'].values[formed]))} in the median)"
            text += f", answer there to stay in {stays.sum()}"
            if stays.any():
                text += f" (from L{int(np.median(one['saturation'].values[stays]))})"
            parts.append(f"{text}, a switch between the two in {top}, or in {pair} if only the pair is compared")
        made.append(f"{what}, {'; '.join(parts)}.")
    asked = data.isel(prompt=np.flatnonzero(data["context"] == "asked"))
    if not (asked["formation"].values >= 0).any():
        made.append(
            "So where it is asked, this model has no stage of argument formation: no argument is ever on top "
            "before its "
            "answer. The X of the two reciprocal ranks, by which the stages were first described, is not there."
        )
    return made


def _one(table: xr.Dataset, what: str, level: float) -> str:
    change, success = table.sel(outcome="logit change"), table.sel(outcome="success")
    z = table.sel(outcome="null units").sel(arm="vector")
    nulls = null_arms(table)
    chance = ", ".join(
        f"{a} {signed(change['mean'].sel(arm=a))} logits, {share(success['mean'].sel(arm=a))} on top (p = "
        f"{p_of(change['p_greater'].sel(arm=a))} and {p_of(success['p_greater'].sel(arm=a))})"
        for a in nulls
    )
    yes, no = beaten(table, "success", level)
    on_top = rate(success["mean"].sel(arm="vector"), int(success["items"]), level)
    text = (
        f"{what} changes the lead of the wanted token by {between_in(change.sel(arm='vector'))} logits (t interval "
        f"over {int(change['items'])} items), {number(z['mean'])} times what an isotropic vector of this norm would "
        "if it went "
        f"straight to the readout, and puts it on top of the whole vocabulary in {on_top}. Random vectors of "
        f"the same norm: {chance}."
    )
    if float(success["mean"].sel(arm="vector")) == 0:
        return text + " So it never makes the wanted token the model's choice, whatever it does to the pair."
    if yes:
        text += f" Beyond {listed(yes)} draws in how often it succeeds (Holm over the nulls)."
    if no:
        text += f" Not told apart from {listed(no)} draws."
    return text


def _used(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    level, strength = facts["settings"].level, float(facts["chosen"].where.scale)
    layer = facts["chosen"].where.layers[0]
    return [
        _one(
            arrays["intervention_elsewhere"],
            f"Intervention: adding it at L{layer} x {strength:g} where nobody asked",
            level,
        ),
        _one(
            arrays["intervention_asked"],
            f"Intervention: subtracting it at L{layer} x {strength:g} where it is asked",
            level,
        ),
    ]


def _generalises(arrays: Arrays) -> list[str]:
    """The rungs that are no null."""
    table = arrays["intervention_elsewhere"]
    change, success = table.sel(outcome="logit change"), table.sel(outcome="success")
    made = []
    for kind, what in (
        (FIXED, "Single vectors to compare with, norm-matched"),
        (GENERALISATION, "Tests of its meaning"),
    ):
        names = [str(a) for a in table["arm"].values if str(table["kind"].sel(arm=a).values) == kind]
        parts = [f"{a} {between_in(change.sel(arm=a))}, {share(success['mean'].sel(arm=a))} on top" for a in names]
        if parts:
            made.append(f"{what}, where nobody asked: {'; '.join(parts)} (logits, t intervals).")
    return made


def _score(arrays: Arrays) -> str:
    table = arrays["readout_asked"]
    parts = []
    for reading in ("top", "pair"):
        one = table.sel(outcome=f"{reading}: score")
        n, total = int(one["items"]), table.sizes["prompt"]
        if n < 2:
            parts.append(f"by {reading}, {several(n, 'item')} of {total} switch, too few for an interval")
            continue
        before, after = (table.sel(outcome=f"{reading}: {k}", arm="vector")["mean"] for k in ("before", "after"))
        nulls = ", ".join(
            f"{a} {number(one['mean'].sel(arm=a))} (p = {p_of(one['p_greater'].sel(arm=a))})"
            for a in one["arm"].values
            if str(one["kind"].sel(arm=a).values) == NULL
        )
        parts.append(
            f"by {reading}, {n} of {total} items switch, and for those {share(before)} of the layers before the switch "
            f"become the answer when it is added and {share(after)} of those after it the argument when it is "
            f"subtracted; score {between_in(one.sel(arm='vector'))}, random vectors {nulls}"
        )
    return (
        f"Score as a readout edit, relative to the model's own switch: {'; '.join(parts)}. Items that never switch are "
        "counted and not scored."
    )


def _readout(arrays: Arrays) -> str:
    made = []
    for context, what in (
        ("elsewhere", "added where the argument is on top"),
        ("asked", "subtracted where the answer is"),
    ):
        one = arrays[f"readout_{context}"].sel(outcome="top: layers turned")
        if int(one["items"]) < 2:
            continue
        nulls = ", ".join(
            f"{a} {share(one['mean'].sel(arm=a))}"
            for a in one["arm"].values
            if str(one["kind"].sel(arm=a).values) == NULL
        )
        made.append(f"{what}, {share(one['mean'].sel(arm='vector'))} of the layers turn to the other ({nulls})")
    return f"Readout edits, where nothing propagates: {'; '.join(made)}." if made else ""


def _flips(arrays: Arrays) -> list[str]:
    """The wide circle: pair and whole vocabulary, off and on the manifold, against the closed form."""
    if "flip_curves" not in arrays:
        return []
    data = arrays["flip_curves"]
    made = []
    gap = float(np.abs(data["share"].sel(arm="isotropic", measure="pair") - data["null"]).max())
    for context, what in (("elsewhere", "from argument to answer"), ("asked", "from answer to argument")):
        one = data.sel(context=context).isel(layer=-1)
        far = one["step"].values[-1]
        pair, target = one["share"].sel(measure="pair"), one["share"].sel(measure="target")

        def at(table: Any, arm: str, step: float) -> str:
            return share(table.sel(arm=arm, step=step))

        arms = [a for a in ("isotropic", "covariance", "real difference") if a in one["arm"].values]
        drawn = "; ".join(
            f"{a}: the pair flips within 1, 4 and {far:g} norms in {at(pair, a, 1)}, {at(pair, a, 4)} and "
            f"{at(pair, a, far)}, and it comes out on top in {at(target, a, 1)}, {at(target, a, 4)} and "
            f"{at(target, a, far)}"
            for a in arms
        )
        made.append(
            f"Is there a wide circle? Readout at the last layer, {what}, by random vectors: {drawn}. Straight at the "
            f"boundary it takes {number(one['median'].sel(arm='boundary', measure='target'))} norms in the median."
            if "boundary" in one["arm"].values
            else f"Is there a wide circle? Readout at the last layer, {what}, by random vectors: {drawn}."
        )
    made.append(
        "That a long random vector flips the pair in up to half of the draws is what the closed form says of any pair "
        f"(its largest distance from what was drawn: {number(gap, 2)}); of the whole vocabulary it is not so. "
        "A flip of "
        "a pair by one random vector is no sign of a circle."
    )
    return made


def _runs(arrays: Arrays) -> list[str]:
    """From which layer on it works, in runs."""
    if "flips_in_runs" not in arrays:
        return []
    data = arrays["flips_in_runs"]
    made = []
    for context, what in (("elsewhere", "Added where nobody asked"), ("asked", "Subtracted where it is asked")):
        one = data.sel(context=context, measure="target")
        middle = one["median"].sel(arm="vector")
        works = np.flatnonzero(np.isfinite(middle.values))
        if len(works):
            text = ", ".join(f"L{int(middle['layer'][k])} {number(middle.values[k])}" for k in works)
            said = f"the vector succeeds for half of the items or more at these layers and median strengths: {text}"
        else:
            best = one["share"].sel(arm="vector").isel(step=-1)
            k = int(best.values.argmax())
            said = (
                f"at no layer and strength up to {one['step'].values[-1]:g} does it succeed for half of the "
                "items (most: "
                f"{share(best[k])} at L{int(best['layer'][k])})"
            )
        drawn = {
            str(a): float(one["share"].sel(arm=a).isel(step=-1).max())
            for a in one["arm"].values
            if a not in ("vector", "minus", "boundary")
        }
        text = ", ".join(f"{a} {share(v)}" for a, v in drawn.items())
        minus = float(one["share"].sel(arm="minus").isel(step=-1).max())
        kept = data["holds"].sel(context=context, arm="vector").values
        held = (
            ""
            if not np.isfinite(kept).any()
            else (f" Of the longer steps tried, {share(np.nanmean(kept))} still succeed: more is not better.")
        )
        made.append(
            f"{what}, in runs: {said}. At the best layer, random vectors ever succeed in: {text}; the vector with the "
            f"other sign in {share(minus)}.{held}"
        )
    return made


def _factors(arrays: Arrays) -> list[str]:
    if "factors" not in arrays:
        return []
    data = arrays["factors"].sel(arm="vector")
    cells = [
        f"{mode}, {place}, {'layer' if str(layers).isdigit() else 'layers'} {layers}: "
        f"{share(data['success'].sel(mode=mode, place=place, layers=layers))}"
        for mode in data["mode"].values
        for place in data["place"].values
        for layers in data["layers"].values
    ]
    return [f"How often it succeeds, by replace or add, last position or all, and layers: {'; '.join(cells)}."]


def _specific(arrays: Arrays) -> list[str]:
    if "specificity" not in arrays or arrays["specificity"].sizes["relation"] < 2:
        return []
    data = arrays["specificity"].sel(context="elsewhere")
    own, others = data.isel(relation=0), data.isel(relation=slice(1, None))
    parts = [
        f"{str(name).replace('_', ' ')} {between_in(one, ('change', 'low', 'high'))}, {share(one['success'])} on "
        "top, its own "
        f"relation's effect larger by {between_in(one, ('own_minus', 'own_low', 'own_high'))}"
        for name, one in ((n, others.sel(relation=n)) for n in others["relation"].values)
    ]
    kl = arrays["specificity"].sel(context="asked")
    cost = ", ".join(
        f"{str(n).replace('_', ' ')} {between_in(kl.sel(relation=n), ('kl', 'kl_low', 'kl_high'))}"
        for n in others["relation"].values
    )
    return [
        "Specificity: added on other relations' items where nobody asked, toward their own answers: "
        f"{'; '.join(parts)} "
        f"(its own: {between_in(own, ('change', 'low', 'high'))} logits). It is not free of cost: where another "
        "relation is "
        f"asked, the prediction moves by a KL of {cost} nats."
    ]


def _kinds(arrays: Arrays) -> list[str]:
    if "kinds" not in arrays:
        return []
    data = arrays["kinds"]
    parts = [
        f"{k} ({data['place'].sel(kind=k).values}) {between_in(data.sel(kind=k), ('change', 'low', 'high'))}, "
        f"{share(data['success'].sel(kind=k))}"
        for k in data["kind"].values
    ]
    return [f"The same relation's vector taken in other ways, with the same norm: {'; '.join(parts)}."]


def _relations(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    made = []
    for name in facts["others"]:
        table = arrays[f"relation_{name}"]
        called = name.replace("_", " ").capitalize()
        what = f"{called}, its own vector at L{table.attrs['layer']} x {table.attrs['strength']:g}"
        made.append(_one(table, what, facts["settings"].level))
    return made
