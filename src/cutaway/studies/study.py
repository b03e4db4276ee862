"""What every study ends as: arrays, checks, findings in sentences, and what it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..saving import document, open_result, plain


@dataclass(frozen=True)
class Check:
    """Something that must hold for the numbers to mean what they say; `error` is relative."""

    name: str
    statement: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


@dataclass
class Study:
    """One study, done. `title` is its main finding in one line."""

    kind: str
    title: str
    settings: dict[str, Any]
    run_card: dict[str, Any]
    arrays: dict[str, Any]  # name -> xarray Dataset or DataArray
    checks: list[Check]
    findings: list[str]
    caveats: list[str]
    texts: dict[str, str] = field(default_factory=dict)  # written-out results, such as the annotated sum
    refused: dict[str, str] = field(default_factory=dict)  # what this model does not permit, and why
    command: str = ""  # the command line that made it
    outline: list[tuple[str, int]] = field(default_factory=list)  # findings under sub-headings: heading, how many

    @property
    def ok(self) -> bool:
        return all(check.passed for check in self.checks)

    def document(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return document(
            f"study {self.kind}",
            title=self.title,
            ok=self.ok,
            findings=self.findings,
            outline=self.outline,
            caveats=self.caveats,
            checks=[{**vars(check), "passed": check.passed} for check in self.checks],
            refused=self.refused,
            settings=self.settings,
            command=self.command,
            run_card=self.run_card,
            texts=self.texts,
            arrays=plain(self.arrays),
        )


def open_study(folder: str | Path) -> Study:
    """A study as it was saved, arrays included, so that its page can be made again without its model.

    Raises:
        BadInput: it is no result folder, or one that holds something other than a study.
    """
    arrays, facts = open_result(folder)
    what, _, kind = str(facts["kind"]).partition(" ")
    if what != "study" or not kind:
        raise BadInput(f"{folder} holds a result of {facts['kind']!r}, not a study.")
    checks = [
        Check(c["name"], c["statement"], float("nan") if c["error"] is None else c["error"], c["tolerance"])
        for c in facts["checks"]
    ]
    same = {name: facts[name] for name in ("title", "settings", "run_card", "findings", "caveats", "texts", "refused")}
    outline = [(str(heading), int(count)) for heading, count in facts.get("outline", [])]
    return Study(kind=kind, arrays=arrays, checks=checks, command=facts["command"], outline=outline, **same)


Groups = list[tuple[str, list[str]]]
"""Findings under sub-headings: the first sentence of each answers its question, the others are details."""


def grouped(groups: Groups) -> dict[str, Any]:
    """`findings` and `outline` of a study, without empty sentences and groups."""
    kept = [(heading, [one for one in sentences if one]) for heading, sentences in groups]
    kept = [(heading, sentences) for heading, sentences in kept if sentences]
    return {
        "findings": [one for _, sentences in kept for one in sentences],
        "outline": [(heading, len(sentences)) for heading, sentences in kept],
    }


def verdict(checks: list[Check]) -> str:
    """The checks in one sentence."""
    failed = [check.name for check in checks if not check.passed]
    if failed:
        return (
            f"{len(failed)} of {len(checks)} checks failed, so the numbers below must not be used: {', '.join(failed)}."
        )
    worst = max(checks, key=lambda check: check.error / check.tolerance)
    size = f"{worst.error:.1e} ({worst.name}), allowed {worst.tolerance:.0e}"
    return f"All {len(checks)} checks passed; the largest error is {size}."


def only(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were given."""
    return {key: value for key, value in settings.items() if value is not None}
