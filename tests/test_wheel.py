"""The wheel: all that the package needs and nothing else, the same bytes every time it is built."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cutaway

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
NEEDED = [
    "py.typed", "pocket/model.safetensors", "pocket/tokenizer.json", "pocket/config.json", "pocket/CARD.md",
    "pocket/evaluation.json", "views/views.js", "views/views.css", "views/picture.css", "report/page.html",
    "report/page.css", "explorer/page.html", "explorer/explorer.js", "explorer/ask.js", "explorer/place.js",
    "explorer/explorer.css",
]  # fmt: skip


def built(folder: Path) -> Path:
    """A wheel made from a copy of the sources in a folder of its own, as the README says nothing else is needed."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "src", source / "src", ignore=NOT_SOURCE)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=source, env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("setuptools", minversion="77")
    return [built(tmp_path_factory.mktemp("wheel") / name) for name in ("one", "two")]


def test_two_builds_are_the_same_bytes(wheels: list[Path]) -> None:
    one, two = wheels
    assert one.name == two.name == f"cutaway-{cutaway.__version__}-py3-none-any.whl"
    assert one.read_bytes() == two.read_bytes()


def test_it_holds_the_package_whole_and_nothing_else(wheels: list[Path]) -> None:
    package = ROOT / "src" / "cutaway"
    own = {
        p.relative_to(package.parent).as_posix()
        for p in package.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    with zipfile.ZipFile(wheels[0]) as wheel:
        held = set(wheel.namelist())
    assert {f"cutaway/{name}" for name in NEEDED} <= held
    about = {name for name in held if ".dist-info/" in name}
    assert held - about == own
    assert {name.rpartition("/")[2] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "LICENSE", "entry_points.txt", "top_level.txt",
    }  # fmt: skip


def test_nothing_in_it_tells_where_it_was_made(wheels: list[Path]) -> None:
    places = [str(ROOT).encode(), str(wheels[0].parent).encode(), str(Path.home()).encode() + b"/"]
    found = re.compile(b"|".join(map(re.escape, places)) + rb"|/home/\\w+/")
    with zipfile.ZipFile(wheels[0]) as wheel:
        assert [name for name in wheel.namelist() if found.search(wheel.read(name))] == []


def test_it_asks_for_what_the_project_declares(wheels: list[Path]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheels[0]) as wheel:
        about = email.message_from_bytes(wheel.read(f"cutaway-{cutaway.__version__}.dist-info/METADATA"))
    asked = [r for r in about.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert sorted(asked) == sorted(project["dependencies"]) and about["License-Expression"] == "MIT"
