"""`patch`: one sweep of patching or ablation, over a task or a file of pairs."""

from __future__ import annotations

import csv
import io
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput
from ..saving import check_folder_free, document, save_result
from ..tasks import TASKS
from ..wording import capital, number, signed
from .deliver import Output, folder_of
from .group import Command
from .options import bos, engine, model, open_model, output, speech, standard_input
from .session import Session
from .tables import table

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from ..edits.cells import Edits
    from ..model import Model
    from ..prompts import Prompts
    from ..tasks.task import Task

SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_act", "z", "q", "k", "v", "pattern",
    "embed",
)  # fmt: skip
HEADS = ("z", "q", "k", "v", "pattern")
NUMBERED, PLACED = ("layers", "heads", "neurons"), ("positions", "queries", "keys")
METRICS = ("logit_diff", "logit", "log_prob", "prob", "rank", "entropy")
CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "denoise": ("corrupt", "patch", {"source": "clean"}),
    "noise": ("clean", "patch", {"source": "corrupt"}),
    "zero": ("clean", "ablate", {"how": "zero"}),
    "mean": ("clean", "ablate", {"mean_of": "corrupt", "by": ("position", "template")}),
    "resample": ("clean", "ablate", {"resample_from": "corrupt"}),
}
"""How: the run that is edited, the function that makes the edit, and what it is given, runs by their names."""
_PAIRS = "Instead of a task: JSON lines with clean, corrupt, answer, foil, family, roles; - is standard input."
_HOW = "denoise: clean into corrupted; noise: corrupted into clean; else what replaces it in the clean run."
_SELECT = 'Such as "0-5,7", or "all" together; default: each.'
_NEURONS = 'Such as "0-5,7", or "each"; default: all together.'
_PLACES = 'Of a pattern: roles or indices, "each" or "all"; default: all.'


@click.command(
    cls=Command,
    short_help="One sweep: what each part restores or breaks.",
    examples=(
        "cutaway patch --site z",
        "cutaway patch --site resid_pre --positions S2,END --corruption abc --how noise",
        "cutaway patch --task capitals --site mlp_out --positions ARG,END -o capitals.csv",
        "cutaway patch --site z -o heads.html",
        "cutaway patch --model gpt2 --bos --pairs pairs.jsonl --site attn_out --json",
    ),
)
@click.option("--task", "name", type=click.Choice(list(TASKS)), default="ioi", show_default=True, help="The prompts.")
@click.option("--pairs", "pairs_file", type=click.Path(path_type=Path, dir_okay=False), help=_PAIRS)
@click.option("--site", type=click.Choice(SITES), default="resid_pre", show_default=True, help="What is replaced.")
@click.option("--how", type=click.Choice(list(CALLS)), default="denoise", show_default=True, help=_HOW)
@click.option("--corruption", help="Which of the task's corruptions; default: its first.")
@click.option("--positions", help='Roles or indices, "each" or "all"; default: the task\'s roles, or all for heads.')
@click.option("--layers", help=_SELECT)
@click.option("--heads", help=_SELECT)
@click.option("--neurons", help=_NEURONS)
@click.option("--queries", help=_PLACES)
@click.option("--keys", help=_PLACES)
@click.option("--metric", type=click.Choice(METRICS), help="At the end; default: the task's own.")
@click.option("--families", default=16, show_default=True, type=click.IntRange(2), help="Of the task.")
@click.option("--seed", default=0, show_default=True, help="Of the task's words.")
@bos
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="Cells printed.")
@model
@output
@engine
@speech
@click.pass_context
def patch(
    ctx: click.Context, as_json: bool, path: str | None, force: bool, top: int, dry_run: bool, **given: Any
) -> None:
    """Replace one part of the run at a time and measure what that restores or breaks.

    Each cell: mean change over families of prompts with a 95 % interval, p corrected over all cells (sign-flip max-T),
    and the share of the way from the one run to the other. The largest are printed; files have all of them. -o DIR
    writes result.zarr, result.json, report.html and command.txt.
    """
    session: Session = ctx.obj
    folder = folder_of(path)
    out = Output(session, as_json, None if folder else path, force)
    out.check(".csv", *([] if dry_run else [".html"]))
    if folder:
        check_folder_free(folder, force)
    opening = {k: given.pop(k) for k in ("model", "revision", "device", "dtype", "attn")}
    with session.working():
        opened = open_model(session, opening.pop("model"), **opening)
        prompts, base, edits = chosen(opened, given)
        if not dry_run:
            session.say(f"Sweeping {given['site']} ...")
            found = swept(opened, prompts, base, edits, given)
    if dry_run:
        plan = planned(opened, base, edits, metric_of(given, prompts))
        out.deliver(
            lambda: document("patch plan", plan=plan), lambda console: console.print(plan), {".csv": plan.encode}
        )
        return
    from ..metrics import as_metric
    from ..report.sweep import sweep_document, sweep_page

    python = python_of(opened, prompts, given)
    given["metric"] = as_metric(metric_of(given, prompts)).name
    facts = {"task": prompts.name, "note": prompts.note(), **{k: _plain(v) for k, v in given.items()}}
    whole = sweep_document(found, facts, session.command, python)
    if folder:
        files = {"report.html": sweep_page(found, whole), "command.txt": session.command + "\n"}
        save_result(folder, {"sweep": found}, whole, files, force)
        session.note(f"wrote {folder / 'report.html'}, result.json, result.zarr, command.txt")
    out.deliver(
        lambda: whole,
        lambda console: _print(console, prompts, found, given, top),
        {".csv": lambda: _csv(found), ".html": lambda: sweep_page(found, whole)},
    )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def chosen(opened: Model, given: dict[str, Any]) -> tuple[Task, Prompts, Edits]:
    """The task, the prompts whose run is edited, and the edits.

    Raises:
        BadInput: a choice that does not exist for this task or model.
    """
    from ..edits import making
    from ..tasks import make_task
    from ..tasks.pairs import pairs

    if given["pairs_file"] is not None:
        path, text = given["pairs_file"], None
        if str(path) == "-":
            path, text = Path("standard input"), standard_input()
        task = pairs(opened, path, given["bos"], text)
    else:
        task = make_task(given["name"], opened, families=given["families"], seed=given["seed"], bos=given["bos"])
    runs = {"clean": task.clean, "corrupt": task.corrupt(given["corruption"])}
    base, function, options = _call(given)
    options = {key: runs.get(value, value) if isinstance(value, str) else value for key, value in options.items()}
    edit = getattr(making, function)(given["site"], **options, **_where(given, task))
    return task, runs[base], edit


def metric_of(given: dict[str, Any], task: Task) -> Any:
    """The metric asked for, by its name, or the task's own."""
    return given["metric"] or task.metric


def _call(given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    base, function, options = CALLS[given["how"]]
    return base, function, options | ({"seed": given["seed"]} if given["how"] == "resample" else {})


def python_of(opened: Model, task: Task, given: dict[str, Any]) -> str:
    """The Python that makes the same sweep; "" where its pairs came on standard input."""
    base, function, options = _call(given)
    path, bos = given["pairs_file"], given["bos"]
    if str(path) == "-":
        return ""
    if path is None:
        more = f"families={given['families']}, seed={given['seed']}" + ("" if bos is None else f", bos={bos}")
        made = ["from cutaway.tasks import make_task", f"task = make_task({given['name']!r}, m, {more})"]
    else:
        made = [
            "from pathlib import Path",
            "from cutaway.tasks.pairs import pairs",
            f"task = pairs(m, Path({str(path)!r}), {bos})",
        ]
    asked = [f"{key}={value if value in ('clean', 'corrupt') else repr(value)}" for key, value in options.items()]
    where = [f"{key}={value!r}" for key, value in _where(given, task).items()]
    corruption = "" if given["corruption"] is None else repr(given["corruption"])
    metric = "task.metric" if given["metric"] is None else repr(given["metric"])
    *imports, task_is = made
    if given["how"] in ("denoise", "noise"):
        call = ", ".join(["m, clean, corrupt", repr(given["site"]), f"metric={metric}", *where])
        sweeps = [f"found = cutaway.{given['how']}({call})"]
    else:
        sweeps = [
            f"edits = cutaway.{function}({given['site']!r}, {', '.join([*asked, *where])})",
            f"found = cutaway.sweep(m, {base}, edits, metric={metric})",
        ]
    return "\n".join(
        [
            "import cutaway",
            *imports,
            f"m = cutaway.load({opened.name!r}, dtype={str(opened.dtype).removeprefix('torch.')!r})",
            task_is,
            f"clean, corrupt = task.clean, task.corrupt({corruption})",
            *sweeps,
            "cutaway.show(found)",
        ]
    )


def planned(opened: Model, base: Prompts, edits: Edits, metric: Any) -> str:
    """What the sweep would run, in words."""
    from .. import sweep

    return sweep(opened, base, edits, metric=metric, dry_run=True).describe()


def swept(opened: Model, task: Task, base: Prompts, edits: Edits, given: dict[str, Any]) -> xr.Dataset:
    """Every cell's mean change over families, with interval, corrected p and share.

    Raises:
        Refused: this model is not certified for the site.
    """
    from ..studies.effects import effects, with_example
    from ..studies.effects import swept as sweep
    from ..studies.threads import threads_for

    clean, corrupt = task.clean, task.corrupt(given["corruption"])
    if task.n_families < 2:
        raise BadInput(
            "These pairs are of one family, and an interval needs two at least. Give more pairs, or use cutaway.sweep "
            "in Python, which needs no interval."
        )
    with threads_for(opened):
        found = sweep(opened, base, edits, metric_of(given, task))
        other = sweep(opened, corrupt if base is clean else clean, _nothing(opened), metric_of(given, task))["base"]
    value = found["value"]
    if value.ndim == 1:  # one cell
        value = value.expand_dims(cell=["all"], axis=-1)
    made = effects(value, found["base"].values, other.values, clean.families)
    if given["how"] == "zero":  # zero comes from no run, so there is no way from one to the other
        made = made.assign({name: made[name] * float("nan") for name in COLUMNS[-3:]})
        made.attrs.pop("no_share", None)
    made = made.assign_attrs({**found.attrs, **made.attrs, "site": given["site"], "how": given["how"]})
    return with_example(made, clean, clean if given["how"] == "zero" else corrupt)


def _nothing(opened: Model) -> Any:
    """An edit that changes nothing, for the metric of a plain run."""
    import torch

    from ..edits.making import add

    return add("resid_pre", torch.zeros(opened.d_model), layers=opened.n_layers - 1, positions="all")


def _where(given: dict[str, Any], task: Task) -> dict[str, Any]:
    """What is edited, as `cutaway.patch` takes it."""
    where: dict[str, Any] = {key: _numbers(given[key], key) for key in NUMBERED if given[key] is not None}
    where |= {key: _places(given[key]) for key in PLACED if given[key] is not None}
    if "positions" not in where and given["site"] not in HEADS:
        where["positions"] = [role for role in task.clean.roles if role != "END"] + ["END"]
    return where


def _numbers(given: str, what: str) -> Any:
    return given if given in ("each", "all") else ranges(given, what)


def _places(given: str) -> Any:
    if given in ("each", "all"):
        return given
    return [int(p) if re.fullmatch(r"-?\d+", p) else p for p in (q.strip() for q in given.split(",")) if p]


def ranges(text: str, what: str) -> list[int]:
    """Numbers from `0-5,7`.

    Raises:
        BadInput: it is not of that form.
    """
    chosen: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", piece)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise BadInput(f"--{what} {text!r} is not of the form 0-5,7.")
        chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(chosen))


COLUMNS = ("effect", "low", "high", "p_corrected", "share", "share_low", "share_high")


def _cells(found: xr.Dataset) -> list[tuple[tuple[Any, ...], dict[str, float]]]:
    """Every cell: its labels and its numbers, in the order of the grid."""
    dims = found["effect"].dims
    labels = itertools.product(*(found[d].values.tolist() for d in dims))
    columns = {name: found[name].values.ravel() for name in COLUMNS}
    return [(at, {name: float(columns[name][i]) for name in COLUMNS}) for i, at in enumerate(labels)]


def _print(console: Console, prompts: Task, found: xr.Dataset, given: dict[str, Any], top: int) -> None:
    cells = _cells(found)
    dims = [str(d) for d in found["effect"].dims]
    base, moved = float(found["base"].mean()), sum(c["p_corrected"] <= 0.05 for _, c in cells)
    console.print(
        f"{prompts.name}: {len(prompts)} prompts in {found.attrs['families']} families; mean {given['metric']} of the "
        f"unedited run {signed(base)}; {moved} of {len(cells)} cells differ from 0 (max-T, .05)"
    )
    for line in (prompts.note(), str(found.attrs.get("warning", "")), str(found.attrs.get("no_share", ""))):
        if line:
            console.print(capital(line))
    console.print()
    largest = sorted(cells, key=lambda cell: -abs(cell[1]["effect"]))[:top]
    rows = [
        (
            *at,
            signed(c["effect"]),
            f"{signed(c['low'])} to {signed(c['high'])}",
            number(c["p_corrected"], 2),
            signed(c["share"]),
        )
        for at, c in largest
    ]
    title = f"{given['how']} {given['site']}: the {len(rows)} largest of {len(cells)} cells"
    table(console, title, [*dims, "effect", "95 % interval", "p corrected", "share"], rows)


def _csv(found: xr.Dataset) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*found["effect"].dims, *COLUMNS])
    writer.writerows([*at, *(c[name] for name in COLUMNS)] for at, c in _cells(found))
    return file.getvalue()
