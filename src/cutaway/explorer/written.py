"""The same question in Python and on the command line."""

from __future__ import annotations

import json
import shlex

from .question import Question
from .subject import Subject

LOAD = "import cutaway\n\nm = cutaway.load({model!r})\n"


def python(subject: Subject, question: Question, answer: str, foil: str, *lines: str) -> str:
    """Python that asks the same; `base` are the prompts, `t` their run, `source` the other prompts."""
    made = [LOAD.format(model=subject.name)]
    given = f", answers=[{answer!r}], foils=[{foil!r}]" if answer else ""
    made.append(f"base = m.prompts([{question.text!r}]{given})")
    if question.other:
        made.append(f"source = m.prompts([{question.other!r}]{given})")
    if any("(t" in line for line in lines):
        made.append("t = m.trace(base)")
    return "\n".join([*made, *lines]) + "\n"


def shell(subject: Subject, command: str, text: str, *options: str) -> str:
    """A command about one prompt."""
    model = [] if subject.name == "pocket" else ["--model", subject.name]
    return shlex.join(["cutaway", command, *model, "-p", text, *options])


def asking(subject: Subject, question: Question) -> str:
    """`cutaway ask` with this question."""
    model = [] if subject.name == "pocket" else ["--model", subject.name]
    return shlex.join(["cutaway", "ask", *model, json.dumps(question.facts())])
