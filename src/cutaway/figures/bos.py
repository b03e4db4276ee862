"""What hangs on the BOS token: the prediction with it and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import plots
from ..views import Cell, Table, num, plus, portion
from ..wording import label, number, prose
from .shown import Shown

LISTED = 100


def bos_table(found: xr.Dataset, prompt: int) -> Table:
    """One prompt, a row with BOS and a row without."""
    one = found.isel(prompt=prompt)
    caption = f"With a BOS token before the prompt and without; KL {number(one['kl'])} nats from with to without."
    return Table(
        caption, _columns(found), [_row(one.sel(bos=b), str(b)) for b in one["bos"].values], ["BOS", "first choice"]
    )


def bos_shown(found: xr.Dataset) -> list[Shown]:
    """All prompts: two rows each, and how far apart the predictions are."""
    rows: list[list[str | Cell]] = []
    changed: list[bool] = []
    for i in range(min(found.sizes["prompt"], LISTED)):
        one = found.isel(prompt=i)
        other = str(one["top"].values[0]) != str(one["top"].values[1])
        for bos in one["bos"].values:
            rows.append([prose(str(one["text"].values), 60), *_row(one.sel(bos=bos), str(bos)), num(one["kl"])])
            changed.append(other)
    count = found.sizes["prompt"]
    some = "" if count <= LISTED else f" The first {LISTED} of {count} prompts; the result has all."
    caption = f"The next token with a BOS token before the prompt and without. Changed: another first choice.{some}"
    table = Table(
        caption,
        ["prompt", *_columns(found), "KL, nats"],
        rows,
        ["prompt", "BOS", "first choice"],
        changed=changed,
    )
    terms = [(prose(str(t), 28), float(k)) for t, k in zip(found["text"].values[:30], found["kl"].values, strict=False)]

    def plot(ax: Any) -> Any:
        return plots.waterfall_plot(
            terms, None, "How far BOS moves the prediction", "KL, nats, from with to without", ax
        )

    return [Shown("With and without BOS", [table], plot)]


def _columns(found: xr.Dataset) -> list[str]:
    asked = ["answer's rank", "answer's probability"] if "answer_rank" in found else []
    return ["BOS", *asked, *(["answer - foil"] if "contrast" in found else []), "first choice"]


def _row(one: xr.Dataset, name: str) -> list[str | Cell]:
    row: list[str | Cell] = [name]
    if "answer_rank" in one:
        row += [str(int(one["answer_rank"])), portion(np.exp(float(one["answer_log_probability"])))]
    if "contrast" in one:
        row.append(plus(one["contrast"]))
    return [*row, Cell(label(str(one["top"].values)), token=True)]
