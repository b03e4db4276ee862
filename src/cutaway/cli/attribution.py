"""`study attribution`: which parts of the model wrote a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..tokens import read_token
from .group import Command
from .one_study import one_study
from .options import engine, gather, model, open_model, output, prompts, speech
from .readouts import ANSWER, FOIL
from .session import Session

if TYPE_CHECKING:
    from ..studies.study import Study


@click.command(
    cls=Command,
    short_help="Which parts of the model wrote a prediction.",
    examples=(
        'cutaway study attribution -p "The capital of Poland is" --answer " Warsaw" --foil " Berlin" -o poland',
        'cutaway study attribution --model gpt2 -p "The capital of Poland is" --answer " Warsaw" --json',
        'cutaway study attribution --model gpt2 --prompt-file rome.txt --answer " Rome" --foil " Bonn" -o rome.html',
    ),
)
@prompts
@ANSWER
@FOIL
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Next tokens listed.")
@model
@output
@engine
@speech
@click.pass_context
def attribution(
    ctx: click.Context,
    answer: tuple[str, ...],
    foil: tuple[str, ...],
    top: int,
    as_json: bool,
    path: str | None,
    force: bool,
    **given: Any,
) -> None:
    """Which parts of the model wrote the prediction after PROMPT, and how exactly that is known.

    Without --answer, the model's own first choice. Without --foil, against the mean of the vocabulary. -o DIR writes
    result.zarr, result.json, report.html and command.txt. Exits with 1 if a check failed.
    """
    session: Session = ctx.obj
    texts = gather(given.pop("prompt"), given.pop("more"), given.pop("prompt_file"))
    bos = given.pop("bos")

    def make() -> Study:
        opened = open_model(session, given.pop("model"), **given)
        from ..studies import attribution as room

        settings = room.Settings(tuple(texts), tuple(map(read_token, answer)), tuple(map(read_token, foil)), bos, top)
        session.say("Taking the prediction apart ...")
        return room.run(opened, settings)

    one_study(ctx, as_json, path, force, make)
