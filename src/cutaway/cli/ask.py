"""`ask`: a question as the explorer's page asks it, answered on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput
from ..saving import document
from ..wording import shown_text
from .deliver import Output
from .group import Command
from .options import model, open_model, output, speech
from .session import Session

if TYPE_CHECKING:
    from rich.console import Console


@click.command(
    cls=Command,
    short_help="A question of the explorer, answered here.",
    examples=(
        """cutaway ask '{"kind": "edit", "text": "The capital of Poland is", "edit": "zero", "place": "L3H1.z"}'""",
        """cutaway ask '{"kind": "grid", "text": "He is", "other": "She is"}' --json""",
        """cutaway ask '{"kind": "lens", "text": "The capital of Peru is"}' -o lens.html""",
    ),
)
@click.argument("question", nargs=-1, required=True)
@model
@output
@speech
@click.pass_context
def ask(
    ctx: click.Context, question: tuple[str, ...], as_json: bool, path: str | None, force: bool, **given: Any
) -> None:
    """Answer each QUESTION, a JSON object as the explorer's "Copy command line" writes it.

    An edit is shown before | after, with the spread of its controls. -o FILE.html writes what the explorer shows.
    """
    from ..explorer.question import parse
    from ..explorer.refusal import Refusal

    session: Session = ctx.obj
    out = Output(session, as_json, path, force)
    out.check(".html")
    try:
        asked = [parse(_read(text)) for text in question]
    except Refusal as error:
        raise BadInput(" ".join(filter(None, error.parts.values()))) from None
    name = given.pop("model")
    with session.working():
        opened = open_model(session, name, **given)
        from ..explorer.asking import answered
        from ..explorer.subject import Subject
        from ..explorer.telling import Teller

        subject = Subject(opened, name, given)
        found = [answered(subject, one, Teller()) for one in asked]
    questions = [one.facts() for one in asked]

    def show(console: Console) -> None:
        from ..showing import as_text
        from ..views import Verbatim

        for one in found:
            console.print(shown_text(one.heading))
            for sentence in one.sentences:
                console.print(shown_text(sentence))
            for part in one.parts:
                console.print()
                console.print(part.text if isinstance(part, Verbatim) else as_text(part))

    def page() -> str:
        from ..explorer.answer import report

        return report(found, name, questions)

    answers = [{"heading": one.heading, "sentences": list(one.sentences), "facts": one.facts} for one in found]
    out.deliver(lambda: document("ask", questions=questions, answers=answers), show, {".html": page})


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"{text[:60]!r} is not JSON: {error}. See the examples in cutaway ask --help.") from None
