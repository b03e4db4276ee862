"""Which view a result has: told by what its arrays are, never by a flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import xarray as xr

from .. import plots, views
from ..errors import BadInput
from ..views import Picture, Table, num
from ..wording import label, prose, shown_text, signed
from .again import attention_code, attribution_code, cumulative_code, lens_code, traced
from .attention import attention_figure
from .bos import bos_shown
from .comparison import before_after_shown
from .contributions import contribution_table, contributions, largest
from .edits import edits_shown, score_shown
from .energy import energy_shown
from .flips import flips_shown
from .ladder import ladder_shown
from .ledger import ledger_shown
from .lens import lens_figure, lens_table, readings
from .shown import Shown, first_few
from .stages import stages_shown
from .sweeps import array_shown, grids, scores_shown, sweep_shown
from .tokens import next_token_table
from .turning import turning_figure
from .variance import spectra_shown


def shown(result: Any) -> list[Shown]:
    """The figures of a result.

    Raises:
        BadInput: it is no result of this library, or of a kind that has no view.
    """
    return _kind(result)[2](result)


def called(result: Any) -> str:
    """What a result is, as the heading of its page."""
    return _kind(result)[0]


Kind = tuple[str, Callable[[Any], bool], Callable[[Any], list[Shown]]]


def _kind(result: Any) -> Kind:
    for one in KINDS:
        if isinstance(result, xr.Dataset | xr.DataArray) and one[1](result):
            return one
    what = f"{type(result).__name__} over {', '.join(map(str, getattr(result, 'dims', ())))}".removesuffix(" over ")
    raise BadInput(
        f"There is no view for this {what}. Views exist for the results of lens, attribute, cumulative, top, sweep, "
        "denoise, noise, factorial, attention_patterns, head_scores, role_attention, rotations, stages, before_after, "
        "readout_edit, readout_flips, readout_score, bos_sensitivity, fit_subspaces, energy_by_token, ledger, and for "
        "arrays over layers."
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

    return first_few("prompts", lens.sizes["prompt"], one)


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

    return first_few("prompts", terms.sizes["prompt"], one)


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

    return first_few("prompts", data.sizes["prompt"], one)


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
    title, unit = "Readout at every depth, final norm's scale", str(steps.attrs["units"])
    drawn = views.lines(series, ticks, title, unit)
    words = " ".join(views.spoken_line(name, line, ticks, False) for name, line in series.items())
    count = steps.sizes["prompt"]
    caption = title if count <= 4 else f"{title}; the first 4 of {count} prompts"
    picture = Picture(drawn, caption, words, code=cumulative_code(steps.isel(prompt=slice(4))))
    return [Shown(title, [picture], lambda ax: plots.lines_plot(series, ticks, title, unit, ax))]


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


def _has(data: Any, *names: str) -> bool:
    return isinstance(data, xr.Dataset) and all(name in data for name in names)


def _over(data: Any, *dims: str) -> bool:
    return isinstance(data, xr.DataArray) and all(d in data.dims for d in dims)


KINDS: tuple[Kind, ...] = (
    ("Logit lens", lambda d: _has(d, "token", "entropy", "kl", "next_token"), _lens),
    ("Attribution", lambda d: _over(d, "prompt", "term") and "quantity" in d.coords, _attribution),
    ("Attention", lambda d: _over(d, "prompt", "layer", "head", "query", "key"), _attention),
    ("Cumulative attribution", lambda d: _over(d, "prompt", "point"), _cumulative),
    ("Next token", lambda d: _has(d, "token", "logit", "log_probability") and "rank" in d.dims, _top),
    ("Scores of heads", lambda d: _has(d, "previous_token", "induction"), scores_shown),
    (
        "Rotations",
        lambda d: _has(d, "angle", "null", "excess") and "space" in d.dims and "prompt" in d.dims,
        _rotations,
    ),
    ("Before and after", lambda d: _has(d, "token", "changed", "changed_set") and "side" in d.dims, before_after_shown),
    ("Stages", lambda d: _has(d, "formation", "saturation", "switch", "margin"), stages_shown),
    (
        "Flips",
        lambda d: "limit" in d.attrs and any(_has(d, name) for name in ("pair", "change", "target")),
        flips_shown,
    ),
    ("Score", lambda d: _has(d, "before", "after", "score", "switch"), score_shown),
    ("BOS sensitivity", lambda d: _has(d, "top", "kl") and "bos" in d.dims, bos_shown),
    ("Ledger", lambda d: _has(d, "change", "direct", "downstream", "response") and "prompt" in d.dims, ledger_shown),
    ("Against controls", lambda d: _has(d, "draw_mean", "p_greater", "mean") and "arm" in d.dims, ladder_shown),
    ("Energy by token", lambda d: _has(d, "share", "kind_share", "token"), energy_shown),
    ("Spectrum", lambda d: _has(d, "eigenvalue", "share", "cumulative", "total"), spectra_shown),
    ("Sweep", lambda d: _has(d, "effect", "value", "base") and "prompt" in d["effect"].dims, sweep_shown),
    ("Readout edit", lambda d: d.attrs.get("operation") == "readout edit" and _over_prompts(d), edits_shown),
    ("Effects", lambda d: _has(d, "effect"), grids),
    ("Array", lambda d: _over(d, "layer"), array_shown),
)
"""What a kind is called, what it is known by, and what shows it; the first that fits."""


def _over_prompts(data: Any) -> bool:
    return any(_has(data, name) for name in ("top_token", "logit_diff", "rank", "kl")) and "layer" in data.dims
