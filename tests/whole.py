"""What every study's page must give: for each picture its caption, words, numbers, and the Python that makes it."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module

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
