"""Sweeps, and anything else over layers, heads, positions, vectors or strengths: as grids, curves and stems."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..errors import Refused
from ..stats import normalized_effect
from ..views import Cell, Curve, Picture, Table, plus
from ..wording import capital, number, prose, signed
from .beneath import told_of, with_tokens
from .effects import Numbers, effect_grid, full_scale, grid_numbers, share_unit, spoken_grid
from .families import over_families
from .shown import SHOWN, Shown, noted

STEMS = 60
"""Labels of a single axis that are drawn as stems; more, and it is a curve."""
ORDERED = ("layer", "depth", "scale", "position", "read")
"""Axes along which a line may be drawn."""
NONNEGATIVE = ("kl", "next_token_kl")
"""Metrics that no edit can lower: no sign, and nothing to test against 0."""
KEPT = ("layer", "head", "kv_head", "position", "scale", "setting")
"""Axes that a grid has rather than slices."""
CHOSEN = ("layer", "head", "kv_head", "neuron", "position", "query", "key")
"""Places that a sweep says of itself where they are the same in every cell."""
DOING = {
    "denoise": "denoising",
    "noise": "noising",
    "patch": "patching",
    "zero": "zeroing",
    "mean": "mean-ablating",
    "resample": "resampling",
    "add": "adding to",
    "put": "replacing",
    "project_out": "projecting out of",
}
"""What was done, in the words of a title."""
FACTORS = ("mode", "place", "layers")
"""What `factorial` crosses: its combinations are the rows of one grid."""


def sweep_shown(found: xr.Dataset) -> list[Shown]:
    """Prompt by prompt, so first to means over families; with intervals and tests where there is more than one."""
    if all(name in found["effect"].dims for name in FACTORS):
        found = _crossed(found)
    if "metric" not in found["effect"].dims:
        return _of_one_metric(found)
    made: list[Shown] = []
    metrics = [str(m) for m in found["metric"].values]
    units = str(found.attrs.get("units", "")).split(", ")
    for k, name in enumerate(metrics):
        one = found.isel(metric=k, drop=True)
        made += _of_one_metric(one.assign_attrs(metric=name, units=units[k] if len(units) == len(metrics) else ""))
    return made


def _crossed(found: xr.Dataset) -> xr.Dataset:
    """`replace · last · L3-5` for each combination, one below the other."""
    names = [
        f"{mode} · {place} · L{layers}"
        for mode in found["mode"].values
        for place in found["place"].values
        for layers in found["layers"].values
    ]
    stacked = found.stack(setting=FACTORS).reset_index("setting", drop=True).assign_coords(setting=names)
    edits = "a vector, added or in place of the write,"
    return stacked.transpose("prompt", "setting", ...).assign_attrs(edits=edits)


def _of_one_metric(found: xr.Dataset) -> list[Shown]:
    effect = found["effect"]
    if effect.dims == ("prompt",):
        return [_single(found)]
    least = {"least": 0} if str(found.attrs.get("metric")) in NONNEGATIVE else {}
    data = over_families(effect, tested=not least)
    if "low" in data:
        dims = tuple(d for d in effect.dims if d != "prompt")
        data = data.assign(_share(found, [str(f) for f in found["family"].values], dims))
    data = with_tokens(data, found)
    return grids(data.assign_attrs({**found.attrs, **data.attrs, **least}))


def _share(found: xr.Dataset, families: list[str], dims: tuple[Hashable, ...]) -> dict[str, Any]:
    """The effects as shares of the way from the base to the run that values came from, where there is such a way."""
    if "reference" not in found or found["reference"].dims != ("prompt",):
        return {}
    value = np.asarray(found["value"].transpose("prompt", *dims).values, float)
    try:
        share = normalized_effect(value, found["reference"].values, found["base"].values, families)
    except Refused:
        return {}
    return {
        name: (dims, x)
        for name, x in zip(("share", "share_low", "share_high"), (share.estimate, share.low, share.high), strict=True)
    }


def _single(found: xr.Dataset) -> Shown:
    """A sweep of one cell: its numbers, prompt by prompt."""
    what, unit = named(found), str(found.attrs.get("units", ""))
    mean = over_families(found["effect"], tested=True)
    values = [found[name].values.astype(float) for name in ("base", "value", "effect")]
    rows: list[list[str | Cell]] = [
        [prose(str(text), 60), *(plus(x[i], 4) for x in values)] for i, text in enumerate(found["text"].values[:200])
    ]
    between = f" [{signed(mean['low'])}, {signed(mean['high'])}]" if "low" in mean else ""
    caption = f"{what}: the {mean.attrs['mean']} changes by {signed(mean['effect'])}{between} ({unit})."
    table = Table(caption, ["prompt", "without the edit", "with it", "change"], rows, ["prompt"])
    terms = [(prose(str(t), 28), float(v)) for t, v in zip(found["text"].values[:30], values[2], strict=False)]
    return Shown(what, [table], lambda ax: plots.waterfall_plot(terms, None, capital(what), unit, ax))


def grids(data: xr.Dataset) -> list[Shown]:
    """Each slice of `effect` that has two axes as a grid, or its only axis as a curve or as stems.

    Args:
        data: `effect` over one axis or more, and what `grid_numbers` knows. Attributes: `units`, `title`, `mean`.
    """
    units, what = str(data.attrs.get("units", "logits")), named(data)
    of = "share" if "share" in data and bool(np.isfinite(data["share"]).all()) else "effect"
    if of == "share":
        units = share_unit(str(data.attrs.get("how", "")), str(data.attrs.get("metric", "the metric")))
    slices = _slices(*_squeezed(data))
    sizes = [np.abs(part[of].values[np.isfinite(part[of].values)]).max(initial=0.0) for _, part in slices]
    made: list[Shown] = []
    for heading, part in slices[:SHOWN]:
        title = f"{what}{heading}"
        mean = str(data.attrs.get("mean", "mean over families of prompts"))
        caption = capital(mean)
        draw = _curve if part[of].ndim == 1 else _grid
        made.append(draw(part, of, what, title, caption, units, max(sizes) if len(slices) > 1 else 0.0))
    note = f"The first {SHOWN} of {len(slices)} grids; the result has them all."
    return made if len(slices) <= SHOWN else noted(made, note)


def _grid(part: xr.Dataset, of: str, what: str, title: str, caption: str, units: str, full: float) -> Shown:
    numbers = grid_numbers(part, of)
    largest = float(np.nanmax(np.abs(numbers.values), initial=0.0))
    return Shown(
        what,
        [effect_grid(part, title, caption, units, of, full=full)],
        lambda ax: plots.grid_plot(
            numbers.values,
            numbers.rows,
            numbers.columns,
            title,
            units,
            numbers.certain,
            numbers.under,
            ax,
            full_scale(units) or (max(largest, full) if part.attrs.get("least") == 0 else 0.0),
            numbers.axes,
        ),
    )


def _curve(part: xr.Dataset, of: str, what: str, title: str, caption: str, units: str, full: float) -> Shown:
    """One axis: a line where the axis has an order, else a stem a label."""
    axis = str(part[of].dims[0])
    found = grid_numbers(part, of)
    names, values = found.rows, found.values[:, 0]
    low, high = (end[:, 0].tolist() for end in found.between) if found.between else (None, None)
    sure = None if found.certain is None else found.certain[:, 0]
    words = spoken_grid(found.values, names, [""], number if full_scale(units) else signed)
    unit, label = units or "value", str(part.attrs.get("label", of))
    drawn: views.Node
    plot: Callable[[Any], Any]
    caption += told_of(part, (axis,))
    lined = axis in ORDERED and f"{axis}_here" not in part.coords
    if lined or len(names) > STEMS:
        ends = {} if low is None else {"low": low, "high": high}
        marks = {} if sure is None else {"against 0": np.where(sure, np.sign(values), 0.0).tolist()}
        said = ("above 0", "below 0", "not told from 0")
        drawn = views.bands(
            [Curve(label, values.tolist(), **ends)], names, title, unit, marks=marks, said=said, axis=axis
        )
        between = None if low is None or high is None else {label: (low, high)}
        plot = lambda ax: plots.lines_plot({label: values.tolist()}, names, title, unit, ax, between, axis)  # noqa: E731
        said_marks = "; marks: corrected over this axis" if sure is not None else ""
        caption += f"{'; band: 95 % interval' if low is not None else ''}{said_marks}"
    else:
        starred = [f"{n} *" if sure is not None and sure[i] else n for i, n in enumerate(names)]
        drawn = views.stems(values.tolist(), starred, title, unit, low, high, axis, found.places[0])
        plot = lambda ax: plots.points_plot(names, values, low, high, title, unit, ax)  # noqa: E731
        caption += "; *: differs from 0, corrected over this axis" if sure is not None else ""
    return Shown(what, [Picture(drawn, f"{caption} ({units})" if units else caption, words)], plot)


def array_shown(data: xr.DataArray) -> list[Shown]:
    """Any array over layers."""
    if "prompt" in data.dims:
        over = with_tokens(over_families(data), data)
    else:
        over = xr.Dataset({"effect": data}, attrs={"mean": "as it is"})
    units = str(data.attrs.get("units", ""))
    least = {} if bool((over["effect"] < 0).any()) else {"least": 0}
    name = str(data.name or "value")
    return grids(over.assign_attrs({**over.attrs, **least, "units": units, "title": name, "label": name}))


def scores_shown(data: xr.Dataset) -> list[Shown]:
    """What heads attend to on repeated random ids."""
    made: list[Shown] = []
    for name in ("previous_token", "duplicate_token", "induction"):
        mean = data[name].mean("prompt") if "prompt" in data[name].dims else data[name]
        rows = f"mean over {data.sizes.get('prompt', 1)} rows of random ids, each repeated"
        attrs = {"units": "attention, 0 to 1", "title": f"{name.replace('_', ' ')} score", "mean": rows}
        made += grids(xr.Dataset({"effect": mean}, attrs=attrs))
    return [Shown("Scores of heads", one.parts, one.plot, one.text, one.note) for one in made]


def named(data: xr.Dataset) -> str:
    """What was done, and what was measured."""
    metric = str(data.attrs.get("metric", ""))
    if "edits" in data.attrs and "title" not in data.attrs:
        return f"effect of {_edited(data.attrs)}{f' on {metric}' if metric else ''}"
    of = str(data.attrs["title"]) if "title" in data.attrs else ""
    of = of or " ".join(str(data.attrs[key]) for key in ("how", "site") if key in data.attrs)
    return f"{of or 'effect'}{f' on {metric}' if metric else ''}"


def _edited(attrs: Mapping[str, Any]) -> str:
    """`patching resid_pre (layer 3)` for one edit with what was chosen once; anything else as it is written."""
    edits = str(attrs["edits"])
    one = re.fullmatch(r"(\w+)\('(\w+)'[^&{}()]*\)", edits)
    if one is None:
        return prose(edits, 60)
    where = ", ".join(f"{name} {attrs[name]}" for name in CHOSEN if name in attrs)
    verb = DOING.get(str(attrs.get("how") or one[1]), one[1])
    return f"{verb} {one[2]}{f' ({where})' if where else ''}"


def _squeezed(data: xr.Dataset) -> tuple[xr.Dataset, str]:
    """Without the axes that have a single label, and these in words; one axis stays."""
    dims = [str(d) for d in data["effect"].dims]
    single = [d for d in dims if data.sizes[d] == 1]
    if len(single) == len(dims):
        single.remove("layer" if "layer" in single else dims[0])
    said = "".join(f", {d} {data[d].values[0] if d in data.coords else 0}" for d in single)
    return data.isel(dict.fromkeys(single, 0)), said


def _slices(data: xr.Dataset, before: str = "") -> list[tuple[str, xr.Dataset]]:
    """The grid, or its slices along every axis beyond two; each with what it is of, after `before`."""
    dims = [str(d) for d in data["effect"].dims]
    if len(dims) <= 2:
        return [(before, data)]
    kept = ("query", "key") if "query" in dims and "key" in dims else KEPT
    third = next((d for d in dims if d not in kept), dims[-1])
    labels = data[third].values if third in data.coords else range(data.sizes[third])
    made: list[tuple[str, xr.Dataset]] = []
    for i, value in enumerate(labels):
        made += _slices(data.isel({third: i}), f"{before}, {third} {value}")
    return made


__all__ = ["Numbers", "array_shown", "grids", "named", "scores_shown", "sweep_shown"]
