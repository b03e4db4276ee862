"""What every study's page must give: for each picture its caption, words, numbers, and the Python that makes it."""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib import import_module
from typing import Any

import pytest

import cutaway
from cutaway.report.shared import study_sections
from cutaway.studies.study import Study
from cutaway.views import Picture


def pictures(study: Study) -> list[Picture]:
    return [part for section in study_sections(study) for part in section.parts if isinstance(part, Picture)]


def is_whole(study: Study) -> None:
    """Every picture of a study's page is complete without its colours, and can be made again by itself."""
    there = pictures(study)
    assert there
    shown = cutaway.show(study)
    for number, one in enumerate(there):
        assert one.caption or one.kind == "lens", one.name
        assert one.words, one.name
        numbers = one.numbers()
        table = any(inner.tag == "table" for inner in one.svg.walk())
        assert table or (numbers is not None and numbers.rows), f"{one.name} has no numbers"
        compile(one.code, one.name, "exec")
        if "Settings(" in one.code:
            line = next(line for line in one.code.split("\n") if line.startswith("study = run"))
            module = import_module(f"cutaway.studies.{study.kind.replace('-', '_')}")
            asked = asdict(eval(line.removeprefix("study = run(m, ")[:-1], {"Settings": module.Settings}))
            assert {key: asked[key] for key in study.settings} == study.settings
            assert f".figure({number})" in one.code
    assert [str(one.svg) for one in shown.figures()] == [str(one.svg) for one in there]
    assert str(there[-1].svg) in shown.figure(len(there) - 1).html()


def remade(code: str) -> Picture:
    """The first figure of what a snippet shows: it is run as a reader would run it."""
    *lines, last = code.split("\n")
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return eval(last.partition("  #")[0], names).figures()[0]  # type: ignore[no-any-return]


def facts(node: Any) -> list[tuple[str, str | float]]:
    """Every place and number of a figure, in order."""
    found = [
        (k, v) for one in node.walk() for k, v in one.attributes.items() if k.startswith("data-") and k != "data-at"
    ]
    return [(k, float(v) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", v) else v) for k, v in found]


def agree(code: str, figure: Picture) -> None:
    """A figure that a snippet makes has the places and numbers of the one beside which it stands."""
    again = remade(code)
    mine, other = facts(again.svg), facts(figure.svg)
    assert len(mine) == len(other) > 5 and again.kind == figure.kind
    for (name, a), (same, b) in zip(mine, other, strict=True):
        assert name == same and (a == b or a == pytest.approx(b, rel=1e-3, abs=1e-4)), (name, a, b)
