"""An answer: sentences, views, and the same in Python and on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..report.page import Section, render
from ..saving import document
from ..views import Picture, Table, Verbatim
from ..wording import prose, shown_text

Part = Picture | Table | Verbatim


@dataclass(frozen=True)
class Answer:
    """What is shown. `python` and `shell` make it again; either is empty where there is no such way."""

    heading: str
    sentences: Sequence[str] = ()
    parts: Sequence[Part] = ()
    python: str = ""
    shell: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def section(self) -> Section:
        """As a section of a page."""
        ways = [Verbatim(name, text) for name, text in (("Python", self.python), ("Command line", self.shell)) if text]
        return Section(self.heading, list(self.sentences), [*self.parts, *ways])

    def document(self) -> dict[str, Any]:
        """As JSON: views are element trees."""
        return {
            "sections": [section_tree(Section(self.heading, list(self.sentences), list(self.parts)))],
            "python": self.python,
            "shell": self.shell,
            "facts": self.facts,
        }


def section_tree(section: Section) -> dict[str, Any]:
    """A section of a page as JSON."""
    return {
        "heading": shown_text(section.heading),
        "sentences": [shown_text(text) for text in section.paragraphs],
        "groups": [
            {"heading": shown_text(g.heading), "lead": shown_text(g.lead), "details": [*map(shown_text, g.details)]}
            for g in section.groups
        ],
        "folded": section.folded,
        "parts": [part.tree() for part in section.elements()],
    }


def report(answers: Sequence[Answer], model: str, questions: Sequence[dict[str, Any]]) -> str:
    """Answers as one page that asks the network nothing."""
    text = prose(str(questions[0].get("text", "")), 120)
    facts = document("explorer", model=model, questions=list(questions), answers=[one.facts for one in answers])
    return render(f"“{text}”", f"Explored in {model}", [one.section() for one in answers], facts)
