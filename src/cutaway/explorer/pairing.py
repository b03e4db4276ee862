"""Two prompts: side by side, and what of the one restores its answer in the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from .. import patch, views
from ..certificate import ANALYSES
from ..errors import BadInput, Refused
from ..figures import effect_grid
from ..prompts import Token
from ..trace import Trace
from ..views import Picture
from ..wording import label, number, signed
from . import written
from .answer import Answer
from .changing import compared_choices
from .control import other_words, patched_from
from .limits import CELLS, GRID_DRAWS, LARGE_SHARE, SMALL_GAP
from .looking import token_row
from .question import Question
from .subject import Subject
from .sweeps import sweeps
from .telling import Teller

COMPARED = """for prompts in (base, source):
    print(m.top(prompts).to_dataframe())
    found = cutaway.lens(m.trace(prompts), top=1, of={of!r})["of_logit"].isel(prompt=0, position=-1)
    print((found.isel(of=0) - found.isel(of=1)).values)"""
"""Python that compares two prompts."""
CONTROL = """from cutaway.explorer import control
words = control.other_words(m, source, base, {draws})
draws = cutaway.sweep(m, source, control.patched_from({site!r}, words), metric="logit_diff")
print(draws["effect"].values)"""
"""Python that runs the control of a grid."""


def compare(subject: Subject, question: Question, tell: Teller) -> Answer:
    """What comes next in either, and how that grows with depth."""
    answer, foil = subject.targets(question)
    runs = [subject.trace(text) for text in (question.text, question.other)]
    first, second = (run.prompts for run in runs)
    table = compared_choices(
        subject, runs[0].logits_at(-1)[0], runs[1].logits_at(-1)[0], ("A", "B"), "Next token after A and after B"
    )
    series: dict[str, list[float]] = {}
    lines: list[Picture] = []
    refused = ""
    try:
        series = {name: _depths(run, answer, foil) for name, run in zip("AB", runs, strict=True)}
    except Refused as error:
        refused = str(error)
    else:
        ticks = [f"L{k}" for k in range(subject.model.n_layers)]
        quantity = f"logit({subject.shown(answer)}) - logit({subject.shown(foil)})"
        drawn = views.lines(series, ticks, f"{quantity} by the logit lens, at the last position", "logits")
        words = " ".join(views.spoken_line(name, line, ticks, False) for name, line in series.items())
        lines = [Picture(drawn, f"{quantity} after each layer, in A and in B.", words)]
    row = token_row(second.tokens[0], second.ids[0].tolist(), "B")
    aligned = first.n_positions == second.n_positions
    if aligned:
        at = (first.ids != second.ids)[0].nonzero()[:, 0].tolist()
        where = ", ".join(f"{p} ({label(first.tokens[0][p])} | {label(second.tokens[0][p])})" for p in at)
        says = f"The prompts differ at position {where}." if at else "The prompts are the same."
    else:
        says = (
            f"A has {first.n_positions} tokens and B {second.n_positions}: their positions do not correspond, so "
            "nothing is patched between them but single positions of the stream, each with its number."
        )
    return Answer(
        "Two prompts: A | B",
        [says, *([refused] if refused else [])],
        [row, table, *lines],
        written.python(subject, question, (answer, foil), COMPARED.format(of=[answer, foil])),
        written.shell(subject, question, "top", [question.text, question.other]),
        {**series, "answer": subject.typed(answer), "foil": subject.typed(foil), "aligned": aligned},
    )


def _depths(run: Trace, answer: Token, foil: Token) -> list[float]:
    """The difference of two tokens' logits at the last position by the lens, after each layer.

    Raises:
        Refused: the model has something other than one norm before its unembedding.
    """
    model, last = run.model, run.prompts.at(-1)
    model.certificate.require("The lens", ANALYSES["lens"])
    rows = torch.stack([run.rows("resid_post", layer, last)[0] for layer in range(model.n_layers)])
    tokens = torch.tensor([[[model.token_id(answer), model.token_id(foil)]]])
    with torch.no_grad():
        logits = model.read_tokens(rows[None, None], tokens)[0, 0]  # [layer, token]
    return (logits[:, 0] - logits[:, 1]).tolist()


def grid(subject: Subject, question: Question, tell: Teller) -> Answer:
    """Run B, put in what A has there, at every layer and position (or head); beside it the same from other words."""
    model, site = subject.model, question.site
    answer, foil = subject.targets(question)
    clean, corrupt = (subject.prompts(text, answer, foil) for text in (question.text, question.other))
    if clean.n_positions != corrupt.n_positions:
        raise BadInput(
            f"A has {clean.n_positions} tokens and B {corrupt.n_positions}, so their positions do not correspond. "
            "Choose prompts of equal length in tokens."
        )
    cells = model.n_layers * (model.n_heads if site == "z" else clean.n_positions)
    if cells > CELLS:
        raise BadInput(
            f"The grid has {cells} cells; at most {CELLS} are run here. Shorten the prompts, or use cutaway patch."
        )
    subject.prepare(tell)
    words = other_words(model, corrupt, clean, GRID_DRAWS)
    edits = {"patch": patch(site, clean), **({"control": patched_from(site, words)} if words else {})}
    runs = sweeps(model, corrupt, edits, "logit_diff", tell)
    found, other = runs["patch"], runs.get("control")
    quantity = f"logit({subject.shown(answer)}) - logit({subject.shown(foil)})"
    base, aim = float(found["base"].values[0]), float(found["reference"].values[0])
    effect = found["effect"].isel(prompt=0, drop=True)
    null = None if other is None else other["effect"].isel(prompt=0, drop=True).transpose("draw", *effect.dims)
    gap = aim - base
    shared, warning = _shared(effect.values, gap)
    scale, unit = (gap, "share of the way from B to A") if shared else (1.0, "change in logits")
    values = effect / scale
    largest = np.unravel_index(int(np.nanargmax(np.abs(values.values))), values.shape)
    where = " ".join(f"{'LH'[d == 'head'] if d != 'position' else 'position '}{values[d].values[i]}"
                     for d, i in zip(values.dims, largest, strict=True))  # fmt: skip
    most = signed(float(values.values[largest]))
    says = [
        f"{quantity} is {signed(base)} in B and {signed(aim)} in A. "
        + (
            f"The largest share is restored at {where}: {most}; 0 is as B, 1 as A."
            if shared
            else f"The largest change is at {where}: {most} logits."
        )
    ]
    facts = {"site": site, "base": base, "reference": aim, "effect": effect.values.tolist()}
    if warning:
        says.append(warning)
    if gap:
        facts["normalized"] = (effect.values / gap).tolist()
    worst = None
    if null is not None:
        share = null.values / scale
        worst = share[np.abs(share).argmax(0), *np.indices(values.shape)]
        beyond = int((np.abs(values.values) > np.abs(share).max()).sum())
        says.append(
            f"Control: the same patches from {GRID_DRAWS} copies of A with random tokens where the prompts differ; "
            f"the largest of them has {signed(share.ravel()[np.abs(share).argmax()])}, and {beyond} of "
            f"{values.size} cells are beyond that."
        )
        facts["control"] = share.tolist()
    tokens = [clean.tokens[0], corrupt.tokens[0]]
    full = max(float(np.nanmax(np.abs(one))) for one in (values.values, worst) if one is not None)
    drawn = [_drawn(values, site, tokens, f"{site} of A put into B", unit, full)]
    if worst is not None:
        drawn.append(
            _drawn(
                xr.DataArray(worst, values.coords, values.dims),
                site,
                tokens,
                f"{site} of other words put into B",
                f"largest of the control, {unit}",
                full,
            )
        )
    says.append("One pair: no interval and no test. For these, give several pairs to cutaway patch.")
    return Answer(
        f"Patching A into B: {site}",
        says,
        drawn,
        written.python(
            subject,
            question,
            (answer, foil),
            f"found = cutaway.denoise(m, clean=base, corrupt=source, site={site!r})",
            written.SHOW,
            *([CONTROL.format(draws=GRID_DRAWS, site=site)] if words else []),
        ),
        written.asking(subject, question),
        facts,
    )


def _shared(effect: np.ndarray, gap: float) -> tuple[bool, str]:
    """Whether effects are shown as shares of the gap, and what is said if not: a small gap makes any share large."""
    most = float(np.nanmax(np.abs(effect)))
    if abs(gap) >= SMALL_GAP and most <= LARGE_SHARE * abs(gap):
        return True, ""
    why = f"less than {SMALL_GAP:g}" if abs(gap) < SMALL_GAP else f"while one patch changes it by {number(most)}"
    return False, (
        f"A and B differ by only {number(abs(gap))} logits, {why}: shares of so small a gap would be large for any "
        "patch, so changes are shown in logits instead. Choose an answer of A and a foil of B that set the two apart."
    )


def _drawn(values: xr.DataArray, site: str, tokens: list[list[str]], what: str, unit: str, full: float) -> Picture:
    data = xr.Dataset({"effect": values})
    if "position" in values.dims:
        data = data.assign_coords(clean_token=("position", tokens[0]), other_token=("position", tokens[1]))
    picture = effect_grid(data, what, what, unit, full=full)  # one scale for the patch and its control
    return replace(picture, places={"prompt": "B", "site": site})


__all__ = ["compare", "grid"]
