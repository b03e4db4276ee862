"""The page of the study of rotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .. import views
from ..studies.study import Study
from ..views import Band, Curve, interval, num
from ..wording import label, number, several
from .page import Cell, Picture, Section, Table, Verbatim
from .shared import about, opening

Parts = list[Picture | Table | Verbatim]
SINGLE = 120
"""Occurrences drawn as thin lines at most."""
SAID = ("target above", "target below", "not significant")
COMPARISONS = {
    "against_matched": "matched",
    "against_token_before": "token before",
    "against_given": "given",
    "against_other_tokens": "other tokens",
    "against_other_depths": "other depths",
    "against_random_update": "random update",
}
CONTROLS = ("matched", "token before", "given")


def sections(study: Study) -> list[Section]:
    """Findings, angles, tests, excess, the parts of the update, baselines, types, sentences; then checks."""
    arrays = study.arrays
    made = [*opening(study), _angles(arrays), _tests(arrays), _parts(arrays), _baselines(arrays)]
    if "by_type" in arrays:
        made.append(_types(arrays))
    return [*made, _sentences(arrays), *about(study)]


def _ticks(data: xr.Dataset) -> list[str]:
    return [f"L{k}" for k in data["layer"].values]


def _marks(arrays: Mapping[str, Any], names: Sequence[str], space: str, measure: str) -> dict[str, list[float]]:
    """Rows of marks: verdicts of some comparisons."""
    return {
        f"against {COMPARISONS[name]}": arrays[name]["verdict"].sel(space=space, measure=measure).values.tolist()
        for name in names
        if name in arrays and measure in arrays[name]["measure"].values
    }


def _curve(means: xr.Dataset, who: str, what: str = "", single: Sequence[Sequence[float]] = ()) -> Curve:
    one = means.sel(who=who)
    middle, low, high = (one[f"{what}{part}"].values.tolist() for part in ("mean", "low", "high"))
    return Curve(who, middle, low, high, single)


def _spoken(curves: Sequence[Curve], ticks: Sequence[str]) -> str:
    return " ".join(views.spoken_line(c.name, c.middle, ticks, False) for c in curves)


def _who(means: xr.Dataset, of: Sequence[str]) -> list[str]:
    return [w for w in of if w in means["who"].values and np.isfinite(means["mean"].sel(who=w)).any()]


def _angles(arrays: Mapping[str, Any]) -> Section:
    turns, parts = arrays["turns"], list[Any]()
    single = turns["angle"].sel(who="target").isel(occurrence=slice(SINGLE))
    for space in turns["space"].values:
        means, ticks = arrays["means"].sel(space=space), _ticks(turns)
        thin = single.sel(space=space).transpose("occurrence", "layer").values.tolist()
        curves = [_curve(means, who, "", thin if who == "target" else ()) for who in _who(means, ("target", *CONTROLS))]
        limits = arrays["baselines"].sel(space=space)
        null = Band("random updates", limits["low"].values.tolist(), limits["high"].values.tolist())
        marks = _marks(arrays, list(COMPARISONS)[:3], space, "angle")
        title = f"Angle by which each block turns a token, {space}"
        picture = views.bands(curves, ticks, title, "degrees", null=null, marks=marks, said=SAID, axis="block")
        caption = (
            f"Mean over families with {100 * arrays['means'].attrs['level']:g} % intervals; a thin line for each of "
            f"{len(thin)} targets; grey: where the mean would lie if the updates had their size and random "
            "directions. Marks: sign-flip max-T over the whole grid."
        )
        parts.append(Picture(picture, caption, _spoken(curves, ticks)))
    note = (
        "Raw: the stream as it is. Centred: the mean state of each depth taken out. Standardised: each dimension at "
        f"the scale it has there. Mean and scale are taken over {arrays['turns'].attrs['tokens']}."
    )
    return Section("How far each block turns a token", [note], parts)


def _tests(arrays: Mapping[str, Any]) -> Section:
    parts: Parts = []
    turns = arrays["turns"]
    chosen = [name for name in list(COMPARISONS)[:3] if name in arrays]
    for measure, title in (
        ("angle", "t of the difference in angle, raw"),
        ("excess", "t of the difference in excess, raw"),
    ):
        curves = [
            Curve(f"against {COMPARISONS[n]}", _finite(arrays[n]["t"].sel(space="raw", measure=measure)))
            for n in chosen
        ]
        if curves:
            marks = _marks(arrays, chosen, "raw", measure)
            picture = views.bands(curves, _ticks(turns), title, "t over families", marks=marks, said=SAID, axis="block")
            caption = "Paired t over families, target minus control; marks are corrected, not read off t."
            parts.append(Picture(picture, caption, _spoken(curves, _ticks(turns))))
    if "over_words" in arrays:
        parts.append(_words(arrays))
    parts += [_table(arrays[name], COMPARISONS[name]) for name in COMPARISONS if name in arrays]
    return Section("Targets against controls", parts=parts)


def _words(arrays: Mapping[str, Any]) -> Picture:
    """The matched difference with its two intervals: over sentences, and over words as well."""
    curves = []
    for name, data in (("over words", arrays["over_words"]), ("over sentences", arrays["against_matched"])):
        one = data.sel(measure="angle", space="raw")
        curves.append(Curve(name, *(one[part].values.tolist() for part in ("difference", "low", "high"))))
    ticks = _ticks(arrays["turns"])
    picture = views.bands(curves, ticks, "Difference to matched controls, raw", "degrees", axis="block")
    caption = (
        "The same sentences' difference in angle, with intervals over families of sentences, and with the words drawn "
        "at random too (types of target crossed with control words). No band is corrected for the number of blocks."
    )
    return Picture(picture, caption, _spoken(curves, ticks))


def _finite(values: xr.DataArray) -> list[float]:
    return np.where(np.isfinite(values.values), values.values, np.nan).tolist()


def _table(data: xr.Dataset, name: str) -> Table:
    rows: list[list[str | Cell]] = []
    one = data.sel(measure="angle", space="raw")
    words = {1: "above", -1: "below", 0: "not significant"}
    for k in one["layer"].values:
        cell = one.sel(layer=k)
        difference = interval(cell, ("difference", "low", "high"))
        others = [
            words[int(data["verdict"].sel(measure="angle", space=space, layer=k))]
            for space in ("centred", "standardised")
        ]
        rows.append(
            [f"L{k}", num(cell["target"]), num(cell["control"]), difference, num(cell["t"]),
             num(cell["p_corrected"], 2), num(cell["p_bonferroni"], 2), words[int(cell["verdict"])], *others]
        )  # fmt: skip
    columns = [
        "block",
        "target",
        "control",
        "difference [interval]",
        "t",
        "p, max-T",
        "p, Bonferroni",
        "raw",
        "centred",
    ]
    caption = (
        f"Against {name}: angles in degrees, raw, {data.attrs['families']} families ({data.attrs['compared']} targets, "
        f"{data.attrs['left_out']} without one). Both corrections are over all {data.attrs['tests']} tests of this "
        "comparison; raw, centred and standardised say where the target lies by max-T."
    )
    return Table(caption, [*columns, "standardised"], rows, ["block", "raw", "centred", "standardised"])


def _parts(arrays: Mapping[str, Any]) -> Section:
    means = arrays["means"].sel(space="raw")
    ticks, who = _ticks(means), _who(arrays["means"].sel(space="raw"), ("target", "matched"))
    made: Parts = []
    curves = [_curve(means, w, "excess_") for w in who]
    marks = _marks(arrays, ["against_matched"], "raw", "excess")
    title = "Excess over the angle of an orthogonal update of the same size, raw"
    picture = views.bands(curves, ticks, title, "degrees", marks=marks, said=SAID, axis="block")
    caption = "Angle less arctan(|update| / |vector|): what the size of the update alone does not explain."
    made.append(Picture(picture, caption, _spoken(curves, ticks)))
    names = {"radial_": "along the vector", "tangential_": "across it", "update_": "whole update"}
    curves = [
        Curve(text, *(means.sel(who="target")[f"{key}{part}"].values.tolist() for part in ("mean", "low", "high")))
        for key, text in names.items()
    ]
    picture = views.bands(curves, ticks, "The target's updates, taken apart, raw", "norm", axis="block")
    caption = (
        "What each block adds to the target: its length, the part along the vector (negative: against it) and across."
    )
    made.append(Picture(picture, caption, _spoken(curves, ticks)))
    depths = [str(k) for k in means["depth"].values]
    curves = [_curve(means, w, "norm_") for w in who]
    picture = views.bands(curves, depths, "Norm of the stream, raw", "norm", axis="depth")
    caption = "Depth 0 is the embedding, the last is what leaves the last block, before the final norm."
    made.append(Picture(picture, caption, _spoken(curves, depths)))
    share = Curve("three dimensions", arrays["reference"]["dominance"].values.tolist())
    picture = views.bands(
        [share], depths, "Share of the squared norm in three dimensions", "share", limits=(0, 1), axis="depth"
    )
    caption = "Where this is large, raw angles are decided by a few dimensions; compare with the standardised ones."
    made.append(Picture(picture, caption, views.spoken_line(share.name, share.middle, depths, True)))
    return Section("What the angle is made of", parts=made)


def _baselines(arrays: Mapping[str, Any]) -> Section:
    data = arrays["baselines"]
    means, ticks = arrays["means"].sel(space="raw"), _ticks(data)
    curves = [_curve(means, "target")]
    for name in data["baseline"].values:
        values = data["angle"].sel(baseline=name, space="raw").transpose("occurrence", "layer").values
        kept = values[np.isfinite(values).all(1)]
        if len(kept):
            curves.append(Curve(str(name), kept.mean(0).tolist()))
    marks = _marks(arrays, list(COMPARISONS)[3:], "raw", "angle")
    title = "The target's turn and three baselines, raw"
    picture = views.bands(curves, ticks, title, "degrees", marks=marks, said=SAID, axis="block")
    note = (
        "Other tokens: from the target before a block to every other token after it, from position 1 up to the target. "
        "Other depths: from the target before a block to itself at every depth but those two. Random update: the "
        "target with an update of the same size in a random direction."
    )
    caption = "Each baseline is a mean over all there are (random updates: over draws) and enters a test."
    return Section("Baselines", [note], [Picture(picture, caption, _spoken(curves, ticks))])


def _types(arrays: Mapping[str, Any]) -> Section:
    data = arrays["by_type"]
    one, ticks = data.sel(measure="angle", space="raw"), _ticks(data)
    kinds = [str(k) for k in data["type"].values][:8]
    curves = [
        Curve(k, *(one[part].sel(type=k).values.tolist() for part in ("difference", "low", "high"))) for k in kinds
    ]
    marks = {k: one["verdict"].sel(type=k).values.tolist() for k in kinds}
    title = "Difference in angle to matched controls, by type, raw"
    picture = views.bands(curves, ticks, title, "degrees", marks=marks, said=SAID, axis="block")
    count = ", ".join(f"{k} {int(n)}" for k, n in zip(kinds, data["families"].values, strict=False))
    caption = f"Means over families ({count}) with their intervals; marks are corrected over all types and cells."
    return Section("By type of target", parts=[Picture(picture, caption, _spoken(curves, ticks))])


def _sentences(arrays: Mapping[str, Any]) -> Section:
    data, angle = arrays["sentences"], arrays["turns"]["angle"].sel(who="target", space="raw")
    shown = min(data.sizes["occurrence"], 40)
    rows: list[list[str | Cell]] = []
    for k in range(shown):
        one = data.isel(occurrence=k)
        most = int(np.nan_to_num(angle.isel(occurrence=k).values).argmax())
        octaves = float(one["octaves"])
        rows.append(
            [str(one["text"].values), Cell(label(str(one["target"].values)), token=True), str(int(one["position"])),
             str(int(one["sentences"])),
             label(str(one["control"].values)) if one["control"].values else "none", str(one["control_text"].values),
             "" if np.isnan(octaves) else num(2**octaves),
             Cell(f"L{most} {number(angle.isel(occurrence=k, layer=most))}",
                  numbers={"": float(angle.isel(occurrence=k, layer=most)), "layer": most})]
        )  # fmt: skip
    columns = ["sentence", "target", "position", "sentences", "control", "in", "frequency to target's", "largest turn"]
    caption = f"The first {shown} of {data.sizes['occurrence']} targets; all are in the result. Angles in degrees, raw."
    first = arrays["position_0"].sel(space="raw")
    apart: list[list[str | Cell]] = [
        [f"L{k}", num(first["angle"].sel(layer=k).mean()), num(first["norm"].sel(depth=k).mean())]
        for k in first["layer"].values
    ]
    caption_0 = (
        "Position 0, which is in nothing above: mean angle in degrees and norm before the block, over "
        f"{several(first.sizes['occurrence'], 'different first token')}."
    )
    parts: Parts = [
        Table(caption, columns, rows, ["sentence", "target", "control", "in", "largest turn"]),
        Table(caption_0, ["block", "angle", "norm"], apart, ["block"]),
    ]
    return Section("Sentences", parts=parts)


__all__ = ["sections"]
