"""`resume`: continue what was interrupted."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import BadInput
from .group import Command
from .group import cutaway as root
from .options import engine, speech
from .session import Session, Where
from .unfinished import RUN, partial_of, read_run


@click.command(
    cls=Command,
    short_help="Continue what was interrupted.",
    examples=(
        "cutaway resume ioi",
        "cutaway resume capitals.csv",
        "cutaway resume ioi --engine ray --workers 4",
    ),
)
@click.argument("output", type=click.Path(path_type=Path), metavar="OUTPUT")
@engine
@speech
@click.pass_context
def resume(ctx: click.Context, output: Path) -> None:
    """Continue the command that was to write OUTPUT (its -o), with the sweeps that it had finished.

    Ends with the same bits as an uninterrupted run, whichever engine began it; --engine says who goes on (default: as
    it was begun). Refused, with what differs, if the model, the prompts, a version or the number of threads is another
    one now. A sweep with store= in Python is continued by the same call.
    """
    session: Session = ctx.obj
    folder = partial_of(output)
    if not (folder / RUN).is_file():
        raise BadInput(_nothing(output, folder))
    run = read_run(folder)
    session.where.fixed = session.where != Where()
    session.resuming, session.args, session.command = folder.resolve(), run.args, run.command
    try:
        os.chdir(run.cwd)
    except OSError as error:
        raise BadInput(f"It was begun in {run.cwd}, which cannot be entered: {error.strerror or error}.") from None
    session.say(run.command)
    ctx.exit(root.main(run.args, prog_name="cutaway", standalone_mode=False, obj=session) or 0)


def _nothing(output: Path, folder: Path) -> str:
    if (output / "manifest.json").is_file():
        return f"{output} is the store of a sweep that Python code made: only the same call continues it."
    if output.exists():
        return f"There is nothing to continue: {output} is there, and no {folder.name} beside it."
    return f"There is nothing to continue: there is no {folder}. Name what -o named."
