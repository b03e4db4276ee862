"""Nothing public disappears or changes its call between versions; see `public_api.py` and docs/versions.md."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

import cutaway
import public_api as api

PROMISED: api.Facts = json.loads(api.FILE.read_text())["facts"]


def check(facts: api.Facts, promised: api.Facts) -> None:
    lines = api.broken(promised, facts)
    assert not lines, "\n".join(["What was promised is not kept:", *lines, api.HELP])


def of(*kinds: str) -> api.Facts:
    return {k: f for k, f in PROMISED.items() if f["kind"] in kinds and not k.startswith("study ")}


def test_python_names_and_signatures_are_kept() -> None:
    check(api.of_python(), {k: f for k, f in PROMISED.items() if re.match(r"cutaway\.", k)})


def test_words_that_people_write_are_kept() -> None:
    facts = api.vocabulary()
    check(facts, {k: f for k, f in PROMISED.items() if k in facts or f["kind"] in ("site", "metric", "task", "study")})


def test_commands_and_options_are_kept() -> None:
    check(api.of_commands(), of("command", "argument", "option"))


def test_what_results_hold_is_kept() -> None:
    facts = api.of_results()
    check(facts, of("variable", "coordinate", "attributes"))
    assert len({k.partition("[")[0].partition(".attrs")[0] for k in facts}) == len(api.results())


def test_the_documentation_uses_only_names_that_are_kept() -> None:
    pages = [api.ROOT / "README.md", *(api.ROOT / "docs").glob("*.md")]
    used = {name for page in pages for name in re.findall(r"\bcutaway\.([a-zA-Z_][\w.]*\w)\(", page.read_text())}
    known = {k.removeprefix("cutaway.") for k in PROMISED}
    views = {"show", "plot", "build"}  # of a result (`result.cutaway.plot()`), and of the pages' script
    assert len(used) >= 20 and used - views <= known, used - views - known


def test_the_version_is_one() -> None:
    project = tomllib.loads((api.ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == cutaway.__version__
    assert f"version: {cutaway.__version__}" in (api.ROOT / "CITATION.cff").read_text()
    assert f"## [{cutaway.__version__}]" in (api.ROOT / "CHANGELOG.md").read_text()


# -- that it can fail -------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[api.Facts], None]:
    return lambda facts: facts.pop(name) and None


def changed(name: str, **more: Any) -> Callable[[api.Facts], None]:
    return lambda facts: facts[name].update(more)


def parameters(change: Callable[[list], None]) -> Callable[[api.Facts], None]:
    return lambda facts: change(facts["cutaway.patch"]["parameters"])


BREAKS = [
    (without("cutaway.sweep"), "cutaway.sweep: gone (function)"),
    (without("cutaway.Model.W_O"), "cutaway.Model.W_O: gone (attribute)"),
    (without("cutaway study ioi --families"), "cutaway study ioi --families: gone (option)"),
    (without("cutaway resume"), "cutaway resume: gone (command)"),
    (without("lens['kl']"), "lens['kl']: gone (variable)"),
    (changed("lens.attrs", choices=["model"]), "lens.attrs: choices gone: attention, bos"),
    (without("site z"), "site z: gone (site)"),
    (changed("lens['kl']", dims=["layer", "prompt", "position"]), "lens['kl']: dims was"),
    (changed("cutaway patch --families", default="17"), "default was 16, is 17"),
    (changed("cutaway patch --site", choices=["z"]), "choices gone: resid_pre"),
    (changed("cutaway patch --task", required=True), "required was False, is True"),
    (parameters(lambda p: p.pop(1)), "parameter source is gone"),
    (parameters(lambda p: p.reverse()), "parameters came in the order site, source"),
    (parameters(lambda p: p.append(["more", "keyword-only", "required"])), "parameter more is new and required"),
    (parameters(lambda p: p[2].__setitem__(2, "3")), "the default of layers was None, is 3"),
    (parameters(lambda p: p[1].__setitem__(1, "keyword-only")), "parameter source was positional or keyword"),
    (lambda f: f.update({"cutaway patch --new": f["cutaway patch --site"] | {"required": True}}), "new and required"),
]


@pytest.mark.parametrize(("change", "says"), BREAKS, ids=range(len(BREAKS)))
def test_what_breaks_a_promise_is_named(change: Callable, says: str) -> None:
    facts = copy.deepcopy(PROMISED)
    change(facts)
    (line,) = api.broken(PROMISED, facts)
    assert says in line
    with pytest.raises(AssertionError, match=r"(?s)is not kept.*raise the minor version.*CHANGELOG"):
        check(facts, PROMISED)


def test_adding_breaks_nothing() -> None:
    facts = copy.deepcopy(PROMISED)
    facts["cutaway.brand_new"] = {"kind": "function", "parameters": []}
    facts["cutaway.patch"]["parameters"].append(["more", "keyword-only", "None"])
    facts["cutaway patch --site"]["choices"].append("new")
    assert api.broken(PROMISED, facts) == []


def test_a_real_name_that_goes_away_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutaway, "__all__", [n for n in cutaway.__all__ if n != "denoise"])
    monkeypatch.setattr(cutaway, "noise", lambda model, clean, corrupt: None)
    monkeypatch.setattr(api, "objects", dict)
    monkeypatch.setattr(api, "ELSEWHERE", {})
    promised = {k: f for k, f in PROMISED.items() if k in ("cutaway.denoise", "cutaway.noise", "cutaway.sweep")}
    gone, call = sorted(api.broken(promised, api.of_python()))
    assert gone == "cutaway.denoise: gone (function)" and call == "cutaway.noise: parameter site is gone"


LOG = "## [0.2.0] - unreleased\n## [0.1.0] - 2026-01-01\n## [1.0.0] - 2027-01-01\n## [1.1.0] - 2027-01-01\n"
LOG += "## [2.0.0] - 2028-01-01\n"


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        ("0.1.0", "0.2.0", ""),
        ("0.2.0", "0.2.0", ""),  # not released yet
        ("0.1.0", "0.1.0", "0.1.0 is released"),
        ("0.1.0", "0.1.1", "no heading for 0.1.1"),
        ("1.0.0", "1.1.0", "raise the major version"),
        ("1.1.0", "2.0.0", ""),
        ("0.2.0", "1.0.0", ""),
    ],
)
def test_when_a_promise_may_be_broken(then: str, now: str, why: str) -> None:
    found = api.allowed(then, now, LOG)
    assert why in found and bool(why) == bool(found)


def test_the_file_is_not_written_over_a_broken_promise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a released version: a name that is promised and gone stops `make api`."""
    (tmp_path / "CHANGELOG.md").write_text(f"## [{cutaway.__version__}] - 2026-01-01\n")
    file = tmp_path / "api.json"
    file.write_text(json.dumps({"version": cutaway.__version__, "facts": {"cutaway.old": {"kind": "value"}}}))
    before = file.read_text()
    for name, value in {"ROOT": tmp_path, "FILE": file, "studies": dict, "of_results": dict, "objects": dict}.items():
        monkeypatch.setattr(api, name, value)
    assert api.main() == 1 and file.read_text() == before
    said = capsys.readouterr()
    assert "cutaway.old: gone (value)" in said.out and "is released" in said.err
    (tmp_path / "CHANGELOG.md").write_text(f"## [{cutaway.__version__}] - unreleased\n")
    assert api.main() == 0 and "cutaway.sweep" in json.loads(file.read_text())["facts"]
