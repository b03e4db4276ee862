"""What docs/threat-model.md promises of files from strangers: nothing in them runs; and that the page is true."""

from __future__ import annotations

import ast
import json
import pickle
import re
from pathlib import Path

import numcodecs.pickles
import numpy as np
import pytest
import xarray as xr

import cutaway
from cutaway.saving import document, open_result, save_result
from families import build

ROOT = Path(__file__).parents[1]


class Booby:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


FILTERS = [[{"id": "vlen-utf8"}, {"id": "pickle"}], [{"id": "pickle"}]]


@pytest.mark.parametrize("filters", FILTERS, ids=["behind text", "alone"])
def test_a_result_with_a_pickle_in_it_is_not_unpickled(
    filters: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr 2 has a codec that unpickles; whether numcodecs lets it depends on its version."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    folder, mark = tmp_path / "result", tmp_path / "mark"
    save_result(folder, {"a": xr.DataArray(np.zeros(1), dims="x", name="v")}, document("study ioi"))
    group = folder / "result.zarr" / "a"
    for old in [*(group / "v").rglob("*"), *(folder / "result.zarr").rglob("zarr.json")]:
        if old.is_file():
            old.unlink()
    for place in (folder / "result.zarr", group):
        (place / ".zgroup").write_text('{"zarr_format": 2}')
    facts = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": ""}
    (group / "v" / ".zarray").write_text(json.dumps({**facts, "order": "C", "filters": filters}))
    (group / "v" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["x"]}')
    (group / "v" / "0").write_bytes(pickle.dumps(Booby(mark)))
    if len(filters) == 2:  # opened as Zarr 2 it does run: the file is what it is said to be
        with pytest.raises((ValueError, RuntimeError, TypeError)):
            xr.open_datatree(folder / "result.zarr", engine="zarr", consolidated=False)["a"]["v"].load()
        assert mark.exists()
        mark.unlink()
    with pytest.raises(Exception) as error:
        open_result(folder)
    assert not mark.exists() and error.value


@pytest.mark.parametrize("whose", ["model", "tokenizer"])
def test_code_that_comes_with_a_model_is_not_run(whose: str, tmp_path: Path) -> None:
    """Transformers would import it if it were told to trust it."""
    folder, mark = tmp_path / "model", tmp_path / "mark"
    build("gpt2").save_pretrained(folder)
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n")
    if whose == "model":
        config = json.loads((folder / "config.json").read_text())
        config |= {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(cutaway.BadInput):
            cutaway.load(folder)
    else:
        facts = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(facts))
        assert cutaway.load(folder).tokenizer is None
    assert not mark.exists()


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle", "yaml",
    "subprocess", "runpy", "torch.load", "np.load", "os.system", "os.popen", "os.exec", "requests",
    "allow_pickle", "ALLOW_UNSAFE_PICKLE_DECODE",
}  # fmt: skip
SHIPS_FUNCTIONS = {"workers"}  # to workers of its own, which Ray pickles


def used(path: Path) -> set[str]:
    """Names, attributes, modules and keywords in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found |= {node.attr, f"{ast.unparse(node.value)}.{node.attr}"} - {"compile", "eval"}  # re's and torch's
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {a.name.split(".")[0] for a in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
        elif isinstance(node, ast.keyword):
            found.add(str(node.arg))
            if node.arg == "trust_remote_code" and not (isinstance(node.value, ast.Constant) and not node.value.value):
                found.add("eval")
    return found


def test_no_code_of_the_package_can_run_data() -> None:
    files = [p for p in (ROOT / "src").rglob("*.py") if not SHIPS_FUNCTIONS & set(p.parts)]
    assert len(files) > 150
    assert {p.name: bad for p in files if (bad := used(p) & FORBIDDEN)} == {}


@pytest.mark.parametrize("line", ["eval('1')", "import pickle", "torch.load('x')", "f(x, allow_pickle=True)",
                                  "from subprocess import run", "load(x, trust_remote_code=True)"])  # fmt: skip
def test_such_code_would_be_noticed(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(line)
    assert used(tmp_path / "bad.py") & FORBIDDEN


def test_every_promise_names_code_and_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| P")]
    assert len(rows) >= 10
    tests = {
        (path.name, node.name)
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for promise, _, code, tested in rows:
        files = re.findall(r"`([^`]+)`", code)
        assert files and all((ROOT / "src" / "cutaway" / f).exists() or (ROOT / f).exists() for f in files), promise
        named = re.findall(r"`(test_\w+)::(test_\w+)`", tested)
        assert named and all((f"{file}.py", name) in tests for file, name in named), (promise, named)
