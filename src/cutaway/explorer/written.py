"""The same question in Python and on the command line."""

from __future__ import annotations

import json
import shlex

from .question import Question
from .subject import Subject

ARGUMENTS = {"attn": "attn_implementation"}
"""Options of the command line whose argument of `cutaway.load` has another name."""
SHOW = "print(cutaway.show(found))  # in a notebook: cutaway.show(found)"


def python(subject: Subject, question: Question, answer: str, foil: str, *lines: str) -> str:
    """Python that asks the same; `base` are the prompts, `t` their run, `source` the other prompts."""
    how = "".join(f", {ARGUMENTS.get(name, name)}={value!r}" for name, value in subject.options.items())
    made = [f"import cutaway\n\nm = cutaway.load({subject.name!r}{how})\n"]
    given = f", answers=[{answer!r}], foils=[{foil!r}]" if answer else ""
    made.append(f"base = m.prompts([{question.text!r}]{given})")
    if question.other:
        made.append(f"source = m.prompts([{question.other!r}]{given})")
    if any("(t" in line for line in lines):
        made.append("t = m.trace(base)")
    return "\n".join([*made, *lines]) + "\n"


def shell(subject: Subject, command: str, text: str, *options: str) -> str:
    """A command about one prompt."""
    return shlex.join(["cutaway", command, *_model(subject), "-p", text, *options])


def asking(subject: Subject, question: Question) -> str:
    """`cutaway ask` with this question."""
    return shlex.join(["cutaway", "ask", *_model(subject), json.dumps(question.facts())])


def _model(subject: Subject) -> list[str]:
    model = [] if subject.name == "pocket" else ["--model", subject.name]
    return [*model, *(word for name, value in subject.options.items() for word in (f"--{name}", value))]
