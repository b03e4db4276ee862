"""Which view a result has: told by what its arrays are, never by a flag."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from .. import plots, views
from ..errors import BadInput, Refused
from ..stats import max_t, mean_interval, normalized_effect
from ..views import Picture, Table, num
from ..wording import label, prose, shown_text, signed
from .again import attention_code, attribution_code, cumulative_code, lens_code, traced
from .attention import attention_figure
from .contributions import contribution_table, contributions, largest
from .effects import effect_grid, full_scale, grid_numbers
from .lens import lens_figure, lens_table, readings
from .tokens import next_token_table
from .turning import turning_figure

SHOWN = 8
"""Prompts or grids shown of one result; the result has them all."""


@dataclass(frozen=True)
class Shown:
    """One figure of a result: its heading, its parts for a page, how matplotlib draws it on given axes, and the table
    that stands for it on a terminal (default: that of the first part)."""

    heading: str
    parts: Sequence[Picture | Table]
    plot: Callable[[Any], Any] | None = None
    text: Table | None = None


def shown(result: Any) -> list[Shown]:
    """The figures of a result.

    Raises:
        BadInput: it is no result of this library, or of a kind that has no view.
    """
    for fits, make in KINDS:
        if isinstance(result, xr.Dataset | xr.DataArray) and fits(result):
            return make(result)
    what = f"{type(result).__name__} over {', '.join(map(str, getattr(result, 'dims', ())))}".removesuffix(" over ")
    raise BadInput(
        f"There is no view for this {what}. Views exist for the results of lens, attribute, cumulative, top, sweep, "
        "denoise, noise, attention_patterns, head_scores and rotations, and for arrays over layers."
    )


def _lens(lens: xr.Dataset) -> list[Shown]:
    def one(i: int) -> Shown:
        found, text = readings(lens, i), prose(str(lens["text"].values[i]))
        return Shown(
            f"“{text}”",
            [lens_figure(lens, i, lens_code(lens.isel(prompt=i)))],
            lambda ax: plots.lens_plot(found, f"Logit lens: {text}", ax),
            lens_table(lens, i),
        )

    return [one(i) for i in range(min(lens.sizes["prompt"], SHOWN))]


def _attribution(terms: xr.DataArray) -> list[Shown]:
    if "read" in terms.dims:
        terms = terms.isel(read=0)

    def one(i: int) -> Shown:
        mine = terms.isel(prompt=i)
        chosen, total = largest(mine, 14), float(mine.sum())
        title = f"{shown_text(str(mine['quantity'].values))} = {signed(total)}"
        return Shown(
            f"“{prose(str(terms['text'].values[i]))}”",
            [contributions(terms, i, code=attribution_code(mine)), contribution_table(terms, i, 16)],
            lambda ax: plots.waterfall_plot(chosen, total, title, str(terms.attrs["units"]), ax),
        )

    return [one(i) for i in range(min(terms.sizes["prompt"], SHOWN))]


def _attention(data: xr.DataArray) -> list[Shown]:
    def one(i: int) -> Shown:
        mine = data.isel(prompt=i)
        n = int((mine["input_token"].values != "").sum())
        mine = mine.isel(query=slice(n), key=slice(n))
        text = str(mine["text"].values)
        tokens = [str(t) for t in mine["input_token"].values]

        def plot(ax: Any) -> Any:
            last = mine.isel(layer=-1, head=0)
            name = f"L{int(last['layer'])}H{int(last['head'])}"
            return plots.attention_plot(last.values, tokens, f"Attention of {name}: {prose(text)}", ax)

        return Shown(
            f"“{prose(text)}”",
            [attention_figure(mine, text, None, int(mine["prompt"]), code=attention_code(mine))],
            plot,
        )

    return [one(i) for i in range(min(data.sizes["prompt"], SHOWN))]


def _grid(data: xr.Dataset) -> list[Shown]:
    units, what = str(data.attrs.get("units", "logits")), _named(data)
    of = "share" if "share" in data and bool(np.isfinite(data["share"]).all()) else "effect"
    if of == "share":
        units = f"share of the way from one run to the other in {data.attrs.get('metric', 'the metric')}"
    made = []
    for heading, part in _facets(data, data["effect"]):
        title = f"{what}{heading}"
        caption = f"{title}: {data.attrs.get('mean', 'mean over families of prompts')}"
        numbers = grid_numbers(part, of)

        def plot(ax: Any, numbers: Any = numbers, title: str = title) -> Any:
            labels = numbers.rows, numbers.columns
            return plots.grid_plot(
                numbers.values, *labels, title, units, numbers.certain, numbers.under, ax, full_scale(units)
            )

        made.append(Shown(what, [effect_grid(part, title, caption, units, of)], plot))
    return made


def _sweep(found: xr.Dataset) -> list[Shown]:
    """Prompt by prompt, so first to means over families; with intervals and tests where there is more than one."""
    families = [str(f) for f in found["family"].values]
    effect = found["effect"]
    dims = tuple(d for d in effect.dims if d != "prompt")
    change = np.asarray(effect.transpose("prompt", *dims).values, float)
    data: dict[str, Any] = {"effect": (dims, change.mean(0))}
    several = len(set(families)) > 1
    if several and np.isfinite(change).all():
        interval, test = mean_interval(change, families), max_t(change, families)
        data = {
            "effect": (dims, interval.estimate),
            "low": (dims, interval.low),
            "high": (dims, interval.high),
            "p_corrected": (dims, test.p_corrected),
        }
        data |= _share(found, families, dims)
    coords = {d: found[d] for d in dims if d in found.coords}
    mean = "mean over families of prompts" if several else "mean over prompts"
    return _grid(xr.Dataset(data, coords, {**found.attrs, "level": 0.95, "mean": mean}))


def _share(found: xr.Dataset, families: Sequence[str], dims: tuple[Hashable, ...]) -> dict[str, Any]:
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


def _top(table: xr.Dataset) -> list[Shown]:
    columns = [table[name].values.tolist() for name in ("token", "token_id", "logit", "probability")]
    logs = [num(x, 4) for x in table["log_probability"].values]
    base = next_token_table(*columns)
    rows = [[*row[:4], log, row[4]] for row, log in zip(base.rows, logs, strict=True)]
    heads = [*base.columns[:4], "log-probability", base.columns[4]]
    terms = [(label(str(t), 20), float(p)) for t, p in zip(columns[0], columns[3], strict=True)]
    return [
        Shown(
            "Next token",
            [Table(base.caption, heads, rows, base.left)],
            lambda ax: plots.waterfall_plot(terms, None, "Next token", "probability", ax),
        )
    ]


def _cumulative(steps: xr.DataArray) -> list[Shown]:
    ticks = [str(p).replace(".resid_", " ") for p in steps["point"].values]
    series = {
        f"{i} {prose(str(steps['text'].values[i]), 16)}": (steps.values[i] + float(steps["bias"].values[i])).tolist()
        for i in range(min(steps.sizes["prompt"], 4))
    }
    code = cumulative_code(steps.isel(prompt=slice(4)))
    return [_lines(series, ticks, "Readout at every depth, final norm's scale", str(steps.attrs["units"]), code)]


def _lines(series: dict[str, list[float]], ticks: list[str], title: str, unit: str, code: str = "") -> Shown:
    drawn = views.lines(series, ticks, title, unit)
    words = " ".join(views.spoken_line(name, line, ticks, False) for name, line in series.items())
    return Shown(
        title, [Picture(drawn, title, words, code=code)], lambda ax: plots.lines_plot(series, ticks, title, unit, ax)
    )


def _scores(data: xr.Dataset) -> list[Shown]:
    names = ("previous_token", "duplicate_token", "induction")
    made: list[Shown] = []
    for name in names:
        mean = data[name].mean("prompt") if "prompt" in data[name].dims else data[name]
        title = f"{name.replace('_', ' ')} score"
        rows = f"mean over {data.sizes.get('prompt', 1)} rows of random ids, each repeated"
        one = xr.Dataset({"effect": mean}, attrs={"units": "attention, 0 to 1", "title": title, "mean": rows})
        made += [replace(grid, heading="Scores of heads") for grid in _grid(one)]
    return made


def _rotations(found: xr.Dataset) -> list[Shown]:
    made = []
    for space in found["space"].values:
        picture, means, ticks = turning_figure(found, str(space))
        if found["space"].values.tolist() == ["raw"] and str(found.attrs.get("at")) == "all":
            picture = replace(picture, code=traced(found, "cutaway.show(cutaway.rotations(t))"))

        def plot(ax: Any, means: Any = means, ticks: Any = ticks, title: str = picture.name) -> Any:
            return plots.lines_plot(means, ticks, title, "degrees", ax)

        made.append(Shown("How far each block turns a token", [picture], plot))
    return made


def _array(data: xr.DataArray) -> list[Shown]:
    mean = data.mean("prompt") if "prompt" in data.dims else data
    unit = str(data.attrs.get("units", ""))
    name = str(data.name or "value")
    if mean.dims == ("layer",):
        ticks = [f"L{k}" for k in mean["layer"].values]
        return [_lines({name: mean.values.tolist()}, ticks, name, unit)]
    over = "mean over prompts" if "prompt" in data.dims else "as it is"
    return _grid(xr.Dataset({"effect": mean}, attrs={**data.attrs, "title": name, "mean": over}))


def _named(data: xr.Dataset) -> str:
    if "title" in data.attrs:
        return str(data.attrs["title"])
    of = " ".join(str(data.attrs[key]) for key in ("how", "site") if key in data.attrs)
    metric = str(data.attrs.get("metric", ""))
    return f"{of or 'effect'}{f' on {metric}' if metric else ''}"


def _facets(data: xr.Dataset, of: xr.DataArray) -> list[tuple[str, xr.Dataset]]:
    """The grid, or its slices along every axis beyond two."""
    dims = [str(d) for d in of.dims]
    if len(dims) <= 2:
        return [("", data)]
    third = next((d for d in dims if d not in ("layer", "head", "kv_head", "position")), dims[-1])
    labels = data[third].values if third in data.coords else range(data.sizes[third])
    made: list[tuple[str, xr.Dataset]] = []
    for i, value in enumerate(list(labels)[:SHOWN]):
        part = data.isel({third: i})
        made += [(f", {third} {value}{more}", one) for more, one in _facets(part, part["effect"])]
    return made[:SHOWN]


def _has(data: Any, *names: str) -> bool:
    return isinstance(data, xr.Dataset) and all(name in data for name in names)


def _over(data: Any, *dims: str) -> bool:
    return isinstance(data, xr.DataArray) and all(d in data.dims for d in dims)


KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Shown]]], ...] = (
    (lambda d: _has(d, "token", "entropy", "kl", "next_token"), _lens),
    (lambda d: _over(d, "prompt", "term") and "quantity" in d.coords, _attribution),
    (lambda d: _over(d, "prompt", "layer", "head", "query", "key"), _attention),
    (lambda d: _over(d, "prompt", "point"), _cumulative),
    (lambda d: _has(d, "token", "logit", "log_probability") and "rank" in d.dims, _top),
    (lambda d: _has(d, "previous_token", "induction"), _scores),
    (lambda d: _has(d, "angle", "null", "excess") and "space" in d.dims and "prompt" in d.dims, _rotations),
    (lambda d: _has(d, "effect", "value", "base") and "prompt" in d["effect"].dims, _sweep),
    (lambda d: _has(d, "effect"), _grid),
    (lambda d: _over(d, "layer"), _array),
)
"""What a kind is known by, and what shows it; the first that fits."""
