"""The page of study three."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import views
from ..figures import before_after_table, draws_figure, ladder_table
from ..studies.study import Study
from ..views import interval, plus, portion
from ..wording import number, percent, signed
from .page import Cell, Picture, Section, Table, Verbatim
from .shared import about, opening

Parts = list[Picture | Table | Verbatim]
NULLS = ("isotropic", "orthogonal", "covariance", "real difference")
CALLED = {"elsewhere": "where nobody asked: added", "asked": "where it is asked: subtracted"}


def sections(study: Study) -> list[Section]:
    """Findings; stages; interventions and controls; readout edits; maps; flips; factors; specificity; before "
    "| after."""
    arrays = study.arrays
    made = [*opening(study), _stages(study), _ladders(arrays, "intervention"), _maps(arrays)]
    made += [_ladders(arrays, "readout"), *_flips(arrays), *_factors(arrays), *_specificity(arrays)]
    return [*made, *_others(arrays), _before_after(arrays), _chosen(study), *about(study)]


def _ticks(data: xr.Dataset) -> list[str]:
    return [f"L{int(n)}" for n in data["layer"].values]


def _share(value: Any) -> Cell:
    return portion(value, shaded=True)


# -- stages ---------------------------------------------------------------------------------------------------------


def _stages(study: Study) -> Section:
    data: xr.Dataset = study.arrays["stages"]
    parts: Parts = []
    ticks = _ticks(data)
    for name in dict.fromkeys(data["relation"].values.tolist()):
        for context, what in (("asked", "asked"), ("elsewhere", "never asked")):
            one = data.isel(prompt=np.flatnonzero((data["relation"] == name) & (data["context"] == context)))
            curves = []
            for token in ("argument", "answer"):
                rank = one[f"{token}_reciprocal_rank"].values
                low, middle, high = np.quantile(rank, [0.25, 0.5, 0.75], axis=0)
                curves.append(views.Curve(token, middle.tolist(), low.tolist(), high.tolist()))
            title = f"{name.replace('_', ' ').capitalize()}, {what}: reciprocal rank"
            picture = views.bands(curves, ticks, title, "1 / (rank + 1)", limits=(0.0, 1.0), axis="after layer")
            words = " ".join(views.spoken_line(c.name, c.middle, ticks, False) for c in curves)
            parts.append(Picture(picture, f"Median of {one.sizes['prompt']} items, and their middle half.", words))
    rows: list[list[str | Cell]] = []
    for context in ("asked", "elsewhere"):
        for name in dict.fromkeys(data["relation"].values.tolist()):
            one = data.isel(prompt=np.flatnonzero((data["relation"] == name) & (data["context"] == context)))
            row: list[str | Cell] = [f"{name.replace('_', ' ')}, {context}", str(one.sizes["prompt"])]
            found = [one["formation"], one["switch"].sel(reading="top"), one["switch"].sel(reading="pair")]
            for x in (*found, one["saturation"]):
                there = x.values[x.values >= 0]
                at = f", L{int(there.min())} to L{int(there.max())}" if len(there) else ""
                row.append(f"{len(there)}{at}")
            rows.append(row)
    columns = ["relation, context", "items", "argument on top", "switch, on top", "switch, pair", "answer stays"]
    caption = "In how many items each stage occurs, and at which layers."
    table = Table(caption, columns, rows, columns[:1])
    note = "A model that forms the argument first and then applies a function to it draws an X: one falls, one rises."
    return Section(
        "Stages", [note], [*parts, table, Verbatim("One prompt of each kind", study.texts["example prompts"])]
    )


# -- the ladder -------------------------------------------------------------------------------------------------------


def _ladders(arrays: dict[str, Any], operation: str) -> Section:
    parts: Parts = []
    for context, what in CALLED.items():
        table = arrays[f"{operation}_{context}"]
        parts.append(ladder_table(table, f"{what} x {abs(float(table.attrs['strength'])):g}"))
        if operation == "intervention":
            parts.append(draws_figure(table, what, "logit change", "logits, mean over items"))
    notes = {
        "intervention": "The vector is put into a run at one layer, last position, and everything after it is computed "
        "anew. All arms have the vector's norm, except nothing.",
        "readout": "The vector is added to a stored state of each layer by itself, and decoded. Nothing propagates. "
        "Layers turned: share of the layers where the one token has the say that turn to the other.",
    }
    heading = {"intervention": "Interventions against controls", "readout": "Readout edits against controls"}
    return Section(heading[operation], [notes[operation]], parts)


# -- layer x strength -------------------------------------------------------------------------------------------------


def _maps(arrays: dict[str, Any]) -> Section:
    if "map" not in arrays:
        return Section("Layer and strength")
    data: xr.Dataset = arrays["map"]
    parts: Parts = []
    rows, columns = _ticks(data), [f"{s:+g}" for s in data["scale"].values]
    for operation in data["operation"].values:
        for context in data["context"].values:
            one = data.sel(operation=operation, context=context)
            certain = one["p_corrected"].values <= 1 - float(data.attrs["level"]) + 1e-12
            title = f"{operation}, {context}: change of the answer's lead, logits"
            values = one["change"].values
            order = np.argsort(-np.abs(values), axis=None)[:5]
            at = [divmod(int(k), len(columns)) for k in order]
            words = "Largest: " + ", ".join(f"{rows[i]} x {columns[j]} {signed(values[i, j])}" for i, j in at) + "."
            caption = "Down: layer; across: strength, minus is subtracted. Framed: differs from 0, max-T over the map."
            parts.append(Picture(views.signed_grid(values, rows, columns, title, certain), caption, words))
            aim = "answer_top" if context == "elsewhere" else "argument_top"
            cells: list[list[str | Cell]] = [
                [row, *(_share(v) for v in one[aim].values[i])] for i, row in enumerate(rows)
            ]
            token = aim.split("_", 1)[0]
            parts.append(Table(f"{operation}, {context}: items with the {token} on top.", ["layer", *columns], cells))
    return Section("Layer and strength", ["One vector, every layer and every strength by itself."], parts)


# -- flips ------------------------------------------------------------------------------------------------------------


def _flips(arrays: dict[str, Any]) -> list[Section]:
    if "flip_curves" not in arrays:
        return []
    data: xr.Dataset = arrays["flip_curves"]
    parts: Parts = []
    steps = [f"{s:g}" for s in data["step"].values]
    ways = {"elsewhere": "argument to answer", "asked": "answer to argument"}
    last = data.isel(layer=-1)
    for context, way in ways.items():
        for measure in ("pair", "target"):
            one = last.sel(context=context, measure=measure)
            arms = [a for a in ("vector" if context == "elsewhere" else "minus", *NULLS, "boundary") if a in one["arm"]]
            curves = [views.Curve(str(a), one["share"].sel(arm=a).values.tolist()) for a in arms]
            if measure == "pair":
                curves.append(views.Curve("closed form", one["null"].values.tolist()))
            which = "the pair" if measure == "pair" else "the whole vocabulary"
            title = f"{way.capitalize()}, {which}: flipped within so many norms"
            picture = views.bands(curves, steps, title, "share", limits=(0.0, 1.0), axis="norms")
            words = " ".join(views.spoken_line(c.name, c.middle, steps, False) for c in curves)
            parts.append(Picture(picture, "Readout edits at the last layer, each state by itself.", words))
    for name, what in (("flip_curves", "Readout edits"), ("flips_in_runs", "Interventions")):
        if name in arrays:
            parts += [_medians(arrays[name], context, f"{what}, {ways[context]}") for context in ways]
    note = (
        "The pair asks whether the wanted token leads the present one; the whole vocabulary asks whether it is "
        "on top. A "
        "random vector that is long enough flips a pair in half of the cases, and pulls in unrelated tokens."
    )
    return [Section("How far until it flips", [note], parts)]


def _medians(data: xr.Dataset, context: str, what: str) -> Table:
    rows: list[list[str | Cell]] = []
    for layer in data["layer"].values:
        one = data.sel(context=context, layer=layer)
        row: list[str | Cell] = [f"L{int(layer)}"]
        for arm in data["arm"].values:
            middle = float(one["median"].sel(arm=arm, measure="target"))
            reached = float(one["share"].sel(arm=arm, measure="target").isel(step=-1))
            said = number(middle) if np.isfinite(middle) else "never"
            row.append(Cell(said, views.shade_of(reached), {"": middle, "share": reached}, percent(reached)))
        rows.append(row)
    caption = (
        f"{what}: median smallest step after which the wanted token is on top, in multiples of the vector "
        "(share of items "
        f"and draws for which it ever is, up to {float(data['step'][-1]):g}); never: for fewer than half."
    )
    return Table(caption, ["layer", *map(str, data["arm"].values)], rows)


# -- the rest ---------------------------------------------------------------------------------------------------------


def _factors(arrays: dict[str, Any]) -> list[Section]:
    if "factors" not in arrays:
        return []
    data = arrays["factors"]
    rows: list[list[str | Cell]] = []
    for mode in data["mode"].values:
        for place in data["place"].values:
            for layers in data["layers"].values:
                one = data.sel(mode=mode, place=place, layers=layers)
                cells = [_change_and_share(one.sel(arm=a)) for a in data["arm"].values]
                rows.append([f"{mode}, {place}, {layers}", *cells])
    caption = (
        "Share of items (and draws) with the answer on top; under it the change of the answer's lead in logits, with "
        "its interval."
    )
    columns = ["mode, place, layers", *map(str, data["arm"].values)]
    note = "Where nobody asked. Replacing takes the layer's own write away; adding leaves it. They are told apart here."
    return [Section("Replace or add, where, which layers", [note], [Table(caption, columns, rows, columns[:1])])]


def _change_and_share(one: xr.Dataset) -> Cell:
    """How often it succeeds, and by how much the lead changes."""
    change, success = interval(one, ("change", "low", "high")), float(one["success"])
    numbers = {"": success, **{name or "change": value for name, value in change.numbers.items()}}
    return Cell(percent(success), views.shade_of(success), numbers, f"{change.text} {change.under}")


def _specificity(arrays: dict[str, Any]) -> list[Section]:
    parts: Parts = []
    if "specificity" in arrays:
        data = arrays["specificity"]
        rows: list[list[str | Cell]] = []
        for name in data["relation"].values:
            for context in data["context"].values:
                one = data.sel(relation=name, context=context)
                rows.append(
                    [
                        f"{str(name).replace('_', ' ')}, {context}",
                        interval(one, ("change", "low", "high")),
                        portion(one["success"]),
                        interval(one, ("kl", "kl_low", "kl_high")),
                        interval(one, ("own_minus", "own_low", "own_high")),
                    ]
                )
        columns = ["items of", "change", "answer on top", "KL, nats", "own minus these"]
        parts.append(Table("The vector added, toward each relation's own answers.", columns, rows, columns[:1]))
    if "kinds" in arrays:
        data = arrays["kinds"]
        made: list[list[str | Cell]] = [
            [
                str(k),
                str(data["place"].sel(kind=k).values),
                interval(data.sel(kind=k), ("change", "low", "high")),
                portion(data["success"].sel(kind=k)),
                plus(data["cosine"].sel(kind=k)),
            ]
            for k in data["kind"].values
        ]
        columns = ["vector", "read at", "change", "answer on top", "cosine"]
        parts.append(
            Table("Vectors taken in other ways, norm-matched, where nobody asked.", columns, made, columns[:2])
        )
    return [Section("Specificity, cost, and other ways to take it", parts=parts)] if parts else []


def _others(arrays: dict[str, Any]) -> list[Section]:
    names = [name for name in arrays if name.startswith("relation_")]
    parts: Parts = [
        ladder_table(
            arrays[n],
            f"{n.removeprefix('relation_').replace('_', ' ')}, L{arrays[n].attrs['layer']} x "
            f"{float(arrays[n].attrs['strength']):g}",
        )
        for n in names
    ]
    return [Section("Other relations, each with its own vector", parts=parts)] if parts else []


def _before_after(arrays: dict[str, Any]) -> Section:
    parts: Parts = []
    for name in ("compare_readout", "compare_intervention"):
        data = arrays[name]
        parts += [before_after_table(data, i) for i in range(min(2, data.sizes["prompt"]))]
    note = "What each layer would say without and with the edit. The same as data in the result."
    return Section("Before | after", [note], parts)


def _chosen(study: Study) -> Section:
    data = study.arrays["choice"]
    columns = [f"x {s:g}" for s in data["scale"].values]
    rows: list[list[str | Cell]] = [
        [f"L{int(n)}", *(_share(v) for v in data["success"].sel(layer=n).values)] for n in data["layer"].values
    ]
    caption = "Answer on top, items the vectors were taken from, each layer's own mean update added at that layer."
    parts: Parts = [Table(caption, ["layer", *columns], rows), Verbatim("Items", study.texts["items"])]
    return Section("How layer and strength were chosen", [study.texts["words"]], parts, folded=True)
