"""Two prompts: side by side, and what of the one restores its answer in the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from .. import lens, patch, sweep, views
from ..errors import BadInput
from ..figures import effect_grid
from ..tokens import shown
from ..views import Picture
from ..wording import label, prose, signed
from . import written
from .answer import Answer
from .changing import Progress, compared_choices
from .control import other_words, patched_from
from .limits import CELLS, GRID_DRAWS
from .looking import token_row
from .question import Question
from .subject import Subject


def compare(subject: Subject, question: Question, progress: Progress) -> Answer:
    """What comes next in either, and how that grows with depth."""
    answer, foil = subject.targets(question)
    runs = [subject.trace(text) for text in (question.text, question.other)]
    first, second = (run.prompts for run in runs)
    table = compared_choices(
        subject, runs[0].logits[0, -1], runs[1].logits[0, -1], ("A", "B"), "Next token after A and after B"
    )
    series = {}
    for name, run in zip("AB", runs, strict=True):
        found = lens(run, top=1, of=[answer, foil]).isel(prompt=0, position=run.prompts.n_positions - 1)
        series[name] = (found["of_logit"].isel(of=0) - found["of_logit"].isel(of=1)).values.tolist()
    ticks = [f"L{k}" for k in range(subject.model.n_layers)]
    quantity = f"logit({shown(answer)}) - logit({shown(foil)})"
    drawn = views.lines(series, ticks, f"{quantity} by the logit lens, at the last position", "logits")
    words = " ".join(views.spoken_line(name, line, ticks, False) for name, line in series.items())
    lines = Picture(drawn, f"{quantity} after each layer, in A and in B.", words)
    row = token_row(second.tokens[0], second.ids[0].tolist(), "B")
    if first.n_positions == second.n_positions:
        at = (first.ids != second.ids)[0].nonzero()[:, 0].tolist()
        where = ", ".join(f"{p} ({label(first.tokens[0][p])} | {label(second.tokens[0][p])})" for p in at)
        says = f"The prompts differ at position {where}." if at else "The prompts are the same."
    else:
        says = (
            f"A has {first.n_positions} tokens and B {second.n_positions}: their positions do not correspond, so "
            "nothing is patched between them but single positions."
        )
    return Answer(
        "Two prompts: A | B",
        [says],
        [row, table, lines],
        written.python(subject, question, answer, foil, "cutaway.show(m.top(base))", "cutaway.show(m.top(source))"),
        written.shell(subject, "top", question.text, "-p", question.other),
        {"A": series["A"], "B": series["B"], "answer": answer, "foil": foil},
    )


def grid(subject: Subject, question: Question, progress: Progress) -> Answer:
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
    words = other_words(model, corrupt, clean, GRID_DRAWS)
    whole, share = 1 + bool(words), [0]

    def part(done: int, total: int) -> None:
        progress(share[0] * total + done, whole * total)

    found = sweep(model, corrupt, patch(site, clean), metric="logit_diff", progress=part)
    share[0] = 1
    other = sweep(model, corrupt, patched_from(site, words), metric="logit_diff", progress=part) if words else None
    quantity = f"logit({shown(answer)}) - logit({shown(foil)})"
    base, aim = float(found["base"].values[0]), float(found["reference"].values[0])
    if abs(aim - base) < 1e-6:
        raise BadInput(
            f"A and B have the same {quantity}, so there is nothing to restore. Choose another answer or foil."
        )
    values = found["normalized"].isel(prompt=0, drop=True)
    tokens = [clean.tokens[0], corrupt.tokens[0]]
    parts = [_drawn(values, site, tokens, f"{site} of A put into B", "share of the way from B to A")]
    largest = np.unravel_index(int(np.nanargmax(np.abs(values.values))), values.shape)
    where = " ".join(f"{'LH'[d == 'head'] if d != 'position' else 'position '}{values[d].values[i]}"
                     for d, i in zip(values.dims, largest, strict=True))  # fmt: skip
    says = [
        f"{quantity} is {signed(base)} in B and {signed(aim)} in A. The largest share is restored at {where}: "
        f"{signed(float(values.values[largest]))}; 0 is as B, 1 as A."
    ]
    facts = {"site": site, "base": base, "reference": aim, "normalized": values.values.tolist()}
    if other is not None:
        null = (other["effect"].isel(prompt=0, drop=True) / (aim - base)).transpose("draw", *values.dims)
        worst = null.values[np.abs(null.values).argmax(0), *np.indices(values.shape)]
        beyond = int((np.abs(values.values) > np.abs(null.values).max()).sum())
        says.append(
            f"Control: the same patches from {GRID_DRAWS} copies of A with random tokens where the prompts differ; "
            f"the largest of them has {signed(null.values.ravel()[np.abs(null.values).argmax()])}, and {beyond} of "
            f"{values.size} cells are beyond that."
        )
        drawn = xr.DataArray(worst, values.coords, values.dims)
        parts.append(_drawn(drawn, site, tokens, f"{site} of other words put into B", "largest share of the control"))
        facts["control"] = null.values.tolist()
    says.append("One pair: no interval and no test. For these, give several pairs to cutaway patch.")
    return Answer(
        f"Patching A into B: {site}",
        says,
        parts,
        written.python(
            subject,
            question,
            answer,
            foil,
            f"found = cutaway.denoise(m, clean=base, corrupt=source, site={site!r})",
            "cutaway.show(found)",
        ),
        written.asking(subject, question),
        facts,
    )


def _drawn(values: xr.DataArray, site: str, tokens: list[list[str]], what: str, unit: str) -> Picture:
    data = xr.Dataset({"effect": values})
    if "position" in values.dims:
        data = data.assign_coords(clean_token=("position", tokens[0]), other_token=("position", tokens[1]))
    picture = effect_grid(data, what, what, unit)
    return replace(picture, places={"prompt": "B", "site": site})


__all__ = ["compare", "grid", "prose"]
