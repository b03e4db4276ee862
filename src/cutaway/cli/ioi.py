"""`study ioi`: the indirect object, from behaviour to heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .group import Command
from .one_study import one_study
from .options import bos as with_bos
from .options import engine, model, open_model, output, speech
from .session import Session

if TYPE_CHECKING:
    from ..studies.study import Study

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
@engine
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

    def make() -> Study:
        opened = open_model(session, given.pop("model"), **given)
        from ..studies import ioi as room

        settings = room.Settings(families, seed, frames or None, corruption, top=top, smallest=smallest, bos=bos)
        session.say("Patching and taking out heads ...")
        return room.run(opened, settings)

    one_study(ctx, as_json, path, force, make)
