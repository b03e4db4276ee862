"""`study ioi`: the indirect object, from behaviour to heads."""

from __future__ import annotations

from typing import Any

import click

from ..saving import check_folder_free, save_result
from .deliver import Output
from .group import Command
from .options import bos as with_bos
from .options import model, open_model, output, speech
from .session import Session
from .studies import _files, _folder, _page, _print

CORRUPTIONS = ("s2", "swap", "abc", "random")
FRAMES = "A frame of the task, by key; repeatable; default: all."


@click.command(
    cls=Command,
    short_help="Who receives: from behaviour to heads.",
    examples=(
        "cutaway study ioi -o ioi",
        "cutaway study ioi --model gpt2 --families 32 -o gpt2-ioi",
        "cutaway study ioi --corruption abc --json",
    ),
)
@click.option("--families", default=24, show_default=True, type=click.IntRange(2), help="Four prompts each.")
@click.option("--seed", default=0, show_default=True, help="Of words, halves and random ids.")
@click.option("--frame", "frames", multiple=True, metavar="KEY", help=FRAMES)
@click.option("--corruption", type=click.Choice(CORRUPTIONS), default="s2", show_default=True, help="Of the names.")
@click.option("--top", default=6, show_default=True, type=click.IntRange(1), help="Heads looked at closely.")
@click.option("--smallest", default=0.05, show_default=True, help="Smallest effect of interest, a share.")
@with_bos
@model
@output
@speech
@click.pass_context
def ioi(
    ctx: click.Context,
    families: int,
    seed: int,
    frames: tuple[str, ...],
    corruption: str,
    top: int,
    smallest: float,
    bos: bool | None,
    as_json: bool,
    path: str | None,
    force: bool,
    **given: Any,
) -> None:
    """How the model names who receives: what wrote the name, where it travels, which heads carry it.

    Effects are means over families of prompts with intervals; heads are chosen on one half of the families and tested
    on the other. -o DIR writes result.zarr, result.json, report.html and command.txt. Exits with 1 if a check failed.
    """
    session: Session = ctx.obj
    folder = _folder(path)
    out = Output(session, as_json, None if folder else path, force)
    out.check(".html")
    if folder:
        check_folder_free(folder, force)
    with session.working():
        opened = open_model(session, given.pop("model"), **given)
        from ..studies import ioi as room

        settings = room.Settings(families, seed, frames or None, corruption, top=top, smallest=smallest, bos=bos)
        session.say("Patching and taking out heads ...")
        done = room.run(opened, settings)
        done.command = session.command
        if folder:
            save_result(folder, done.arrays, done.document(), _files(done), force)
            session.note(f"wrote {folder / 'report.html'}, result.json, result.zarr, command.txt")
    out.deliver(done.document, lambda console: _print(console, done), {".html": lambda: _page(done)})
    ctx.exit(0 if done.ok else 1)
