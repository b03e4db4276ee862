"""The page of study one."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import views
from ..figures import (
    attention_figure,
    bos_table,
    contribution_table,
    contributions,
    followed_tokens,
    lens_figure,
    next_token_table,
    split_terms,
    splitting,
)
from ..studies.study import Study
from ..views import num, plus, portion
from ..wording import label, shown_text, signed
from .page import Cell, Picture, Section, Table, Verbatim
from .shared import about, opening


def sections(study: Study) -> list[Section]:
    """Findings, then each prompt: prediction, layers, components, heads, sources, the sum; then checks and run card."""
    texts = study.arrays["next_tokens"]["text"].values
    made = opening(study)
    for i, text in enumerate(texts):
        prompt = _prompt(study, i)
        if len(texts) > 1:
            for section in prompt:
                section.heading += f" · prompt {i}: {shown_text(str(text))}"
                section.folded = i > 0
        made += prompt
    return [*made, *about(study)]


def _prompt(study: Study, i: int) -> list[Section]:
    arrays = study.arrays
    made = [_prediction(arrays, i), *([_whole(study, i)] if "by_layer" in arrays else []), _depth(study, i)]
    for name, heading in (("by_component", "Attention and MLP"), ("by_head", "Heads")):
        if name in arrays:
            terms = arrays[name]
            table = contribution_table(terms, i, None if name == "by_component" else 20)
            made.append(Section(heading, parts=[contributions(terms, i), table]))
    if "by_source" in arrays:
        made.append(_sources(arrays, i))
    if "patterns" in arrays:
        made.append(_looks(study, i))
    written = [
        Verbatim(f"The annotated sum ({form})", study.texts[f"prompt {i}, {form}"]) for form in ("text", "latex")
    ]
    made.append(Section("The sum, term by term", parts=[*written]))
    return made


def _prediction(arrays: dict[str, Any], i: int) -> Section:
    table = arrays["next_tokens"].isel(prompt=i)
    columns = [table[name].values.tolist() for name in ("token", "token_id", "logit", "probability")]
    rows = [
        [
            kind,
            Cell(label(str(table[kind].values)), token=True),
            str(int(table[f"{kind}_rank"])),
            portion(table[f"{kind}_probability"]),
            num(table[f"{kind}_logit"], 4),
        ]
        for kind in ("answer", "foil")
        if kind in table
    ]
    parts: list[Picture | Table | Verbatim] = [next_token_table(*columns)]
    columns = ["asked about", "token", "rank", "probability", "logit"]
    parts.append(Table("Where answer and foil stand.", columns, rows, ["asked about", "token"]))
    if "bos" in arrays:
        parts.append(bos_table(arrays["bos"], i))
    return Section("The prediction", parts=parts)


def _tokens(arrays: dict[str, Any], i: int) -> list[str]:
    return [label(str(t), 16) for t in arrays["lens"]["input_token"].values[i]]


def _code(study: Study, i: int, *lines: str) -> str:
    """The Python that makes a figure of one prompt; `t` is its trace."""
    card, table = study.run_card, study.arrays["next_tokens"].isel(prompt=i)
    asked = {"answers": "answer", "foils": "foil"}
    given = "".join(f", {key}=[{str(table[name].values)!r}]" for key, name in asked.items() if name in table)
    return "\n".join(
        [
            "import cutaway",
            f"m = cutaway.load({str(card['model'])!r}, dtype={str(card['dtype'])!r})",
            f"t = m.trace(m.prompts({str(table['text'].values)!r}{given}))",
            *lines,
        ]
    )


def _whole(study: Study, i: int) -> Section:
    """Everything that was written, to be opened layer by layer."""
    arrays = study.arrays
    terms = split_terms(arrays, lambda data: data.values[i], _tokens(arrays, i))
    by_layer = arrays["by_layer"]
    total, unit = float(by_layer.values[i].sum()), str(by_layer.attrs["units"])
    quantity = shown_text(str(by_layer["quantity"].values[i]))
    title = f"{quantity} = {signed(total)} {unit}: layers, components, heads, source tokens"
    caption = (
        "Press a layer to see attention and MLP, press attention to see its heads, press a head to see which tokens it "
        "carried from. Each bar starts where the one before it ends; blue adds, red takes away."
    )
    return Section("What wrote it", parts=[splitting(terms, total, title, unit, caption, prompt=i)])


def _looks(study: Study, i: int) -> Section:
    drawn, arrays = study.arrays["patterns"].isel(prompt=i), study.arrays
    n = int((drawn["input_token"].values != "").sum())
    scores = {}
    if "by_head" in arrays:
        terms = arrays["by_head"]
        size = np.zeros((drawn.sizes["layer"], drawn.sizes["head"]))
        for k in np.flatnonzero(terms["kind"].values == "head"):
            size[int(terms["layer"][k]), int(terms["head"][k])] = terms.values[i, k]
        scores["contribution"] = size
    first = int(np.argmax(np.abs(size))) if scores else 0
    text = str(drawn["text"].values)
    picture = attention_figure(drawn.isel(query=slice(n), key=slice(n)), text, scores, i, first)
    return Section("Where heads look", parts=[picture])


def _depth(study: Study, i: int) -> Section:
    """How the readout grows with depth: what each layer adds, and the two ways of reading the stream half-way."""
    arrays = study.arrays
    by_layer, lens, steps = arrays["by_layer"], arrays["lens"].isel(prompt=i), arrays["cumulative"].isel(prompt=i)
    layers = lens["layer"].values
    ticks = [f"L{k}" for k in layers]
    last = int(np.flatnonzero(lens["input_token"].values != "")[-1])
    table = arrays["next_tokens"].isel(prompt=i)
    chances = {}
    for kind in ("answer", "foil"):
        if kind in table:
            chances[label(str(table[kind].values), 16)] = _followed(
                lens, str(table[kind].values), last, "of_probability"
            )
    parts: list[Picture | Table | Verbatim] = []
    point = {str(name): float(value) for name, value in zip(steps["point"].values, steps.values, strict=True)}
    ends = [f"L{k + 1}.resid_pre" for k in layers[:-1]] + [f"L{layers[-1]}.resid_post"]
    series = {"final scale": [point[name] + float(steps["bias"]) for name in ends]}
    if "foil" in table:
        pair = [_followed(lens, str(table[kind].values), last, "of_logit") for kind in ("answer", "foil")]
        series["own scale (lens)"] = [a - b for a, b in zip(*pair, strict=True)]
    quantity = shown_text(str(by_layer["quantity"].values[i]))
    parts.append(
        _lines(series, ticks, f"{quantity} read after each layer, in logits", "logits",
               "Two readings of the unfinished stream: with the norm statistics of the last layer the steps are the "
               "layers' direct contributions; with each layer's own it is the logit lens. They agree at the end.", None)
    )  # fmt: skip
    parts.append(
        _lines(chances, ticks, "Probability by the logit lens, at the last position", "probability",
               "Probability after each layer, by the logit lens.", (0.0, 1.0))
    )  # fmt: skip
    code = _code(study, i, f"cutaway.show(cutaway.lens(t, top=10, of={followed_tokens(lens)!r}))")
    parts.insert(0, lens_figure(arrays["lens"], i, code))
    return Section("Layer by layer", parts=parts)


def _followed(lens: xr.Dataset, token: str, position: int, what: str) -> list[float]:
    """A followed token's value in every layer at one position."""
    index = followed_tokens(lens).index(token)
    return [float(v) for v in lens[what].isel(position=position, of=index).values]


def _lines(
    series: dict[str, list[float]],
    ticks: list[str],
    title: str,
    unit: str,
    caption: str,
    limits: tuple[float, float] | None,
) -> Picture:
    words = " ".join(views.spoken_line(name, line, ticks, limits is not None) for name, line in series.items())
    return Picture(views.lines(series, ticks, title, unit, limits), caption, words)


def _sources(arrays: dict[str, Any], i: int) -> Section:
    """From which position the heads carried what they wrote."""
    terms = arrays["by_source"].isel(prompt=i)
    tokens = arrays["lens"]["input_token"].values[i]
    keys, values = terms["key"].values, terms.values
    by_position = [(f"{p} {label(str(t), 18)}", float(values[keys == p].sum())) for p, t in enumerate(tokens) if t]
    places: list[dict[str, str | float]] = [{"position": float(p)} for p, t in enumerate(tokens) if t]
    order = [k for k in np.argsort(-np.abs(values)) if keys[k] >= 0][:15]
    rows: list[list[str | Cell]] = [
        [
            f"L{int(terms['layer'][k])}H{int(terms['head'][k])}",
            str(int(keys[k])),
            label(str(tokens[keys[k]])),
            plus(values[k], 4),
        ]
        for k in order
    ]
    picture = Picture(
        views.waterfall(by_position, None, "Contribution of attention by source position", "logits", places),
        "What attention heads carried from each position, summed over heads: blue for, red against.",
        views.spoken(by_position, None),
        places={"prompt": i},
    )
    columns = ["head", "position", "source token", "contribution"]
    return Section(
        "Source tokens", parts=[picture, Table("The largest single carries.", columns, rows, ["head", "source token"])]
    )
