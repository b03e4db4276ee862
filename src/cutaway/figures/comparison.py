"""Before | after: what each layer would say without and with an edit, row by row."""

from __future__ import annotations

import xarray as xr

from .. import plots
from ..views import Cell, Table, shade_of
from ..wording import label, percent, prose, several
from .shown import Shown, first_few

SIDES = ("before", "after")


def before_after_table(found: xr.Dataset, prompt: int) -> Table:
    """One prompt of `before_after`; rows in which another token is on top are marked and can be shown alone."""
    one = found.isel(prompt=prompt)
    top = one.sizes["rank"]
    rows: list[list[str | Cell]] = []
    for k, layer in enumerate(one["layer"].values):
        row: list[str | Cell] = [f"L{layer}"]
        tokens = {side: [str(t) for t in one["token"].sel(side=side).values[k]] for side in SIDES}
        chances = {side: one["probability"].sel(side=side).values[k] for side in SIDES}
        for side in SIDES:
            others = ", ".join(label(t, 14) for t in tokens[side][1:])
            mark = "○ " if side == "after" and bool(one["changed_set"].values[k]) else ""
            numbers = {"": float(chances[side][0])} | {str(i + 2): float(p) for i, p in enumerate(chances[side][1:])}
            row.append(Cell(label(tokens[side][0], 16), under=f"{mark}{others}", token=True))
            row.append(Cell(percent(chances[side][0]), shade_of(float(chances[side][0])), numbers))
        rows.append(row)
    changed = [bool(x) for x in one["changed"].values]
    how, count = str(found.attrs.get("operation", "an edit")), several(len(rows), "layer")
    caption = f"“{prose(str(one['text'].values))}”, {how}: {sum(changed)} of {count} change their first choice."
    caption += f" Below each its next {several(top - 1, 'token')}; ○: others than before." if top > 1 else ""
    columns = ["layer", "before", "probability", "after", "probability after"]
    return Table(
        caption,
        columns,
        rows,
        ["before", "after"],
        changed=changed,
        places=[{"layer": int(layer)} for layer in one["layer"].values],
    )


def before_after_shown(found: xr.Dataset) -> list[Shown]:
    """A table a prompt; as a plot, the first choices of both sides with the changed rows starred."""

    def one(i: int) -> Shown:
        mine, text = found.isel(prompt=i), prose(str(found["text"].values[i]))
        best = mine.isel(rank=0)
        cells = [
            [
                (str(best["token"].sel(side=s).values[k]), float(best["probability"].sel(side=s).values[k]))
                for s in SIDES
            ]
            for k in range(mine.sizes["layer"])
        ]
        rows = [
            f"L{n}{' *' if bool(c) else ''}" for n, c in zip(mine["layer"].values, mine["changed"].values, strict=True)
        ]
        title = f"{text}: *: another first choice"
        return Shown(
            f"“{text}”", [before_after_table(found, i)], lambda ax: plots.token_plot(cells, rows, SIDES, title, ax)
        )

    return first_few("prompts", found.sizes["prompt"], one)
