"""`study vector-arithmetic`: is a relation a vector that can be added?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..saving import check_free
from .group import Command
from .one_study import one_study
from .options import engine, model, open_model, output, speech
from .session import Session

if TYPE_CHECKING:
    from ..studies.study import Study

RELATIONS = ("capitals", "upper_casing", "past_tense")
_ATLEAST_1: dict[str, Any] = {"type": click.IntRange(1), "show_default": True}


@click.command(
    cls=Command,
    short_help="Is a relation a vector that can be added?",
    examples=(
        "cutaway study vector-arithmetic -o capitals",
        "cutaway study vector-arithmetic --relation past_tense --draws 200 -o past",
        "cutaway study vector-arithmetic --model gpt2-medium --all-items --layer 19 --strength 1 -o poland",
        "cutaway study vector-arithmetic --save-vector capitals.safetensors --json",
    ),
)
@click.option("--relation", type=click.Choice(RELATIONS), default="capitals", show_default=True, help="Whose vector.")
@click.option("--items", default=36, show_default=True, type=click.IntRange(5), help="Words of each relation.")
@click.option("--share", default=0.4, show_default=True, help="Of the items, that the vector is taken from.")
@click.option("--draws", default=1000, help="Random vectors of each kind.", **_ATLEAST_1)
@click.option("--flip-draws", default=200, help="Of them, in the search for the smallest step.", **_ATLEAST_1)
@click.option("--site", type=click.Choice(("mlp_out", "attn_out")), default="mlp_out", show_default=True, help="Where.")
@click.option("--layer", type=click.IntRange(0), help="Default: chosen on the items the vector is taken from.")
@click.option("--strength", type=float, help="Default: chosen likewise.")
@click.option("--vector", type=click.Path(dir_okay=False), help="A saved direction instead (.safetensors).")
@click.option("--save-vector", "saved", type=click.Path(dir_okay=False), help="Write the vector: .safetensors.")
@click.option("--held-out/--all-items", default=True, show_default=True, help="Only what the pocket model never saw.")
@click.option("--seed", default=0, show_default=True, help="Of items, halves and random vectors.")
@click.option("--bos/--no-bos", default=None, help="Put BOS first, or no special token. Default: the tokenizer's.")
@model
@output
@engine
@speech
@click.pass_context
def vector_arithmetic(
    ctx: click.Context, saved: str | None, as_json: bool, path: str | None, force: bool, **given: Any
) -> None:
    """Whether what a layer writes for a relation can be added where nobody asked, and taken away where it is asked.

    The vector is taken from some items and tested on others, against a ladder of controls of its norm. -o DIR writes
    result.zarr, result.json, report.html and command.txt. Exits with 1 if a check failed.
    """
    session: Session = ctx.obj
    if saved:
        check_free(Path(saved), force)
    loading = {key: given.pop(key) for key in ("model", "revision", "device", "dtype", "attn")}

    def make() -> Study:
        opened = open_model(session, loading.pop("model"), **loading)
        from ..studies.vector_arithmetic.run import study_of
        from ..studies.vector_arithmetic.settings import Settings

        session.say("Adding vectors ...")
        done, vector = study_of(opened, Settings(**given))
        if saved:
            vector.save(saved, force)
            session.note(f"wrote {saved}")
        return done

    one_study(ctx, as_json, path, force, make)
