"""What the numbers of the study say, in sentences that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ...wording import between, number, p_value, percent, quoted, several
from ..study import Check, Groups, verdict
from .arms import DRAWN

Arrays = Mapping[str, Any]


def headline(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    """The main finding in one line."""
    one = arrays["by_layer"].sel(layer=facts["look"])
    where = f"L{facts['look']}.{facts['settings'].site}"
    effect = between(one["effect"], one["low"], one["high"])
    lead = f"Without {what(facts)} of {where} the next token's log-probability changes by {effect} nats"
    if float(one["p_corrected"]) > 1 - float(arrays["by_layer"].attrs["level"]):
        lead += ", not told from 0 over the layers"
    beats = told_apart(arrays["controls"].sel(layer=facts["look"]))
    tail = f"more than under {_list(beats)}" if beats else "no more than under the drawn controls"
    return f"{lead}; {tail}"


def what(facts: Mapping[str, Any]) -> str:
    """What was removed, in words."""
    settings = facts["settings"]
    if settings.directions is not None:
        return "the given directions"
    if settings.component is not None:
        return f"component {settings.component}"
    return "the first component" if settings.rank == 1 else f"the first {settings.rank} components"


def told_apart(controls: xr.Dataset) -> list[str]:
    """Drawn controls of a layer than which the removal has a larger effect, corrected over layers and controls."""
    alpha = 1 - float(controls.attrs["level"])
    found = []
    for kind in [k for k in controls["control"].values if k in DRAWN]:
        one = controls.sel(control=kind)
        main = float(one["effect"] + one["difference"])
        if float(one["p_corrected"]) <= alpha and abs(main) > abs(float(one["effect"])):
            found.append(NAMES[str(kind)])
    return found


NAMES = {
    "random": "a random subspace",
    "within span": "a random subspace of the leading span",
    "same norm": "a random direction of the same norm",
    "rejected": "rejection",
    "mean shift": "the shift by the token's own mean",
    "mean": "the mean in place of the activation",
}


def findings(arrays: Arrays, made: list[Check], facts: Mapping[str, Any]) -> Groups:
    """The checks, what was fitted, effects, controls, norm, components, variance, other edits, depth, tokens."""
    controls = _controls(arrays, facts)
    return [
        ("", [verdict(made)]),
        ("Does it matter?", _effect(arrays, facts)),
        ("More than what chance removes?", [*controls[1:], *controls[:1], _norm(arrays, facts)]),
        ("Variance and importance", [*_variance(arrays, facts), _components(arrays)]),
        ("Other edits, and what else changes", [*_collateral(arrays, facts), _others(arrays, facts)]),
        ("In the stream", _depth(arrays, facts)),
        ("What was fitted and removed", [*_material(arrays, facts), _energy(arrays, facts)]),
    ]


def _material(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    texts, layers, look = facts["texts"], arrays["by_layer"], facts["look"]
    n = int((texts.test.lengths - 2).clamp_min(0).sum())
    base = float(arrays["measured"]["base"].mean())
    one = layers.sel(layer=look)
    held = (
        f"At L{look}, which is drawn below, {percent(one['share'])} of the variance of the fitted tokens lies in it "
        f"and {percent(one['share_tested'])} of the tested ones."
    )
    fitted = f"{int(texts.fit.lengths.sub(1).sum())} tokens of {several(len(texts.fit), 'text')}"
    return [
        f"Fitted on {fitted} and tested on {n} tokens of {len(texts.test)} others ({texts.source}).",
        f"Unedited, the model gives the next token {number(base)} nats on average. {held}",
    ]


def _effect(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    data = arrays["by_layer"]
    alpha = 1 - float(data.attrs["level"])
    certain = data["p_corrected"].values <= alpha
    parts = [_layer(data.isel(layer=int(i))) for i in np.flatnonzero(certain)]
    rest = data.isel(layer=np.flatnonzero(~certain))
    lead = (
        f"Without {what(facts)}, the next token's log-probability changes in {certain.sum()} of {certain.size} layers."
    )
    if parts:
        most = data.isel(layer=int(np.abs(data["effect"].values).argmax()))
        size = between(most["effect"], most["low"], most["high"])
        lead += f" It changes most in L{int(most['layer'])}, by {size} nats a token."
    said = f"By sign-flip max-T over layers, {number(alpha, 2)}, {data.attrs['families']} families"
    said += f": {'; '.join(parts)} nats a token." if parts else "."
    if rest.sizes["layer"]:
        end = float(np.abs(np.stack([rest["low"].values, rest["high"].values])).max())
        names = _list([f"L{int(n)}" for n in rest["layer"].values])
        said += f" Null: in {names} it cannot be told from 0; the intervals lie within {number(end)} nats of it."
    return [lead, said + (f" But {data.attrs['warning']}" if data.attrs["warning"] else "")]


def _layer(one: xr.Dataset) -> str:
    effect = between(one["effect"], one["low"], one["high"])
    return f"L{int(one['layer'])} {effect} (t = {number(one['t'])}, {p_value(one['p_corrected'])})"


def _controls(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    data, alpha = arrays["controls"], 1 - float(arrays["controls"].attrs["level"])
    drawn = [k for k in data["control"].values if k in DRAWN]
    look = facts["look"]
    parts = []
    for kind in drawn:
        one = data.sel(layer=look, control=kind)
        gap = between(one["difference"], one["difference_low"], one["difference_high"])
        parts.append(
            f"{NAMES[str(kind)]} {between(one['effect'], one['low'], one['high'])}, removal minus it "
            f"{gap} ({p_value(one['p_corrected'])}; the "
            f"removal's is larger than {int(one['beaten'])} of {several(int(one['draws']), 'draw')})"
        )
    made = [f"Controls at L{look}, in nats a token: {'; '.join(parts)}."]
    counts = []
    for kind in drawn:
        p_values = data["p_corrected"].sel(control=kind).values
        counts.append(f"{NAMES[str(kind)]} in {int((p_values <= alpha).sum())}")
    made.append(
        f"Over all {data.sizes['layer']} layers (corrected over layers and controls), the removal differs from "
        f"{', from '.join(counts)}."
    )
    return made


def _norm(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    look, data = facts["look"], arrays["by_layer"]
    one = data.sel(layer=look)
    if not np.isfinite(float(one["per_norm"])):
        return f"At L{look} nothing was moved in some text, so there is no effect per unit of removed norm."
    parts = []
    for kind in [k for k in arrays["controls"]["control"].values if k in DRAWN]:
        other = arrays["controls"].sel(layer=look, control=kind)
        if np.isfinite(float(other["per_norm"])):
            ratio = between(other["per_norm"], other["per_norm_low"], other["per_norm_high"])
            parts.append(f"{NAMES[str(kind)]} {ratio}")
    own = between(one["per_norm"], one["per_norm_low"], one["per_norm_high"])
    return (
        f"Per unit of norm moved at L{look} (ratio of means, Fieller intervals): the removal {own} nats with a mean "
        f"norm of {number(one['norm'])}; {'; '.join(parts)}."
    )


def _components(arrays: Arrays) -> str:
    if "components" not in arrays:
        return ""
    data = arrays["components"]
    alpha = 1 - float(data.attrs["level"])
    size = np.abs(data["effect"].values)
    order = np.argsort(-size, axis=None)[:3]
    parts = []
    for k in order:
        i, j = np.unravel_index(int(k), size.shape)
        one = data.isel(layer=int(i), component=int(j))
        parts.append(
            f"L{int(one['layer'])} component {int(one['component'])} {between(one['effect'], one['low'], one['high'])} "
            f"({percent(one['share'])} of the variance, {p_value(one['p_corrected'])})"
        )
    count = int((data["p_corrected"].values <= alpha).sum())
    first = int((size.argmax(1) == 0).sum())
    return (
        f"Of {size.size} single components, {count} change the log-probability (max-T over all of them); the largest: "
        f"{'; '.join(parts)}. The first has the largest effect of those tested in {first} of {len(size)} layers."
    )


def _variance(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    found = facts["relation"]
    if not found:
        return ["Variance and effect cannot be related over so few layers."]
    r = f"{number(found['r'], 2)} [{number(found['low'], 2)}, {number(found['high'], 2)}]"
    lead = f"Over {found['layers']} layers, the share of variance and the size of the effect correlate at r = {r}."
    said = (
        "That interval is over texts, resampled; layers are neighbours and no sample, so r is a description and has no "
        "p-value."
    )
    if "components" in arrays:
        data = arrays["components"]
        pairs = [(a, np.abs(b)) for a, b in zip(data["share"].values, data["effect"].values, strict=True)]
        rows = [np.corrcoef(a, b)[0, 1] for a, b in pairs if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0]
        if rows:
            ends = f"{number(min(rows), 2)} to {number(max(rows), 2)}"
            said += f" Among the single components of a layer, r runs from {ends}."
    return [lead, said]


def _others(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    data, look = arrays["controls"], facts["look"]
    parts = []
    for kind in ("rejected", "mean shift", "mean"):
        one = data.sel(layer=look, control=kind)
        parts.append(f"{NAMES[kind]} {between(one['effect'], one['low'], one['high'])} ({_apart(one)})")
    return f"Other edits at L{look}, in nats a token and against the removal: {'; '.join(parts)}."


def _apart(one: xr.Dataset) -> str:
    if float(one["difference"]) == 0:
        return "the same as the removal"
    told = float(one["p_corrected"]) <= 1 - float(one.attrs["level"])
    return f"{'differs from it' if told else 'not told from it'}, {p_value(one['p_corrected'])}"


def _collateral(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    look = facts["look"]
    one = arrays["by_layer"].sel(layer=look)
    low, high = number(one["kl_low"]), number(one["kl_high"])
    parts = [
        f"{NAMES[str(k)]} {number(arrays['controls']['kl'].sel(layer=look, control=k))}"
        for k in arrays["controls"]["control"].values
    ]
    return [
        f"The whole next-token distribution moves by a KL of {number(one['kl'])} [{low}, {high}] nats a token when "
        f"L{look} is edited.",
        f"Under the controls that KL is: {', '.join(parts)}.",
    ]


def _depth(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    look, data = facts["look"], arrays["depth"]
    one = data.sel(edited=look)
    last = int(data["layer"].values[-1])

    def at(layer: int, kind: str) -> str:
        cell = one.sel(layer=layer, kind=kind)
        return f"{number(cell['change'])} [{number(cell['low'])}, {number(cell['high'])}]"

    said = f"Edited at L{look}, a token's stream differs by {at(look, 'removed')} of its own norm after that layer"
    if last != look:
        said += f" and by {at(last, 'removed')} after the last"
    more = "The final norm is not in it, nor position 0."
    if "same norm" in data["kind"].values:
        after = f" and {at(last, 'same norm')}" if last != look else ""
        more = f"Under a random direction of the same norm by {at(look, 'same norm')}{after}. {more}"
    return [f"{said}.", more]


def _energy(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    data = arrays["energy"]
    if not data.sizes["largest"]:
        return ""
    kinds = ", ".join(
        f"{quoted(str(k))} {percent(s)}"
        for k, s in zip(data["kind"].values[:4], data["kind_share"].values, strict=False)
    )
    before = float(data.attrs["before"])
    first = f" A token at position 0 would have {number(before)} times the mean energy." if np.isfinite(before) else ""
    return (
        f"What is removed at L{facts['look']} comes from as many of the {data.attrs['tokens']} fitted tokens as "
        f"{number(data.attrs['effective_tokens'], 3)} equal ones would make; no token has more than "
        f"{percent(data['share'].values[0])}. By text of the token: {kinds}.{first}"
    )


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
