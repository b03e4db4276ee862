"""What the numbers of an attribution say, in sentences that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ...prompts import Prompts
from ...wording import number, percent, prose, quoted, several, signed
from ..study import Check, Groups, verdict

Arrays = Mapping[str, Any]


def headline(prompts: Prompts, arrays: Arrays) -> str:
    """The main finding in one line."""
    table = arrays["next_tokens"]
    n = len(prompts)
    if n > 1:
        first = int((np.asarray(table["answer_rank"]) == 0).sum())
        return f"The answer is the model's first choice in {first} of {n} prompts; {_main_writer(arrays, None)}"
    who = quoted(str(table["answer"][0].values))
    if "foil" in table:
        margin = float(table["answer_logit"][0] - table["foil_logit"][0])
        foil = quoted(str(table["foil"][0].values))
        lead = f"{who} {'leads' if margin > 0 else 'trails'} {foil} by {number(abs(margin))} logits"
    else:
        lead = (
            f"{who} has rank {int(table['answer_rank'][0])} and probability {percent(table['answer_probability'][0])}"
        )
    return f"{lead} after “{prose(prompts.texts[0], 60)}”; {_main_writer(arrays, 0)}"


def _terms(arrays: Arrays, prompt: int | None) -> xr.DataArray:
    terms = arrays["by_component"] if "by_component" in arrays else arrays["by_layer"]
    return terms.mean("prompt") if prompt is None else terms.isel(prompt=prompt)


def _main_writer(arrays: Arrays, prompt: int | None) -> str:
    terms = _terms(arrays, prompt)
    top = int(np.abs(terms.values).argmax())
    over = " on average" if prompt is None else ""
    return f"{terms.term.values[top]} wrote the most of it{over}, {signed(terms.values[top])}"


def findings(prompts: Prompts, arrays: Arrays, made: list[Check]) -> Groups:
    """The checks; then, prompt by prompt, the prediction, what wrote it, from where, and what choices change."""
    groups: Groups = [("", [verdict(made)])]
    if len(prompts) == 1:
        return [
            *groups,
            ("The prediction", [_prediction(arrays, 0)]),
            ("What wrote it", _decomposition(arrays, 0)),
            ("Which heads, and from where", _heads(arrays, 0)),
            ("Taken out of what is read", _removal(arrays, 0)),
            ("The BOS token", [_bos(arrays, 0)]),
        ]
    first = int((np.asarray(arrays["next_tokens"]["answer_rank"]) == 0).sum())
    told = f"The answer is the first choice in {first} of {several(len(prompts), 'prompt')}."
    groups.append(("All prompts", [told]))
    for i in range(len(prompts)):
        lead = f"Prompt {i}, “{prose(prompts.texts[i])}”: {_prediction(arrays, i)}"
        details = *_decomposition(arrays, i), *_heads(arrays, i), *_removal(arrays, i), _bos(arrays, i)
        groups.append((f"Prompt {i}", [lead, *details]))
    return groups


def _prediction(arrays: Arrays, i: int) -> str:
    table = arrays["next_tokens"].isel(prompt=i)
    parts = []
    for kind in ("answer", "foil"):
        if kind in table:
            where, p = int(table[f"{kind}_rank"]), float(table[f"{kind}_probability"])
            parts.append(
                f"{quoted(str(table[kind].values))} has probability {percent(p)} and rank {where} (counted from 0)"
            )
    text = "; ".join(parts)
    if int(table["answer_rank"]) > 0:
        best = table.isel(rank=0)
        text += f"; the model's first choice is {quoted(str(best['token'].values))} with {percent(best['probability'])}"
    return text + "."


def _decomposition(arrays: Arrays, i: int) -> list[str]:
    terms = _terms(arrays, i)
    values, kinds = terms.values, terms["kind"].values
    plus, minus = values[values > 0].sum(), values[values < 0].sum()
    total = float(terms["total"])
    text = [f"Of the {_what(terms)} of {number(total)} logits, the largest single writers are {_largest(terms, 3)}."]
    if "by_component" in arrays:
        attn, mlp = values[kinds == "attn"].sum(), values[kinds == "mlp"].sum()
        rest = values.sum() - attn - mlp
        text.append(f"MLPs wrote {signed(mlp)}, attention {signed(attn)}, embeddings and biases {signed(rest)}.")
    return [*text, f"It is {signed(plus)} of terms in favour and {signed(minus)} against."]


def _heads(arrays: Arrays, i: int) -> list[str]:
    if "by_head" not in arrays:
        return []
    by_head = arrays["by_head"].isel(prompt=i)
    heads = by_head.isel(term=np.flatnonzero(by_head["kind"].values == "head"))
    return [f"Of the attention heads, {_largest(heads, 3)} wrote the most directly.{_sources(arrays, i, heads)}"]


def _what(terms: xr.DataArray) -> str:
    return {"contrast": "difference", "centred": "centred logit"}[terms.attrs["toward"]]


def _largest(terms: xr.DataArray, n: int) -> str:
    order = np.argsort(-np.abs(terms.values))[:n]
    return ", ".join(f"{terms.term.values[k]} ({signed(terms.values[k])})" for k in order)


def _sources(arrays: Arrays, i: int, heads: xr.DataArray) -> str:
    """Where the largest head carried its write from."""
    if "by_source" not in arrays:
        return ""
    name = str(heads.term.values[int(np.abs(heads.values).argmax())])
    sources = arrays["by_source"].isel(prompt=i)
    mine = sources.isel(term=np.flatnonzero([str(t).startswith(f"{name}<-") for t in sources.term.values]))
    best = int(np.abs(mine.values).argmax())
    key = int(mine["key"].values[best])
    token = str(arrays["lens"]["input_token"].values[i, key])
    return f" {name} carried {signed(mine.values[best])} of its write from position {key}, {quoted(token)}."


def _removal(arrays: Arrays, i: int) -> list[str]:
    terms = _terms(arrays, i)
    k = int(np.nanargmax(np.abs(terms["removal_frozen"].values)))
    frozen, true = float(terms["removal_frozen"][k]), float(terms["removal_true"][k])
    return [
        f"Taking {terms.term.values[k]} out of what is read would change the {_what(terms)} by {signed(true)}.",
        f"That is with the norm's scale taken anew. With the scale held it would be {signed(frozen)}; the norm makes "
        f"up the difference of {signed(true - frozen)}.",
    ]


def _bos(arrays: Arrays, i: int) -> str:
    if "bos" not in arrays:
        return ""
    table = arrays["bos"].isel(prompt=i)
    have, lack = table.sel(bos="with"), table.sel(bos="without")
    quantity = ""
    if "contrast" in table:
        quantity = f"answer minus foil is {signed(have['contrast'])} with it and {signed(lack['contrast'])} without; "
    ranks = f"the answer's rank is {int(have['answer_rank'])} and {int(lack['answer_rank'])}"
    likely = " and ".join(percent(np.exp(float(one["answer_log_probability"]))) for one in (have, lack))
    tops = [str(one["top"].values) for one in (have, lack)]
    choice = "" if tops[0] == tops[1] else f"; the first choice changes from {quoted(tops[0])} to {quoted(tops[1])}"
    return f"How much the BOS token matters here: {quantity}{ranks}, its probability {likely}{choice}."
