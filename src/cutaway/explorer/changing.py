"""One edit at one place: before | after, with the control's spread beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.bases import reusing
from ..tokens import shown
from ..top import top_table
from ..views import Cell, Table, shade_of
from ..wording import number, percent, shown_text, signed
from . import written
from .answer import Answer
from .control import OTHER_HEAD, OTHER_TOKEN, OTHER_WORD, SAME_LENGTH
from .made import controls_of, edit_of, value_at, where_of
from .question import FROM, METRICS, Question
from .spread import spread
from .subject import Subject
from .sweeps import sweeps
from .telling import Teller

UNITS = {"logit_diff": "logits", "log_prob": "nats", "prob": "probability", "kl": "nats"}
DID = {"patch": "Patching", "zero": "Zeroing", "add": "Adding to", "remove": "Removing from"}

Spreads = Mapping[str, Mapping[str, Sequence[float]]]
"""Of each control and metric the draws; none where they are still being made."""


def edited(subject: Subject, question: Question, tell: Teller) -> Answer:
    """The prompt's run with one change, beside the run without it and beside runs with a change that means nothing.

    `tell` hears of the change itself as soon as it is measured; its controls take longer.
    """
    model, place = subject.model, question.at
    answer, foil = subject.targets(question)
    trace = subject.trace(question.text, answer, foil)
    base = trace.prompts
    source = subject.prompts(question.other, answer, foil) if question.other else None
    where = where_of(question, base)
    edit, line, named = edit_of(subject, question, trace, source, where)
    edit.compile(model, base)  # what does not fit is said before anything is measured
    subject.prepare(tell)
    with reusing(subject.last):  # the sweep comes first: it records most of the base
        found = sweeps(model, base, {"": edit}, list(METRICS), Teller())[""]
        after_trace = model.trace(base, edits=edit)
    old, new = (value_at(run, place, question.key) for run in (trace, after_trace))
    controls, lines = controls_of(subject, question, base, source, new - old, where)
    before, after, effect = (_of(found, what) for what in ("base", "value", "effect"))
    choices = _choices(subject, trace.logits_at(-1)[0], after_trace.logits_at(-1)[0])
    quantity = f"logit({subject.shown(answer)}) - logit({subject.shown(foil)})"
    names = {"logit_diff": quantity, "log_prob": f"log-probability of {subject.shown(answer)}",
             "prob": f"probability of {subject.shown(answer)}", "kl": "KL from the run before"}  # fmt: skip
    metric = question.metric
    written_place = f"{place}" + ("" if question.key is None else f"{FROM}{question.key}")
    did = f"{DID[question.edit]} {written_place}{named}"
    short = f"{DID[question.edit]} {written_place}: {_moved(metric, effect[metric])}"
    says = [_sentence(did, names[metric], before[metric], after[metric], effect[metric], metric)]
    if not bool((new - old).abs().max() > 0):
        says.append("The edit changes nothing there: what is put in is what stood there already.")
    if question.key is not None:
        says.append(_weights(old, new))
    code = written.python(
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
    )

    def beside(spreads: Spreads) -> Answer:
        of_metric = {name: one[metric] for name, one in spreads.items()}
        picture = spread(effect[metric], of_metric, names[metric], UNITS[metric])
        compared = [_compared(name, draws, effect[metric]) for name, draws in of_metric.items()]
        last = "One prompt, one place: this says nothing about other prompts, and a small effect does not mean unused."
        return Answer(
            f"{did}: before | after",
            [*says, *compared, last],
            [picture, choices, _metrics(names, before, after, effect, spreads)],
            code,
            written.asking(subject, question),
            {"said": short, "place": written_place, "edit": question.edit, "before": before, "after": after,
             "effect": effect, "control": spreads,
             "p": {n: p for n, d in of_metric.items() if (p := _chance(d, effect[metric]))}},
        )  # fmt: skip

    tell.early(beside({name: dict.fromkeys(METRICS, ()) for name in controls}))
    with reusing(subject.last):
        draws = sweeps(model, base, controls, list(METRICS), tell)
    return beside({
        name: {m: one["effect"].sel(metric=m).values.ravel().astype(float).tolist() for m in METRICS}
        for name, one in draws.items()
    })  # fmt: skip


def _weights(before: Tensor, after: Tensor) -> str:
    return (
        f"The weight goes from {number(float(before))} to {number(float(after))}; the other weights of its row stay "
        "as they are, so the sum of the row changes with it."
    )


def _of(found: Any, what: str) -> dict[str, float]:
    return {m: float(found[what].sel(metric=m).values.ravel()[0]) for m in METRICS}


def _form(metric: str, value: float) -> str:
    if metric == "kl":
        return number(max(value, 0.0), 4)  # rounding can make it less
    return percent(value) if metric == "prob" else signed(value, 4)


def _sentence(did: str, what: str, before: float, after: float, effect: float, metric: str) -> str:
    if metric == "kl":
        return f"{did} moves the next-token distribution by {number(after)} nats of KL from the run before."
    return f"{did} takes {what} from {_form(metric, before)} to {_form(metric, after)} ({_moved(metric, effect)})."


def _moved(metric: str, effect: float) -> str:
    return f"{signed(100 * effect)} points" if metric == "prob" else f"{signed(effect)} {UNITS[metric]}"


_CONTROLS = {
    SAME_LENGTH: "Control: random directions of the same length",
    OTHER_WORD: "Control: patches from the same frame with random tokens where the prompts differ",
    OTHER_TOKEN: "Control: the same change of this head's weight on other tokens",
    OTHER_HEAD: "Control: the same change of the same weight in other heads of the layer",
}


def _compared(name: str, draws: Sequence[float], effect: float) -> str:
    if not draws:
        return f"{_CONTROLS[name]}: being drawn …"
    says = (
        f"{_CONTROLS[name]} change it by {signed(np.mean(draws))} on average, {signed(min(draws))} to "
        f"{signed(max(draws))}; {_as_large(draws, effect)} of {len(draws)} are as large"
    )
    return f"{says} (p = {_chance(draws, effect):.2g})."


def _as_large(draws: Sequence[float], effect: float) -> int:
    return sum(abs(v) >= abs(effect) for v in draws)


def _chance(draws: Sequence[float], effect: float) -> float | None:
    """p: how likely a draw as large would be if the edit were one of them; None without draws."""
    return (_as_large(draws, effect) + 1) / (len(draws) + 1) if draws else None


def _metrics(
    names: dict[str, str], before: dict[str, float], after: dict[str, float], effect: dict[str, float], spreads: Spreads
) -> Table:
    rows = []
    for metric, name in names.items():
        row = [name, _form(metric, before[metric]) if metric != "kl" else "—", _form(metric, after[metric])]
        scale, unit = (100, " points") if metric == "prob" else (1, "")
        row.append(f"{signed(scale * effect[metric])}{unit}" if metric != "kl" else _form(metric, effect[metric]))
        for draws in spreads.values():
            some = [scale * v if metric != "kl" else max(v, 0.0) for v in draws[metric]]
            row.append(f"{signed(min(some))} to {signed(max(some))}{unit}" if some else "…")
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
