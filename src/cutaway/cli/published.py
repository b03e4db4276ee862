"""`replicate`: published figures against this implementation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput, did_you_mean
from ..saving import document
from ..wording import number
from .deliver import Output
from .group import Command
from .options import loading, open_model, output, speech
from .session import Session
from .tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from ..replication import Publication


_PROMPTS = "The publication's prompts, where they are not ours to ship."


@click.command(
    cls=Command,
    short_help="Published figures: pass or fail.",
    examples=(
        "cutaway replicate",
        "cutaway replicate symbolic-attribution --json",
        "cutaway replicate symbolic-attribution --model ./pythia-70m-deduped",
        "cutaway replicate exploratory-ioi --prompts prompts.jsonl",
    ),
)
@click.argument("which", nargs=-1)
@click.option("-m", "--model", "folder", help="A copy of the publication's model; default: from the hub.")
@click.option("--prompts", "prompts_file", type=click.Path(path_type=Path, dir_okay=False), help=_PROMPTS)
@loading
@output
@speech
@click.pass_context
def replicate(
    ctx: click.Context,
    which: tuple[str, ...],
    folder: str | None,
    prompts_file: Path | None,
    as_json: bool,
    path: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Measure published figures again (all publications, or WHICH) and say pass or fail for each.

    A publication whose prompts are not ours to ship needs them as a file (--prompts); without it, it is left out,
    which is said. Exits with 0 if all pass, 1 if one fails, 2 if nothing could be compared, as when the hub cannot be
    reached.
    """
    from ..replication import PUBLICATIONS, compare

    session: Session = ctx.obj
    out = Output(session, as_json, path, force)
    out.check()
    for key in which:
        if key not in PUBLICATIONS:
            raise BadInput(f"There is no publication {key!r}. {did_you_mean(key, list(PUBLICATIONS))}")
    chosen = [PUBLICATIONS[key] for key in which or PUBLICATIONS]
    without = [p for p in chosen if p.prompts and prompts_file is None]
    for publication in without:
        if which:
            raise BadInput(f"Nothing was compared. {_needs(publication)}")
    chosen = [p for p in chosen if p not in without]
    if prompts_file is not None and not any(p.prompts for p in chosen):
        raise BadInput("None of these publications takes --prompts. Leave it out.")
    if folder and len({p.model for p in chosen}) > 1:
        raise BadInput("--model goes with publications about one model. Name them.")
    done = []
    with session.working():
        for name in dict.fromkeys(p.model for p in chosen):
            try:
                model = open_model(session, folder or name, **options)
            except BadInput as error:
                raise BadInput(f"Nothing was compared. {error}") from None
            for publication in (p for p in chosen if p.model == name):
                session.say(f"Measuring {publication.key} ...")
                given = (model, prompts_file) if publication.prompts else (model,)
                done.append((publication, compare(publication.figures, publication.measure(*given))))
    for publication in without:
        session.note(f"left out: {_needs(publication)}")

    def facts() -> dict[str, Any]:
        return document(
            "replicate",
            ok=all(o.passed for _, outcomes in done for o in outcomes),
            publications=[
                {
                    "key": p.key,
                    "source": p.source,
                    "model": p.model,
                    "conventions": p.conventions,
                    "figures": [{**vars(o.figure), "measured": o.measured, "passed": o.passed} for o in outcomes],
                }
                for p, outcomes in done
            ],
            left_out=[{"key": p.key, "needs": p.prompts} for p in without],
        )

    def show(console: Console) -> None:
        for publication, outcomes in done:
            rows = [
                (
                    o.figure.name,
                    number(o.figure.value, 6),
                    number(o.measured, 6),
                    f"{o.figure.tolerance:g}",
                    "pass" if o.passed else "FAIL",
                )
                for o in outcomes
            ]
            columns = ["figure", "published", "measured", "allowed", "verdict"]
            table(console, f"{publication.source}, {publication.model}", columns, rows, left=["figure", "verdict"])
            passed = sum(o.passed for o in outcomes)
            console.print(f"\n{passed} of {len(outcomes)} figures replicated.")
            if publication.conventions:
                console.print(f"By the source's conventions: {publication.conventions}.")

    out.deliver(facts, show)
    ctx.exit(0 if all(o.passed for _, outcomes in done for o in outcomes) else 1)


def _needs(publication: Publication) -> str:
    return f"{publication.key} needs --prompts FILE: {publication.prompts}."
