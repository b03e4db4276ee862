"""`study rotation`: how far each block turns a token's vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .group import Command
from .one_study import one_study
from .options import engine, model, open_model, output, speech
from .session import Session

if TYPE_CHECKING:
    from ..studies.study import Study

_PATH = click.Path(path_type=Path, dir_okay=False)
SENTENCES = "One a line; .jsonl: objects with text, target (word or index), type, family, control. - reads lines."
FILLERS = "Sentences without a target, one a line, from which controls may be taken too."
FREQUENCIES = "Word frequencies for matching: a word and a number a line, or JSON. Default: counted in the sentences."


@click.command(
    cls=Command,
    short_help="How far each block turns a token.",
    examples=(
        "cutaway study rotation -o pronouns",
        "cutaway study rotation --model gpt2 --sentences mine.txt --target her --target him -o turns",
        "cutaway study rotation --task ioi --role S2 --control IO --families 12 --json",
    ),
)
@click.option("--sentences", "file", type=str, metavar="PATH", help=SENTENCES)
@click.option(
    "--target", "targets", multiple=True, metavar="WORD", help="Once in each sentence; repeat for several types."
)
@click.option("--fillers", type=_PATH, help=FILLERS)
@click.option("--task", metavar="NAME", help="The prompts of a task instead, with --role.")
@click.option("--role", metavar="ROLE", help="Whose token is the target, in the prompts of a task.")
@click.option("--control", metavar="WORD", help="A further control: a word in every sentence; of a task, a role.")
@click.option(
    "--families", default=100, show_default=True, type=click.IntRange(2), help="Of our own sentences, or a task."
)
@click.option("--frequencies", type=_PATH, help=FREQUENCIES)
@click.option("--caliper", default=3.0, show_default=True, help="Largest difference in frequency, in octaves.")
@click.option(
    "--draws", default=200, show_default=True, type=click.IntRange(20), help="Random updates a target and block."
)
@click.option(
    "--level", default=0.95, show_default=True, type=click.FloatRange(0.5, 0.999), help="Of intervals and tests."
)
@click.option("--seed", default=0, show_default=True, help="Of words and random updates.")
@click.option("--bos/--no-bos", default=None, help="Put BOS first, or no special token. Default: the tokenizer's.")
@model
@output
@engine
@speech
@click.pass_context
def rotation(
    ctx: click.Context,
    file: str | None,
    fillers: Path | None,
    frequencies: Path | None,
    as_json: bool,
    path: str | None,
    force: bool,
    **given: Any,
) -> None:
    """How far each block turns a token's vector, against matched controls, other controls and shuffled baselines.

    Without --sentences or --task: sentences of our own, with a pronoun as object. Differences are over families of
    sentences, each beginning once. -o DIR writes result.zarr, result.json, report.html and command.txt. Exits with 1
    if a check failed.
    """
    session: Session = ctx.obj
    asked = {key: given.pop(key) for key in ("targets", "task", "role", "control", "families", "caliper", "draws")}
    asked |= {key: given.pop(key) for key in ("level", "seed", "bos")}

    def make() -> Study:
        from ..tasks.sentences import read_sentences

        if file == "-":
            asked["texts"] = tuple(line for line in session.standard_input().splitlines() if line.strip())
        else:
            asked["file"] = file
        if fillers is not None:
            asked["fillers"] = tuple(row["text"] for row in read_sentences(fillers))
        asked["frequencies"] = None if frequencies is None else str(frequencies)
        opened = open_model(session, given.pop("model"), **given)
        from ..studies import rotation as room

        session.say("Measuring angles ...")
        return room.run(opened, room.Settings(**asked))

    one_study(ctx, as_json, path, force, make)
