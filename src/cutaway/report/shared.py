"""What every study's page has: findings and caveats first, checks and run card last; and the index page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from ..studies.study import Study
from ..wording import prose, several
from .page import Content, Group, Picture, Section, Table, Verbatim, render

NAMES = {"ioi": "Indirect object", "vector-arithmetic": "Vector arithmetic"}
"""What studies are called whose kind is no word."""


def study_page(study: Study) -> str:
    """The page of a study, by the module of this package that has its name."""
    return render(*study_parts(study))


def study_parts(study: Study) -> Content:
    """What it is rendered from: title, subtitle, sections, facts."""
    sections = study_sections(study)
    card = study.run_card
    subtitle = f"Study of {study.kind} · {card['model']} · {card['dtype']} · {several(int(card['prompts']), 'prompt')}"
    return prose(study.title, 240), subtitle, sections, study.document()


def study_sections(study: Study) -> list[Section]:
    """The sections of a study's page; every picture with the Python that makes it."""
    sections: list[Section] = import_module(f".{_module(study)}", __package__).sections(study)
    number = 0
    for section in sections:
        for i, part in enumerate(section.parts):
            if isinstance(part, Picture):
                if not part.code:
                    section.parts[i] = replace(part, code=_code(study, number, part.name))
                number += 1
    return sections


def _module(study: Study) -> str:
    return study.kind.replace("-", "_")


def _code(study: Study, number: int, name: str) -> str:
    """The study again, and of its figures this one."""
    given = ", ".join(f"{key}={_again(value)}" for key, value in study.settings.items())
    card = study.run_card
    lines = [
        "import cutaway",
        f"from cutaway.studies.{_module(study)} import Settings, run",
        f"m = cutaway.load({str(card['model'])!r}, dtype={str(card['dtype'])!r})",
        f"study = run(m, Settings({given}))",
        f"cutaway.show(study).figure({number})  # {prose(name, 80)}",
    ]
    return "\n".join(lines)


def _again(value: Any) -> str:
    """A setting as Python writes it: what JSON has as lists were tuples."""
    if isinstance(value, list | tuple):
        return f"({''.join(f'{_again(one)}, ' for one in value).rstrip(' ')})" if value else "()"
    return repr(value)


def opening(study: Study) -> list[Section]:
    """What was found, and what that does not say."""
    findings = Section("Findings", groups=_groups(study)) if study.outline else Section("Findings", study.findings)
    return [findings, Section("What this does not say", study.caveats)]


def _groups(study: Study) -> list[Group]:
    """Answers under their sub-headings; what has none, such as that all checks passed, after them."""
    made, rest = [], list(study.findings)
    for heading, count in study.outline:
        lead, *details = rest[:count]
        made.append(Group(heading, lead, details))
        del rest[:count]
    made += [Group("", sentence) for sentence in rest]
    return sorted(made, key=lambda group: study.ok and not group.heading)


def about(study: Study) -> list[Section]:
    """What was checked, what was refused, and how to make it again."""
    rows = [
        [c.name, "passed" if c.passed else "FAILED", f"{c.error:.1e}", f"{c.tolerance:.0e}", c.statement]
        for c in study.checks
    ]
    columns = ["check", "state", "error", "allowed", "statement"]
    made = [
        Section(
            "Checks", parts=[Table("Relative errors on these prompts.", columns, rows, ["check", "state", "statement"])]
        )
    ]
    if study.refused:
        made.append(Section("Not done for this model", [f"{what}: {why}" for what, why in study.refused.items()]))
    card = Table("Run card", ["what", "value"], [[k, _flat(v)] for k, v in study.run_card.items()], ["what", "value"])
    settings = Table(
        "Settings", ["what", "value"], [[k, _flat(v)] for k, v in study.settings.items()], ["what", "value"]
    )
    parts: list[Picture | Table | Verbatim] = [card, settings]
    if study.command:
        parts.append(Verbatim("The command that made this", study.command))
    return [*made, Section("How this was made", parts=parts, folded=True)]


def _flat(value: Any) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, list | tuple) else str(value)


def index_page(studies: Sequence[Study], questions: Mapping[str, str], seconds: float) -> str:
    """A page that leads to several studies' pages, each in a folder of its kind's name."""
    sections = [
        Section(
            f"{NAMES.get(study.kind, study.kind.capitalize())}: {questions[study.kind]}",
            [study.title, *study.findings[:1]],
            links=[("Report", f"{study.kind}/report.html"), ("Numbers (JSON)", f"{study.kind}/result.json")],
        )
        for study in studies
    ]
    models = ", ".join(dict.fromkeys(str(study.run_card["model"]) for study in studies))
    count = "1 study" if len(studies) == 1 else f"{len(studies)} studies"
    subtitle = f"{count} of {models}, {seconds:.0f} s"
    facts = {study.kind: {"title": study.title, "ok": study.ok, "command": study.command} for study in studies}
    return render("What Cutaway found in a model", subtitle, sections, facts)
