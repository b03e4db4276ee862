"""`study`: one study end to end. `demo`: every study on the model that ships with the package."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..saving import check_folder_free, document, new_folder, save_result, to_json, write_file
from ..studies import STUDIES
from ..wording import label, number, percent, prose
from .group import Command, Group
from .options import engine, open_model, speech
from .session import Session
from .tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from ..studies.study import Study


STUDY_COMMANDS = {
    "attribution": "attribution:attribution",
    "ioi": "ioi:ioi",
    "vector-arithmetic": "vector_arithmetic:vector_arithmetic",
    "rotation": "rotation:rotation",
    "subspace": "subspace:subspace",
}
"""Study -> module:attribute in this package. A new study is one line here and one in `STUDIES`, for the demo."""


@click.group(
    cls=Group,
    short_help="One study end to end.",
    homes=STUDY_COMMANDS,
    examples=(
        'cutaway study attribution -p "The capital of Poland is" --answer " Warsaw" --foil " Berlin" -o poland',
        "cutaway study attribution --help",
        "cutaway demo",
    ),
)
def study() -> None:
    """One study end to end: checks, result as data, findings, and a page to read."""


def _page(done: Study) -> str:
    from ..report.shared import study_page

    return study_page(done)


def _files(done: Study) -> dict[str, str]:
    """What goes into a result folder beside the numbers."""
    return {"report.html": _page(done), "command.txt": done.command + "\n"}


def _print(console: Console, done: Study) -> None:
    console.print(prose(done.title, 400))
    console.print()
    for finding in done.findings:
        console.print(f"- {finding}")
    console.print()
    if "next_tokens" in done.arrays:
        one = done.arrays["next_tokens"].isel(prompt=0)
        columns = [one[name].values for name in ("rank", "token_id", "token", "logit", "probability")]
        rows = [(r, i, label(str(t)), number(x, 4), percent(p)) for r, i, t, x, p in zip(*columns, strict=True)]
        table(console, "Next token", ["rank", "id", "token", "logit", "probability"], rows, left=["token"])
        console.print()
    checks = [(c.name, "passed" if c.passed else "FAILED", f"{c.error:.1e}", f"{c.tolerance:.0e}") for c in done.checks]
    table(console, "Checks", ["check", "state", "error", "allowed"], checks, left=["check", "state"])
    for what, why in done.refused.items():
        console.print(f"\nnot done: {what}: {why}")


@click.command(
    cls=Command,
    short_help="Every study on the bundled model.",
    examples=("cutaway demo", "cutaway demo -o demo", "cutaway demo -o demo --force"),
)
@click.option("-o", "--output", "path", default="cutaway-demo", show_default=True, metavar="DIR", help="Where to.")
@click.option("--force", is_flag=True, help="Replace an earlier demo.")
@engine
@speech
@click.pass_context
def demo(ctx: click.Context, path: str, force: bool) -> None:
    """Run the studies on the pocket model, which ships with the package, and write a page that leads to each."""
    from ..report.shared import index_page

    session: Session = ctx.obj
    folder, start = Path(path), time.monotonic()
    check_folder_free(folder, force)
    with session.working():
        opened = open_model(session, "pocket")
        done = []
        for name in STUDIES:
            session.say(f"Study of {name} ...")
            room = import_module(f"..studies.{name.replace('-', '_')}", __package__)
            one = room.run(opened, room.demo())
            one.command = session.command
            done.append(one)
        page = index_page(done, STUDIES, time.monotonic() - start)
        _save_demo(folder, done, page, force)
    for one in done:
        click.echo(one.title)
    click.echo(str(folder / "index.html"))
    ctx.exit(0 if all(one.ok for one in done) else 1)


def _save_demo(folder: Path, done: list[Study], page: str, force: bool) -> None:
    """All studies and the index in one folder, which appears whole or not at all."""
    facts = document("demo", studies=[{"kind": one.kind, "title": one.title, "ok": one.ok} for one in done])
    with new_folder(folder, force) as partial:
        for one in done:
            save_result(partial / one.kind, one.arrays, one.document(), _files(one))
        write_file(partial / "index.html", page)
        write_file(partial / "result.json", to_json(facts))
