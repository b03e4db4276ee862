"""One edit at one place: before | after, with the control's spread beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..edits.cells import Edit
from ..edits.making import ablate, add, patch
from ..edits.removals import project_out
from ..errors import BadInput
from ..prompts import Prompts
from ..sites import SITES, Place
from ..tokens import shown
from ..top import top_table
from ..views import Cell, Table, shade_of
from ..wording import number, percent, prose, quoted, shown_text, signed
from . import written
from .answer import Answer
from .control import (
    OTHER_HEAD,
    OTHER_TOKEN,
    OTHER_WORD,
    SAME_LENGTH,
    other_words,
    patched_from,
    same_length,
    same_weight,
)
from .limits import DRAWS
from .question import FROM, METRICS, Question
from .spread import spread
from .subject import Subject
from .sweeps import Progress, sweeps

UNITS = {"logit_diff": "logits", "log_prob": "nats", "prob": "probability", "kl": "nats"}
DID = {"patch": "Patching", "zero": "Zeroing", "add": "Adding to", "remove": "Removing from"}


def edited(subject: Subject, question: Question, progress: Progress) -> Answer:
    """The prompt's run with one change, beside the run without it and beside runs with a change that means nothing."""
    model, place = subject.model, question.at
    answer, foil = subject.targets(question)
    trace = subject.trace(question.text, answer, foil)
    base = trace.prompts
    source = subject.prompts(question.other, answer, foil) if question.other else None
    where = _where(question, base)
    edit, line, named = _edit(subject, question, trace, source, where)
    after_trace = model.trace(base, edits=edit)
    change = _at(after_trace, place, question.key) - _at(trace, place, question.key)
    controls, lines = _controls(subject, question, base, source, change, where)
    draws = sweeps(model, base, {"": edit, **controls}, list(METRICS), progress)
    found = draws.pop("")
    before, after, effect = (_of(found, what) for what in ("base", "value", "effect"))
    quantity = f"logit({subject.shown(answer)}) - logit({subject.shown(foil)})"
    names = {"logit_diff": quantity, "log_prob": f"log-probability of {subject.shown(answer)}",
             "prob": f"probability of {subject.shown(answer)}", "kl": "KL from the run before"}  # fmt: skip
    spreads = {
        name: {m: draw["effect"].sel(metric=m).values.ravel().astype(float).tolist() for m in METRICS}
        for name, draw in draws.items()
    }
    metric = question.metric
    picture = spread(effect[metric], {n: s[metric] for n, s in spreads.items()}, names[metric], UNITS[metric])
    written_place = f"{place}" + ("" if question.key is None else f"{FROM}{question.key}")
    did = f"{DID[question.edit]} {written_place}{named}"
    sentences = [
        _sentence(did, names[metric], before[metric], after[metric], effect[metric], metric),
        *(_compared(name, s[metric], effect[metric]) for name, s in spreads.items()),
        "One prompt, one place: this says nothing about other prompts, and a small effect does not mean unused.",
    ]
    if question.key is not None:
        sentences.insert(1, _weights(_at(trace, place, question.key), _at(after_trace, place, question.key)))
    if not bool(change.abs().max() > 0):
        sentences.insert(1, "The edit changes nothing there: what is put in is what stood there already.")
    numbers = _metrics(names, before, after, effect, spreads)
    return Answer(
        f"{did}: before | after",
        sentences,
        [picture, numbers, _choices(subject, trace.logits[0, -1], after_trace.logits[0, -1])],
        written.python(
            subject,
            question,
            (answer, foil),
            line,
            f"metrics = {list(METRICS)!r}",
            "found = cutaway.sweep(m, base, edit, metric=metrics)",
            'print(found["effect"].to_series())',
            "from cutaway.top import top_table",
            "print(m.top(base).to_dataframe())  # before, and after:",
            "print(top_table(m.trace(base, edits=edit).logits[0, -1], m.tokenizer, 10).to_dataframe())",
            *lines,
        ),
        written.asking(subject, question),
        {
            "place": written_place,
            "edit": question.edit,
            "before": before,
            "after": after,
            "effect": effect,
            "control": spreads,
        },
    )


def _controls(
    subject: Subject, question: Question, base: Prompts, source: Prompts | None, change: Tensor, where: dict[str, Any]
) -> tuple[dict[str, Edit], list[str]]:
    """The edits that mean nothing, by name, and the Python that makes and runs them."""
    place, model = question.at, subject.model
    named = ", ".join(f"{k}={v!r}" for k, v in where.items())
    if question.key is None:
        made: dict[str, Edit] = {SAME_LENGTH: same_length(place.site, change, DRAWS, **where)}
        at = f"[{place.site!r}, {place.layer}][0]"
        lines = [
            f"change = m.trace(base, edits=edit){at} - m.trace(base){at}",
            f"controls = {{{SAME_LENGTH!r}: control.same_length({place.site!r}, change, {DRAWS}, {named})}}",
        ]
    else:
        query = where["queries"]
        made = same_weight(float(change), place.layer, place.head, query, question.key, model.n_heads, DRAWS)  # type: ignore[arg-type]
        entry = f"{place.head}, {query}, {question.key}"
        at = f"['pattern', {place.layer}][0, {entry}]"
        lines = [
            f"by = float(m.trace(base, edits=edit){at} - m.trace(base){at})",
            f"controls = control.same_weight(by, {place.layer}, {entry}, m.n_heads, {DRAWS})",
        ]
    if question.edit == "patch" and source is not None and isinstance(place.at, int | None):
        words = other_words(model, base, source, DRAWS)
        if words:
            made[OTHER_WORD] = patched_from(place.site, words, **where)
            lines += [
                f"words = control.other_words(m, base, source, {DRAWS})",
                f"controls[{OTHER_WORD!r}] = control.patched_from({place.site!r}, words, {named})",
            ]
    return made, [
        "from cutaway.explorer import control",
        *lines,
        "draws = {name: cutaway.sweep(m, base, one, metric=metrics) for name, one in controls.items()}",
        "for name, one in draws.items():",
        f'    print(name, one["effect"].sel(metric={question.metric!r}).values.ravel())',
    ]


def _where(question: Question, base: Prompts) -> dict[str, Any]:
    place = question.at
    where: dict[str, Any] = {"layers": place.layer}
    if place.head is not None:
        where["heads"] = place.head
    if question.key is None:
        return where | {"positions": "all" if place.at is None else place.at}
    query = int(base.at(place.at)[0])  # type: ignore[arg-type]
    if question.key > query:
        raise BadInput(
            f"Token {query} cannot look at token {question.key}, which comes later, so there is no weight to change. "
            "Choose a key that is not after the query."
        )
    return where | {"queries": query, "keys": question.key}


def _at(trace: Any, place: Place, key: int | None = None) -> Tensor:  # [position, (head,) width]; of a pattern [1]
    if key is None:
        return trace[place.site, place.layer][0]
    return trace[place.site, place.layer][0, place.head, trace.prompts.at(place.at)[0], key]


def _weights(before: Tensor, after: Tensor) -> str:
    return (
        f"The weight goes from {number(float(before))} to {number(float(after))}; the other weights of its row stay "
        "as they are, so the sum of the row changes with it."
    )


def _edit(
    subject: Subject, question: Question, trace: Any, source: Prompts | None, where: dict[str, Any]
) -> tuple[Edit, str, str]:
    """The edit, the Python that makes it, and what is said of it after the place."""
    place = question.at
    written_where = ", ".join(f"{k}={v!r}" for k, v in where.items())
    if question.edit == "patch":
        assert source is not None
        line = f"edit = cutaway.patch({place.site!r}, source, {written_where})"
        return patch(place.site, source, **where), line, f" with its value in “{prose(question.other, 60)}”"
    if question.edit == "zero":
        return ablate(place.site, **where), f"edit = cutaway.ablate({place.site!r}, {written_where})", ""
    vector, how, named = _direction(subject, question, trace, source)
    if question.edit == "remove":
        line = f"edit = cutaway.project_out({place.site!r}, v, {written_where})"
        return project_out(place.site, vector, **where), f"{how}\n{line}", f" {named}"
    size = _size(_at(trace, place), place)
    scale = question.scale * size / max(float(vector.norm()), 1e-12)
    unit = f"scale = {scale:.6g}  # {question.scale:g} x the mean length there / the vector's own"
    line = f"{how}\n{unit}\nedit = cutaway.add({place.site!r}, v, scale, {written_where})"
    return add(place.site, vector, scale, **where), line, f" {question.scale:+g} lengths of {named}"


def _size(here: Tensor, place: Place) -> float:
    """How long what stands at the place is, on average over the positions that are edited."""
    some = here if place.head is None else here[:, place.head]
    some = some if place.at is None else some[place.at][None]  # type: ignore[index]
    return float(some.float().norm(dim=-1).mean())


def _direction(subject: Subject, question: Question, trace: Any, source: Prompts | None) -> tuple[Tensor, str, str]:
    place, model = question.at, subject.model
    if question.toward:
        if SITES[place.site].axes != ("prompt", "position", "d_model"):
            raise BadInput(
                f"A token's direction lies in the stream, not in {place.site}. Choose a place in the stream "
                "(resid_pre, resid_post, attn_out, mlp_out), or leave the token out and give a second prompt."
            )
        toward = subject.token(question.toward)
        against = [subject.token(question.against)] if question.against else None
        vector = model.directions([toward], against)[0]
        named = f"the direction of {quoted(subject.text(toward))}"
        named += f" against {quoted(subject.text(against[0]))}" if against else ""
        return vector, f"v = m.directions([{toward!r}]" + (f", [{against[0]!r}])[0]" if against else ")[0]"), named
    assert source is not None
    if not isinstance(place.at, int):
        raise BadInput("The difference of two prompts needs one position. Write it after the place, as in @-1.")
    other = subject.trace(question.other)
    mine, theirs = _at(trace, place)[place.at], _at(other, place)[place.at]
    index = f"[0, {place.at}]"
    if place.head is not None:
        mine, theirs, index = mine[place.head], theirs[place.head], f"[0, {place.at}, {place.head}]"
    vector = (theirs - mine).flatten()
    if not bool(vector.norm() > 0):
        raise BadInput(f"The two prompts have the same value at {place}, so their difference has no direction.")
    here = f"{place.site!r}, {place.layer}"
    how = f"v = m.trace(source)[{here}]{index} - m.trace(base)[{here}]{index}"
    return vector, how, f"the difference to “{prose(question.other, 60)}”"


def _of(found: Any, what: str) -> dict[str, float]:
    return {m: float(found[what].sel(metric=m).values.ravel()[0]) for m in METRICS}


def _form(metric: str, value: float) -> str:
    return percent(value) if metric == "prob" else signed(value, 4) if metric != "kl" else number(value, 4)


def _sentence(did: str, what: str, before: float, after: float, effect: float, metric: str) -> str:
    if metric == "kl":
        return f"{did} moves the next-token distribution by {number(after)} nats of KL from the run before."
    moved = f"{signed(100 * effect)} points" if metric == "prob" else f"{signed(effect)} {UNITS[metric]}"
    return f"{did} takes {what} from {_form(metric, before)} to {_form(metric, after)} ({moved})."


_CONTROLS = {
    SAME_LENGTH: "Control: random directions of the same length",
    OTHER_WORD: "Control: patches from the same frame with random tokens where the prompts differ",
    OTHER_TOKEN: "Control: the same change of this head's weight on other tokens",
    OTHER_HEAD: "Control: the same change of the same weight in other heads of the layer",
}


def _compared(name: str, draws: Sequence[float], effect: float) -> str:
    large = sum(abs(v) >= abs(effect) for v in draws)
    says = (
        f"{_CONTROLS[name]} change it by {signed(np.mean(draws))} on average, {signed(min(draws))} to "
        f"{signed(max(draws))}; {large} of {len(draws)} are as large"
    )
    return f"{says} (p = {(large + 1) / (len(draws) + 1):.2g})."


def _metrics(
    names: dict[str, str], before: dict[str, float], after: dict[str, float], effect: dict[str, float], spreads: Any
) -> Table:
    rows = []
    for metric, name in names.items():
        row = [name, _form(metric, before[metric]) if metric != "kl" else "—", _form(metric, after[metric])]
        scale, unit = (100, " points") if metric == "prob" else (1, "")
        row.append(f"{signed(scale * effect[metric])}{unit}")
        for draws in spreads.values():
            low, high = scale * min(draws[metric]), scale * max(draws[metric])
            row.append(f"{signed(low)} to {signed(high)}{unit}")
        rows.append(row)
    columns = ["metric", "before", "after", "change", *(f"control: {n}" for n in spreads)]
    return Table("Every metric before and after, with the range of the control's draws.", columns, rows, ["metric"])


def _choices(subject: Subject, before: Tensor, after: Tensor, top: int = 8) -> Table:
    """The next tokens of both runs, those that changed place marked."""
    return compared_choices(subject, before, after, ("before", "after"), "Next token before and after the edit", top)


def compared_choices(
    subject: Subject, first: Tensor, second: Tensor, names: tuple[str, str], caption: str, top: int = 8
) -> Table:
    """The best tokens of either of two runs [vocab], with rank and probability in both."""
    tables = [top_table(logits, subject.model.tokenizer, top) for logits in (first, second)]
    ids = list(dict.fromkeys(i for t in tables for i in t["token_id"].values.tolist()))
    runs = []
    for logits in (first, second):
        x = logits if logits.dtype == torch.float64 else logits.float()
        chances = torch.log_softmax(x, -1).exp()
        runs.append([(int((x > x[i]).sum()), float(chances[i])) for i in ids])
    rows: list[list[str | Cell]] = []
    changed = []
    for k, i in enumerate(ids):
        (r0, p0), (r1, p1) = runs[0][k], runs[1][k]
        rows.append([
            shown_text(shown(subject.model.token_text(i))), str(r0), str(r1), Cell(percent(p0), shade_of(p0), {"": p0}),
            Cell(percent(p1), shade_of(p1), {"": p1}), signed(100 * (p1 - p0)),
        ])  # fmt: skip
        changed.append(r0 != r1)
    a, b = names
    columns = ["token", f"rank {a}", f"rank {b}", f"probability {a}", f"probability {b}", "points"]
    return Table(f"{caption}; changed: its rank is another.", columns, rows, ["token"], changed=changed)


__all__ = ["compared_choices", "edited"]
