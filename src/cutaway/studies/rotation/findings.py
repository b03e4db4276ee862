"""What the numbers say, in sentences that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ...wording import between, number, p_value, percent, quoted, several, signed
from ..study import Check, Groups, verdict
from .work import Work

Arrays = Mapping[str, Any]
BASELINES = {
    "against_other_tokens": "other tokens of the sentence (the same pair of depths)",
    "against_other_depths": "the same token at other depths",
    "against_random_update": "updates of the same size in random directions",
}


def in_degrees(one: xr.Dataset) -> str:
    """A difference in degrees with its interval."""
    return between(one["difference"], one["low"], one["high"], "°")


def layers(verdicts: Sequence[int], sign: int) -> str:
    """The layers with that verdict, as in L0, L2-L4."""
    chosen = [k for k, v in enumerate(verdicts) if v == sign]
    runs: list[list[int]] = []
    for k in chosen:
        if runs and runs[-1][-1] == k - 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return ", ".join(f"L{r[0]}" if len(r) == 1 else f"L{r[0]}-L{r[-1]}" for r in runs)


def sides(verdicts: Sequence[int], more: str = "more", less: str = "less") -> str:
    """Which layers are above, below, neither."""
    parts = [f"{more} in {layers(verdicts, 1)}"] if 1 in verdicts else []
    parts += [f"{less} in {layers(verdicts, -1)}"] if -1 in verdicts else []
    if not parts:
        return f"neither {more} nor {less} in any of {several(len(verdicts), 'layer')}"
    return " and ".join(parts) + (f", no difference shown in {layers(verdicts, 0)}" if 0 in verdicts else "")


def headline(arrays: Arrays) -> str:
    """The main finding in one line."""
    types = list(dict.fromkeys(arrays["sentences"]["type"].values))
    name = ", ".join(map(str, types[:5])) + (" and others" if len(types) > 5 else "")
    if "against_matched" not in arrays:
        size = arrays["means"].sel(who="target", space="raw")
        top = int(np.nanargmax(size["mean"].values)) if np.isfinite(size["mean"]).any() else 0
        return f"{name} turn most in L{top}, by {number(size['mean'][top])}°; no matched control was to be had"
    one = arrays["against_matched"].sel(measure="angle", space="raw")
    tail = f"(angles, {one.attrs['families']} families, corrected over {one.attrs['tests']} tests)"
    text = f"Against matched controls, {name} turn {sides(one['verdict'].values.tolist())} {tail}"
    if "over_words" not in arrays:
        return text
    wide = arrays["over_words"]["verdict"].sel(measure="angle", space="raw").values
    held = (wide == one["verdict"].values) & (wide != 0)
    still = layers(np.where(held, 1, 0).tolist(), 1)
    if not one["verdict"].values.any():
        return text
    return f"{text}; over words as well, only in {still}" if still else f"{text}; over words as well, in none"


def findings(work: Work, arrays: Arrays, made: list[Check]) -> Groups:
    """Checks and warnings, matched controls, sizes, other controls, types, norms, what was measured."""
    there = "against_matched" in arrays
    matched = [*_matched(arrays), *_over_words(arrays), _spaces(arrays)] if there else []
    return [
        ("", [verdict(made), _warnings(arrays)]),
        ("Against matched controls", matched),
        ("How far each block turns the target", [*_turns(arrays), _excess(arrays) if there else ""]),
        ("Against other controls and baselines", [*_baselines(arrays), _before(arrays), _given(arrays)]),
        ("By type of target", _types(arrays)),
        ("Norms, and what decides the angle", [_norms(arrays), _dominance(work), _apart(arrays)]),
        ("What was measured", [*_sentences(work), _matching(work) if there else ""]),
    ]


def _sentences(work: Work) -> list[str]:
    count = Counter(o.type for o in work.found)
    kinds = ", ".join(f"{kind} {n}" for kind, n in count.most_common(8))
    total = sum(o.sentences for o in work.found)
    families = len({o.family for o in work.found})
    lead = (
        f"{several(total, 'sentence')} with a target hold {several(len(work.found), 'different measurement')} in "
        f"{families} families ({kinds})."
    )
    text = "A token's state depends on what stands before it, so sentences that agree up to their target count once."
    forms = Counter(work.given.token(o.sentence, o.position) for o in work.found)
    if len(forms) > len(count):
        text += " Forms of tokens: " + ", ".join(f"{quoted(t)} {n}" for t, n in forms.most_common(8)) + "."
    fillers = sum(at is None for at in work.given.targets)
    return [lead, text + (f" {several(fillers, 'sentence')} without a target offer controls." if fillers else "")]


def _turns(arrays: Arrays) -> list[str]:
    one = arrays["means"].sel(who="target", space="raw")
    values = [
        f"L{k} {number(m)}° [{number(low)}, {number(high)}]"
        for k, (m, low, high) in enumerate(zip(*(one[x].values for x in ("mean", "low", "high")), strict=True))
    ]
    level = f"{100 * one.attrs['level']:g} %"
    shown = values if len(values) <= 8 else [values[0], values[len(values) // 2], values[-1]]
    mean = one["mean"].values
    most, least = int(np.nanargmax(mean)), int(np.nanargmin(mean))
    return [
        f"On average L{most} turns the target most, by {number(mean[most])}°, and L{least} least, by "
        f"{number(mean[least])}°.",
        f"Mean angle that each block turns the target by ({level} intervals over families): {'; '.join(shown)}.",
    ]


def _matching(work: Work) -> str:
    pairs = [c for c in work.pairs if c is not None]
    factor = 2 ** np.abs([c.octaves for c in pairs])
    words = Counter(work.given.token(c.sentence, c.position) for c in pairs)
    common = ", ".join(f"{quoted(t)} {n}" for t, n in words.most_common(6))
    after = sum(c.after_target for c in pairs)
    text = (
        f"{len(pairs)} of {len(work.pairs)} targets have a matched control: a token at the same position of another "
        f"sentence, whose word differs in frequency by a factor of {number(float(np.median(factor)))} in the middle "
        f"case and {number(float(factor.max()))} at most. They are {several(len(words), 'different word')}: {common}"
    )
    text += "." if len(words) <= 6 else ", and others."
    return text + (f" {after} of them stand after a target of their own sentence." if after else "")


def _matched(arrays: Arrays) -> list[str]:
    one = arrays["against_matched"].sel(measure="angle", space="raw")
    verdicts = one["verdict"].values.tolist()
    largest = int(np.abs(one["difference"].values).argmax())
    cell = one.sel(layer=largest)
    what = "The largest difference" if any(verdicts) else "No difference is significant; the largest"
    return [
        f"Against matched controls the target turns {sides(verdicts)}. {what} is {in_degrees(cell)} in L{largest} "
        f"({number(float(cell['target']))}° against {number(float(cell['control']))}°).",
        f"There t = {number(float(cell['t']))} and {p_value(cell['p_corrected'])}, corrected over "
        f"{one.attrs['tests']} tests.",
    ]


def _over_words(arrays: Arrays) -> list[str]:
    if "over_words" not in arrays:
        return []
    data = arrays["over_words"]
    one = data.sel(measure="angle", space="raw")
    each = "; ".join(f"L{k} {in_degrees(one.sel(layer=k))}" for k in one["layer"].values[:12])
    return [
        "That is for other sentences with these words. With words drawn at random too, the target turns "
        f"{sides(one['verdict'].values.tolist())}.",
        f"With words drawn at random ({data.attrs['types']} types of target crossed with {data.attrs['words']} control "
        f"words) the intervals are wider, each layer by itself and not corrected: {each}.",
    ]


def _excess(arrays: Arrays) -> str:
    one = arrays["against_matched"].sel(measure="excess", space="raw")
    mean = arrays["means"].sel(who="target", space="raw")["excess_mean"].values
    return (
        "The excess, which is the angle less that of an orthogonal update of the same size, runs from "
        f"{signed(float(np.nanmin(mean)))}° to {signed(float(np.nanmax(mean)))}° for the target; against matched "
        f"controls it is {sides(one['verdict'].values.tolist(), 'larger', 'smaller')}."
    )


def _spaces(arrays: Arrays) -> str:
    angle = arrays["against_matched"].sel(measure="angle")
    raw = angle["verdict"].sel(space="raw").values
    text = []
    for space in ("centred", "standardised"):
        other = angle["verdict"].sel(space=space).values
        text.append(f"{space}, the same verdict as raw in {int((raw == other).sum())} of {len(raw)} layers")
    turned = [
        f"L{k}" for k in range(len(raw)) if {-1, 1} <= set(angle["verdict"].sel(layer=k).values.tolist())
    ]  # fmt: skip
    against = f" In {', '.join(turned)} the sign depends on the space." if turned else ""
    return f"With the mean taken out and with every dimension at one scale: {'; '.join(text)}.{against}"


def _before(arrays: Arrays) -> str:
    if "against_token_before" not in arrays:
        return ""
    data = arrays["against_token_before"]
    one = data.sel(measure="angle", space="raw")
    bonferroni = np.where(one["p_bonferroni"].values <= 1 - data.attrs["level"], np.sign(one["t"].values), 0)
    same = bool((bonferroni == one["verdict"].values).all())
    text = (
        "Against the token before it, the control of earlier work, the target turns "
        f"{sides(one['verdict'].values.tolist())}; that token differs in position, part of speech and frequency. "
        f"A paired t test with Bonferroni over all {data.attrs['tests']} tests "
    )
    return text + ("says the same." if same else f"says: {sides(bonferroni.astype(int).tolist())}.")


def _given(arrays: Arrays) -> str:
    if "against_given" not in arrays:
        return ""
    one = arrays["against_given"].sel(measure="angle", space="raw")
    return f"Against the control that was given, the target turns {sides(one['verdict'].values.tolist())}."


def _baselines(arrays: Arrays) -> list[str]:
    return [
        f"Against {what} the target turns "
        f"{sides(arrays[name].sel(measure='angle', space='raw')['verdict'].values.tolist())}."
        for name, what in BASELINES.items()
        if name in arrays
    ]


def _types(arrays: Arrays) -> list[str]:
    if "by_type" not in arrays:
        return []
    one = arrays["by_type"].sel(measure="angle", space="raw")
    parts = [
        f"{kind} ({int(n)}) {sides(row.tolist())}"
        for kind, n, row in zip(one["type"].values, one["families"].values, one["verdict"].values, strict=True)
    ]
    sign = np.sign(one["difference"].values)
    agree = [f"L{k}" for k in range(sign.shape[1]) if len(set(sign[:, k])) == 1]
    lead = (
        f"All types lie on the same side in {', '.join(agree)}."
        if agree
        else "In no layer do all types lie on the same side."
    )
    return [lead, f"By type (families), corrected over all types: {'; '.join(parts)}."]


def _norms(arrays: Arrays) -> str:
    one = arrays["means"].sel(who="target", space="raw")
    norm, radial = one["norm_mean"].values, one["radial_mean"].values
    along = [f"L{k}" for k in range(len(radial)) if radial[k] < 0]
    text = f"The target's norm goes from {number(norm[0])} (embedding) to {number(norm[-1])} (last block). "
    return text + (
        f"On average the update points against the vector in {', '.join(along)}." if along
        else "On average every block's update points along the vector."
    )  # fmt: skip


def _dominance(work: Work) -> str:
    share = work.reference.dominance().numpy()
    k = int(share.argmax())
    return (
        f"Three dimensions hold up to {percent(share[k])} of the mean squared norm (depth {k}; {percent(share[0])} at "
        f"the embedding), over {work.reference.said}, which also give the mean and scale of the centred and "
        "standardised angles."
    )


def _apart(arrays: Arrays) -> str:
    one = arrays["position_0"].sel(space="raw")
    other = arrays["means"].sel(who="target", space="raw")["norm_mean"].values
    norm = one["norm"].mean("occurrence").values
    k = int(np.argmax(norm / other))
    return (
        f"Position 0 is in none of this. There ({', '.join(quoted(str(t)) for t in one['token'].values[:3])}) the norm "
        f"is up to {number(norm[k] / other[k])} times the target's (depth {k}), and the blocks turn it by "
        f"{number(float(one['angle'].min()))}° to {number(float(one['angle'].max()))}°."
    )


def _warnings(arrays: Arrays) -> str:
    said = {name: str(a.attrs["warning"]) for name, a in arrays.items() if getattr(a, "attrs", {}).get("warning")}
    text = "; ".join(f"{name.removeprefix('against_').replace('_', ' ')}: {what}" for name, what in said.items())
    return f"What the tests cannot say: {text}." if text else ""
