"""`study subspace`: what is lost when the leading directions of an activation are removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..saving import check_free
from .group import Command
from .one_study import one_study
from .options import engine, model, open_model, output, speech
from .patching import ranges
from .session import Session

if TYPE_CHECKING:
    from ..studies.study import Study

SITES = ("mlp_pre", "mlp_act", "mlp_out", "attn_out", "resid_pre", "resid_mid", "resid_post")
TEXT = "Texts to test on: blank lines between them, or .jsonl. Default: passages of the package."
FIT = "Texts to fit on. Default: half of the families of --text."
GIVEN = "Directions instead: safetensors of saved subspaces, or of tensors L0, L1, ... [rank, width]."
_ATLEAST_1: dict[str, Any] = {"type": click.IntRange(1), "show_default": True}


@click.command(
    cls=Command,
    short_help="What is lost without the leading directions.",
    examples=(
        "cutaway study subspace -o passages",
        "cutaway study subspace --site mlp_act --rank 4 --layers 3,4,5 -o four",
        "cutaway study subspace --model gpt2 --text test.txt --fit-text fit.txt --tokens 64 -o mine",
    ),
)
@click.option("--site", type=click.Choice(SITES), default="mlp_pre", show_default=True, help="Where.")
@click.option("--layers", metavar="LIST", help="Such as 3,4,5 or 2-5; default: all.")
@click.option("--rank", default=1, help="Leading components removed together.", **_ATLEAST_1)
@click.option("--component", type=click.IntRange(1), help="One component instead, counted from 1.")
@click.option("--directions", type=click.Path(dir_okay=False), help=GIVEN)
@click.option("--text", type=click.Path(dir_okay=False), help=TEXT)
@click.option("--fit-text", type=click.Path(dir_okay=False), help=FIT)
@click.option("--passages", default=100, help="Passages tested.", **_ATLEAST_1)
@click.option("--fit-passages", default=200, help="Passages fitted.", **_ATLEAST_1)
@click.option("--tokens", type=click.IntRange(3), help="Cut longer texts to so many tokens.")
@click.option("--draws", default=8, help="Of each random control.", **_ATLEAST_1)
@click.option("--span", default=0.9, show_default=True, help="Variance held by the span of a control, a share.")
@click.option("--components", default=8, show_default=True, type=click.IntRange(0), help="Single components tested.")
@click.option("--look", type=int, help="Layer whose activations are drawn; default: the largest effect.")
@click.option("--shown", default=2, help="Texts shown token by token.", **_ATLEAST_1)
@click.option("--save", "saved", type=click.Path(dir_okay=False), help="Write the subspaces: .safetensors.")
@click.option("--seed", default=0, show_default=True, help="Of passages, halves and random directions.")
@click.option("--bos/--no-bos", default=None, help="Put BOS first, or no special token. Default: the tokenizer's.")
@model
@output
@engine
@speech
@click.pass_context
def subspace(
    ctx: click.Context,
    layers: str | None,
    saved: str | None,
    as_json: bool,
    path: str | None,
    force: bool,
    **given: Any,
) -> None:
    """What the next token loses when the variation along leading directions is taken out of one layer.

    Fitted on some texts, tested on others, against random subspaces, random directions of equal norm, single
    components, rejection, mean shift and mean. -o DIR writes result.zarr, result.json, report.html and command.txt.
    Exits with 1 if a check failed.
    """
    session: Session = ctx.obj
    if saved:
        check_free(Path(saved), force)
    chosen = None if layers is None else tuple(ranges(layers, "layers"))
    asked = ("model", "revision", "device", "dtype", "attn")
    loading = {key: given.pop(key) for key in asked}

    def make() -> Study:
        opened = open_model(session, loading.pop("model"), **loading)
        from ..geometry.subspaces import save_subspaces
        from ..studies.subspace.run import study_of
        from ..studies.subspace.settings import Settings

        session.say("Fitting and removing subspaces ...")
        done, spaces = study_of(opened, Settings(layers=chosen, **given))
        if saved:
            save_subspaces(saved, spaces, force)
            session.note(f"wrote {saved}")
        return done

    one_study(ctx, as_json, path, force, make)
