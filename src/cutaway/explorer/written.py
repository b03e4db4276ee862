"""The same question in Python and on the command line."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .question import Question
from .subject import Subject

if TYPE_CHECKING:
    from ..prompts import Token

ARGUMENTS = {"attn": "attn_implementation"}
"""Options of the command line whose argument of `cutaway.load` has another name."""
SHOW = "print(cutaway.show(found))  # in a notebook: cutaway.show(found)"


def python(subject: Subject, question: Question, targets: tuple[Token, Token] | tuple[()], *lines: str) -> str:
    """Python that asks the same; `base` are the prompts, `t` their run, `source` the other prompts."""
    how = "".join(f", {ARGUMENTS.get(name, name)}={value!r}" for name, value in subject.options.items())
    made = [f"import cutaway\n\nm = cutaway.load({subject.name!r}{how})\n"]
    given = f", answers=[{targets[0]!r}], foils=[{targets[1]!r}]" if targets else ""
    made.append(f"base = m.prompts([{question.text!r}]{given})")
    if question.other:
        made.append(f"source = m.prompts([{question.other!r}]{given})")
    if any("(t" in line for line in lines):
        made.append("t = m.trace(base)")
    return "\n".join([*made, *lines]) + "\n"


def shell(subject: Subject, question: Question, command: str, texts: Sequence[str], **tokens: Sequence[Token]) -> str:
    """A command about some prompts, `tokens` being its options that name tokens; or `cutaway ask` for texts that could
    not be pasted, or not be read as what they are."""
    if not all(map(_plain, texts)):
        return asking(subject, question)
    prompts = [word for text in texts for word in ("-p", text)]
    options = [word for name, some in tokens.items() for one in some for word in (f"--{name}", subject.typed(one))]
    return shlex.join(["cutaway", command, *_model(subject), *prompts, *options])


def asking(subject: Subject, question: Question) -> str:
    """`cutaway ask` with this question, in printable ASCII whatever the prompts are."""
    return shlex.join(["cutaway", "ask", *_model(subject), json.dumps(question.facts())])


def _plain(text: str) -> bool:
    """Whether a prompt stands for itself on a command line: `-` is standard input; terminals obey some characters."""
    return text.isprintable() and text != "-"


def _model(subject: Subject) -> list[str]:
    usual = subject.name == "pocket" and "CUTAWAY_MODEL" not in os.environ
    options = [word for name, value in subject.options.items() for word in (f"--{name}", value)]
    return [*([] if usual else ["--model", subject.name]), *options]
