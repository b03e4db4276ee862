"""`report`: the page of a saved result, made again without its model."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BadInput
from ..saving import check_free, result_kind, write_file
from ..studies import STUDIES
from .group import Command
from .options import speech
from .session import Session


@click.command(
    cls=Command,
    short_help="The page of a saved result, made again.",
    examples=(
        "cutaway report poland -o poland.html",
        "cutaway report cutaway-demo/ioi -o ioi.html --force",
        "cutaway report poland/result.json -o -",
    ),
)
@click.argument("result", type=click.Path(path_type=Path))
@click.option("-o", "--output", "path", metavar="FILE", help="Where to; default: report.html in the result folder.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@speech
@click.pass_context
def report(ctx: click.Context, result: Path, path: str | None, force: bool) -> None:
    """Make the page of RESULT again: the folder of a study or a sweep. No model is loaded and nothing is run."""
    session: Session = ctx.obj
    folder = result.parent if result.name == "result.json" else result
    file = folder / "report.html" if path is None else Path(path)
    if path != "-":
        if file.suffix != ".html":
            raise BadInput(f"{file} is no .html file; a report is one HTML file.")
        check_free(file, force)
    text = page_of(folder)
    if path == "-":
        click.echo(text, nl=False)
        return
    write_file(file, text, force)
    session.note(f"wrote {file}")


def page_of(folder: Path) -> str:
    """The page of a saved study or sweep.

    Raises:
        BadInput: it is no result folder, or holds something that has no page.
    """
    kind = result_kind(folder)
    if kind == "patch":
        from ..report.sweep import open_sweep

        return open_sweep(folder)
    name = kind.removeprefix("study ")
    if not kind.startswith("study ") or name not in STUDIES:
        inside = [one.name for one in sorted(folder.iterdir()) if (one / "result.json").is_file()]
        hint = f" It has results inside: {', '.join(inside)}." if inside else ""
        raise BadInput(f"{folder} holds a result of {kind!r}, which has no page of its own.{hint}")
    from ..report.shared import study_page
    from ..studies.study import open_study

    return study_page(open_study(folder))
