"""What the numbers of the study say, in sentences that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ...wording import between, number, p_value, several, signed
from ..study import Check, Groups, verdict

Arrays = Mapping[str, Any]


def of(one: xr.Dataset, what: str = "effect") -> str:
    """`effect` or `share` of one cell with its interval."""
    low, high = ("low", "high") if what == "effect" else (f"{what}_low", f"{what}_high")
    return between(one[what], one[low], one[high])


def headline(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    """The main finding in one line."""
    one = arrays["behaviour"].sel(run="clean")
    lead = f"The receiver leads the giver by {between(one['mean'], one['low'], one['high'])} logits"
    if "heads" not in arrays:
        return lead
    table = arrays["heads"].sel(measure="patch_z")
    best = table.isel(chosen=int(np.abs(table["effect"].values).argmax()))
    if not np.isfinite(best["share"]):
        return lead
    return f"{lead}; of the heads, {best['chosen'].values} alone restores most, {of(best, 'share')} of the clean effect"


def findings(arrays: Arrays, made: list[Check], facts: Mapping[str, Any]) -> Groups:
    """The checks, then behaviour, depth, travel, heads, attention, direct against total, ablation, stability."""
    made_of: Groups = [
        ("", [verdict(made)]),
        ("Behaviour", [*_behaviour(arrays), facts["task"] or ""]),
        ("Depth", _depth(arrays)),
        ("Where the information travels", [*_travel(arrays), *_grid(arrays)]),
    ]
    if "heads" in arrays:
        made_of += [
            ("Which heads", [*_heads(arrays, facts), *_stable(facts)]),
            ("What moves in a head, and where it looks", [*_decomposed(arrays), *_attention(arrays)]),
            ("Direct effect and the rest", [*_direct(arrays), _noising(arrays)]),
            ("Taken out", _ablation(arrays) if "ablation" in arrays else []),
        ]
    return [*made_of, ("Known kinds of heads", _scores(arrays))]


def _behaviour(arrays: Arrays) -> list[str]:
    data = arrays["behaviour"]
    values = data["logit_difference"].sel(run="clean").values
    one = data.sel(run="clean")
    first = int((data["answer_rank"].values == 0).sum())
    others = [
        f"{signed(float(data['mean'].sel(run=r)))} ({r})" for r in data["run"].values if r != "clean"
    ]  # fmt: skip
    by = data["template"].values.astype(str)
    means = {t: float(values[by == t].mean()) for t in dict.fromkeys(by)}
    least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return [
        f"logit(receiver) - logit(giver) is {between(one['mean'], one['low'], one['high'])} on average. It is positive "
        f"in {int((values > 0).sum())} of {several(len(values), 'prompt')}, and the receiver is the first choice in "
        f"{first}.",
        f"The interval is a t interval over {data.attrs['families']} families. By template the difference runs from "
        f"{signed(means[least])} ({least}) to {signed(means[most])} ({most}). In the corrupted runs it is "
        f"{', '.join(others)}.",
    ]


def _depth(arrays: Arrays) -> list[str]:
    steps = arrays["cumulative"].mean("prompt")
    values, end = steps.values, float(steps.values[-1])
    text = ""
    if end:
        where = int(np.flatnonzero(values / end >= 0.5)[0])
        text = f"Read with the final norm's scale, half of it is there at {steps['point'].values[where]}. "
    if "by_component" not in arrays:
        return [text]
    terms = arrays["by_component"]
    order = np.argsort(-np.abs(terms["mean"].values))[:4]
    named = [
        f"{terms['term'].values[k]} {between(*(terms[x].values[k] for x in ('mean', 'low', 'high')))}" for k in order
    ]
    more = f"Then {', '.join(named[1:])}; t intervals over families, not corrected."
    return [f"{text}The largest direct contribution: {named[0]} logits.", *([more] if named[1:] else [])]


def _travel(arrays: Arrays) -> list[str]:
    """Where the stream carries what differs, by layer and role."""
    if "patch_resid_pre" not in arrays:
        return []
    data = arrays["patch_resid_pre"]
    if not np.isfinite(data["share"]).all():
        return [str(data.attrs.get("no_share", ""))]
    said, numbers = [], []
    layers = data["layer"].values
    for role in data["position"].values:
        one = data.sel(position=role)
        there = np.flatnonzero(one["share"].values >= 0.5)
        if len(there):
            first, last = int(there[0]), int(there[-1])
            span = f"block {layers[first]}" if first == last else f"blocks {layers[first]} to {layers[last]}"
            said.append(f"at {role} before {span}")
            numbers.append(f"{role} {of(one.isel(layer=first), 'share')}")
    text = "; ".join(said) if said else "nowhere at one role alone"
    found = [f"The clean stream restores half or more of the clean effect {text}."]
    more = f"Shares of the clean effect, each before the first of these blocks: {'; '.join(numbers)}."
    return [*found, *([more] if numbers else [])]


def _grid(arrays: Arrays) -> list[str]:
    """The largest cells of attention and MLP patching, corrected over their grids."""
    made = []
    for site, what in (("attn_out", "attention layer"), ("mlp_out", "MLP")):
        name = f"patch_{site}"
        if name not in arrays:
            continue
        data = arrays[name]
        stacked = data.stack(cell=("layer", "position"))
        order = np.argsort(-np.abs(stacked["effect"].values))[:3]
        parts = []
        for k in order:
            one = stacked.isel(cell=int(k))
            layer, role = one["cell"].item()
            parts.append(f"L{layer} at {role} {of(one)} ({p_value(one['p_corrected'])})")
        count = int((data["p_corrected"].values <= 0.05).sum())
        made.append(
            f"Patching one {what} at one role: {count} of {data['effect'].size} cells differ from 0 (sign-flip max-T "
            f"over the grid, .05); the largest are {', '.join(parts)} logits."
        )
    return made


def _heads(arrays: Arrays, facts: Mapping[str, Any]) -> list[str]:
    table = arrays["heads"]
    one = table.sel(measure="patch_z")
    grid = arrays["patch_z"]
    count, size = int((grid["p_corrected"].values <= 0.05).sum()), grid["effect"].size
    parts, brief = [], []
    for k in np.argsort(-np.abs(one["effect"].values)):
        cell = one.isel(chosen=int(k))
        brief.append(f"{cell['chosen'].values} {of(cell)}")
        parts.append(f"{brief[-1]} ({p_value(cell['p_corrected'])}, {_size(cell, table)})")
    split = facts["split"]
    halves = (
        "These are few families: heads were chosen and measured on the same ones, so the values are optimistic."
        if split is None
        else f"Heads were chosen on {split[0]} families and are measured here on the other {split[1]} (smallest p "
        f"these can give: {number(float(table.attrs['smallest_p']), 2)})."
    )
    warning = f" But {table.attrs['warning']}" if table.attrs["warning"] else ""
    return [
        f"Patching one head's output (z), {count} of {size} heads differ from 0. The largest change the logit "
        f"difference by {', '.join(brief[:3])}.",
        f"That count is by sign-flip max-T over all heads, .05. {halves}",
        f"Change in logits, corrected over the {len(parts)} chosen: {'; '.join(parts)}.{warning}",
    ]


def _size(cell: xr.Dataset, table: xr.Dataset) -> str:
    share = f"{100 * float(table.attrs['smallest']):g} %"
    words = {"larger": f"beyond {share}", "smaller": f"within {share}", "undecided": f"not told from {share}"}
    return words[str(cell["verdict"].values)]


def _decomposed(arrays: Arrays) -> list[str]:
    table = arrays["heads"]
    if not {"patch_v", "patch_pattern", "interaction"} <= set(table["measure"].values.tolist()):
        return []
    parts, lead = [], ""
    z = table.sel(measure="patch_z")
    for k in np.argsort(-np.abs(z["effect"].values))[:4]:
        one = table.isel(chosen=int(k))
        v, a, both = (of(one.sel(measure=m)) for m in ("patch_v", "patch_pattern", "interaction"))
        parts.append(f"{one['chosen'].values}: value {v}, pattern {a}, together beyond both {both}")
        lead = lead or (
            f"Of the {of(one.sel(measure='patch_z'))} logits of {one['chosen'].values}, its values alone restore {v}, "
            f"its pattern alone {a}."
        )
    return [lead, f"By what of the head moves (logits, same families): {'; '.join(parts)}."]


def _attention(arrays: Arrays) -> list[str]:
    if "heads_attention" not in arrays:
        return []
    table = arrays["heads_attention"]
    parts = []
    for head in table["chosen"].values:
        one = table.sel(chosen=head)
        best = one.isel(pair=int(np.argmax(one["mean"].values)))
        value = f"{number(best['mean'])} [{number(best['low'])}, {number(best['high'])}]"
        parts.append(f"{head} {best['pair'].values} {value}")
    return [f"Where the chosen heads look most, of the pairs of roles listed below: {'; '.join(parts)}."]


def _direct(arrays: Arrays) -> list[str]:
    direct, total = arrays["direct"]["effect"].values.ravel(), arrays["patch_z"]["effect"].values.ravel()
    r = float(np.corrcoef(direct, total)[0, 1]) if direct.std() and total.std() else float("nan")
    table = arrays["heads"]
    gap = table.sel(measure="patch_z")["effect"] - table.sel(measure="direct")["effect"]
    k = int(np.abs(gap.values).argmax())
    one = table.isel(chosen=k)
    d, t = of(one.sel(measure="direct")), of(one.sel(measure="patch_z"))
    return [
        f"Direct and total effect of the same edit correlate at {number(r, 2)} over {direct.size} heads. They differ "
        f"most for {one['chosen'].values}: direct {d}, total {t} logits."
    ]


def _noising(arrays: Arrays) -> str:
    """Where restoring and breaking disagree most: the change of one is not minus the change of the other."""
    table = arrays["heads"]
    if not {"denoise_abc_z", "noise_abc_z"} <= set(table["measure"].values.tolist()):
        return ""
    into, out = table.sel(measure="denoise_abc_z"), table.sel(measure="noise_abc_z")
    k = int(np.abs(into["effect"].values + out["effect"].values).argmax())
    return (
        f"Against three unrelated names, putting {table['chosen'].values[k]} of the clean run into the corrupted one "
        f"changes the logit difference by {of(into.isel(chosen=k))}, and putting the corrupted one into the clean run "
        f"by {of(out.isel(chosen=k))}: of the chosen heads the one where sufficiency and necessity differ most."
    )


def _ablation(arrays: Arrays) -> list[str]:
    data, table = arrays["ablation"], arrays["ledger"]
    size = np.abs(data["effect"].sel(ablated=table["ablated"].values).values).max(0)
    name = str(table["ablated"].values[int(size.argmax())])
    parts, brief = [], []
    for method in data["how"].values:
        whole, cell = data.sel(how=method, ablated=name), table.sel(how=method, ablated=name)
        direct, response = (cell.sel(part=x) for x in ("direct_recomputed", "response"))
        brief.append(f"{of(whole)} ({method})")
        parts.append(
            f"{method} {of(whole)} = direct {signed(float(direct['mean']))} + downstream response "
            f"{between(response['mean'], response['low'], response['high'])} ({p_value(response['p_corrected'])})"
        )
    made = [
        f"Taking {name} out of the clean run changes the logit difference by {', '.join(brief)}.",
        f"Taken apart: {'; '.join(parts)}. The direct effect is of the same edit with the final norm taken anew; p is "
        "corrected over all chosen heads and methods. A response against the direct effect may be repair, one along "
        "with it is use of the head by later parts.",
    ]
    if "gap" in data:
        gaps = [
            f"{m} {between(*(data[x].sel(how=m) for x in ('gap', 'gap_low', 'gap_high')))}" for m in data["how"].values
        ]
        made.append(
            f"All {data.sizes['ablated'] - 1} chosen heads together against the sum of each alone: {'; '.join(gaps)} "
            "logits. Where this differs from 0, single ablations do not add up."
        )
    return made


def _stable(facts: Mapping[str, Any]) -> list[str]:
    found = facts["stability"]
    if found is None:
        return []
    return [
        f"Had other families been drawn, the {found['k']} largest heads would overlap with a Jaccard index of "
        f"{number(found['jaccard'], 2)} on average (1: always the same; resampled families)."
    ]


def _scores(arrays: Arrays) -> list[str]:
    if "head_scores" not in arrays:
        return []
    data = arrays["head_scores"]
    parts = []
    for name in ("previous_token", "duplicate_token", "induction"):
        mean = data[name].mean("prompt")
        layer, head = np.unravel_index(int(mean.values.argmax()), mean.shape)
        parts.append(f"{name.replace('_', ' ')} L{layer}H{head} {number(mean.values[layer, head])}")
    first, second = float(data["loss_first"].mean()), float(data["loss_second"].mean())
    return [
        f"On repeated random ids the heads that score highest: {', '.join(parts)} (attention, 0 to 1); the loss falls "
        f"from {number(first)} nats in the first copy to {number(second)} in the second."
    ]
