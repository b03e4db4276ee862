"""What a model makes of a prompt, unedited: tokens and next tokens, lens, attribution, attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .. import attention_patterns, attribute
from ..errors import Refused
from ..figures import attention_figure, lens_figure, next_token_table, split_terms, splitting
from ..figures.contributions import largest, place_of
from ..tokens import shown
from ..top import top_table
from ..views import Picture, Table, Term, node
from ..wording import label, percent, prose, quoted, signed
from . import written
from .answer import Answer
from .limits import WEIGHTS
from .question import Question
from .subject import CHOICES, Subject
from .telling import Teller


def tokens(subject: Subject, question: Question, tell: Teller) -> Answer:
    """The tokens of the prompt, and what comes next."""
    trace = subject.trace(question.text)
    table = top_table(trace.logits_at(-1)[0], subject.model.tokenizer, 10)
    columns = [table[name].values.tolist() for name in ("token", "token_id", "logit", "probability")]
    names, ids = trace.prompts.tokens[0], trace.prompts.ids[0].tolist()
    best, chance = str(columns[0][0]), float(columns[3][0])
    return Answer(
        "Tokens and next token",
        [f"After “{prose(question.text, 200)}” comes {quoted(best)}, with {percent(chance)}."],
        [token_row(names, ids, question.prompt), next_token_table(*columns)],
        written.python(subject, question, (), "found = m.top(base, k=10)", written.SHOW),
        written.shell(subject, question, "top", [question.text]),
        {"tokens": [shown(t) for t in names], "next": dict(zip(columns[0], columns[3], strict=True))},
    )


def token_row(names: list[str], ids: list[int], prompt: str) -> Picture:
    """The tokens of a prompt in a row, to be chosen."""
    chips = [
        node(
            "button",
            label(name, 24),
            type="button",
            class_="chip",
            dir="auto",
            data_at=f"0 {i}",
            data_position=i,
            title=f"position {i}: {label(name, 60)}, id {token}",
        )
        for i, (name, token) in enumerate(zip(names, ids, strict=True))
    ]
    rows = [[str(i), str(token), shown(name)] for i, (name, token) in enumerate(zip(names, ids, strict=True))]
    return Picture(
        node("div", chips, class_="scroll chips", role="group", aria_label=f"Tokens of prompt {prompt}"),
        f"The {len(names)} tokens of prompt {prompt}.",
        "Choose one to change what enters the model there.",
        Table("Tokens.", ["position", "id", "token"], rows, ["token"]),
        kind="prompt",
        places={"prompt": prompt},
    )


def lens_answer(subject: Subject, question: Question, tell: Teller) -> Answer:
    """What every layer would predict."""
    answer, foil = subject.targets(question)
    found = subject.lens(question.text, answer, foil)
    picture = replace(lens_figure(found, 0), places={"prompt": question.prompt})
    return Answer(
        "Layer by layer: the logit lens" + (", prompt B" if question.prompt == "B" else ""),
        [],
        [picture],
        written.python(
            subject, question, (), f"found = cutaway.lens(t, top={CHOICES}, of={[answer, foil]!r})", written.SHOW
        ),
        written.shell(subject, question, "lens", [question.text], of=[answer, foil]),
        {"of": [subject.typed(answer), subject.typed(foil)]},
    )


def attribution(subject: Subject, question: Question, tell: Teller) -> Answer:
    """What wrote the difference of answer and foil."""
    answer, foil = subject.targets(question)
    trace = subject.trace(question.text, answer, foil)
    arrays: dict[str, Any] = {}
    refused = ""
    for by in ("layer", "component", "head", "source"):
        try:
            arrays[f"by_{by}"] = attribute(trace, by)
        except Refused as error:
            refused = str(error)
            break
    if not arrays:
        return Answer("What wrote it", [refused])
    names = [label(t, 16) for t in trace.prompts.tokens[0]]
    terms = split_terms(arrays, lambda data: data.values[0], names)
    whole = arrays["by_layer"]
    total = float(whole.values[0].sum())
    title = f"{whole['quantity'].values[0]} = {signed(total)} {whole.attrs['units']}"
    caption = (
        "Press a layer to see attention and MLP, press attention to see its heads, press a head to see which tokens it "
        "carried from. Each bar starts where the one before it ends; blue adds, red takes away."
    )
    drawn = splitting(terms, total, title, str(whole.attrs["units"]), caption)
    parts = [replace(drawn, places={"prompt": question.prompt})]
    if "by_head" in arrays:
        parts.append(replace(_largest(arrays["by_head"], total), places={"prompt": question.prompt}))
    return Answer(
        "What wrote the prediction",
        [*([f"Not split further: {refused}"] if refused else [])],
        parts,
        written.python(subject, question, (answer, foil), "found = cutaway.attribute(t, by='component')", written.SHOW),
        written.shell(subject, question, "attribute", [question.text], answer=[answer], foil=[foil]),
        {"answer": subject.typed(answer), "foil": subject.typed(foil), "total": total},
    )


def _largest(by_head: Any, total: float) -> Picture:
    """The heads and MLPs that wrote most, whatever their layer, in the model's order."""
    units, one = str(by_head.attrs["units"]), by_head.isel(prompt=0)
    index = {str(name): i for i, name in enumerate(one["term"].values)}
    terms = [
        Term(name, value, places=_place(one, index[name], name) if name in index else {})
        for name, value in largest(one, 12)
    ]
    title = f"The largest heads and MLPs: {one['quantity'].values} = {signed(total)} {units}"
    caption = "The 12 largest of all heads, MLPs and constants, in the model's order; the others are one bar."
    return splitting(terms, total, title, units, caption)


def _place(terms: Any, i: int, name: str) -> dict[str, int | str]:
    return {**place_of(terms, i), **({"term": name} if "." in name else {})}


def attention(subject: Subject, question: Question, tell: Teller) -> Answer:
    """Where every head looks."""
    answer, foil = subject.targets(question)
    trace = subject.trace(question.text, answer, foil)
    drawn = attention_patterns(trace).isel(prompt=0)
    n, heads = drawn.sizes["key"], drawn.sizes["head"]
    fits = max(1, int(2 * WEIGHTS / (heads * n * n)))
    cut = fits < drawn.sizes["layer"]
    size = _by_head(trace, drawn.sizes["layer"], heads)
    kept = slice(-fits, None) if cut else slice(None)
    scores = {} if size is None else {"contribution": size[kept]}
    first = 0 if size is None else int(np.argmax(np.abs(size[kept])))
    more = [f"The prompt is long: the last {fits} layers are shown."] if cut else []
    return Answer(
        "Where heads look",
        more,
        [attention_figure(drawn.isel(layer=kept), question.text, scores, question.prompt, first)],
        written.python(subject, question, (), "found = cutaway.attention_patterns(t)", written.SHOW),
        written.asking(subject, question),
        {},
    )


def _by_head(trace: Any, layers: int, heads: int) -> np.ndarray | None:
    """[layer, head] what each wrote toward the answer; None where the model does not permit it."""
    try:
        terms = attribute(trace, "head")
    except Refused:
        return None
    size = np.zeros((layers, heads))
    some = terms["kind"].values == "head"
    size[terms["layer"].values[some], terms["head"].values[some]] = terms.values[0, some]
    return size
