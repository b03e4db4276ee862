"""`report`: the page of a saved result, made again without its model."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BadInput
from ..saving import check_free, write_file
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
    from ..report.saved import page_of

    text = page_of(folder)
    if path == "-":
        click.echo(text, nl=False)
        return
    write_file(file, text, force)
    session.note(f"wrote {file}")
