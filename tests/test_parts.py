"""Parts of a study that are no sweeps: made once, kept as numbers and text, noticed when damaged."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import cutaway
import faults
from cutaway.cli import run
from cutaway.parts import at_once
from cutaway.resume import parts
from cutaway.resume.keeping import keep_sweeps
from cutaway.resume.packed import pack, unpack
from cutaway.saving import open_result


def labelled() -> xr.Dataset:
    values = np.array([[1.5, np.nan, -np.inf], [0.1 + 0.2, -0.0, 5e-324]])
    return xr.Dataset(
        {
            "value": (("prompt", "layer"), values, {"units": "logits", "level": np.float64(0.95)}),
            "turned": (("layer", "prompt", "part"), np.arange(24.0).reshape(4, 2, 3).transpose(2, 1, 0)),
            "half": ("layer", np.array([1, 2, 3], np.float16)),
            "holds": ("prompt", [True, False]),
            "token": ("prompt", np.array([" Mary\ud800", 'quo"te\n'], dtype=object)),
            "one": ((), np.int64(7)),
            "none": ("empty", np.zeros(0)),
        },
        {"prompt": [4, 2], "layer": ["L0", "L1", "L22"], "text": ("prompt", ["a", "bcd"])},
        {"time": "now", "families": 3, "warning": ""},
    )


@pytest.mark.parametrize("name", [None, "value", "layer"])
def test_labelled_arrays_come_back_as_they_were(name: str | None) -> None:
    one, array = labelled(), labelled()["value"].rename(name)
    two, again, rest = unpack(pack([one, array, {"a": torch.eye(2).double()[:, :1], "b": (None, 1, 0.1)}]))
    assert one.identical(two) and array.identical(again) and again.name == name
    for key, variable in one.variables.items():
        assert variable.dtype.kind == "O" or not variable.size or variable.values.strides == two[key].values.strides, (
            key
        )
        assert variable.dtype == two[key].dtype and variable.dims == two[key].dims, key
        assert variable.dtype.kind == "O" or variable.values.tobytes() == two[key].values.tobytes(), key
    assert list(one.variables) == list(two.variables) and two["value"].attrs == one["value"].attrs
    assert torch.equal(rest["a"], torch.eye(2).double()[:, :1]) and rest["b"] == [None, 1, 0.1]


def test_what_could_run_is_not_kept() -> None:
    with pytest.raises(TypeError, match="function cannot be kept"):
        pack({"a": lambda: 1})


def made(folder: Path, count: list[str], given: object = 1, model: cutaway.Model | None = None) -> xr.Dataset:
    """A part with a sweep and a part inside, after a sweep."""
    model = model or faults.wide_model()
    part = parts.Parts(model, faults.prompts()[0], given)

    def inner() -> dict[str, np.ndarray]:
        count.append("inner")
        return {"x": np.arange(3.0) / 7}

    def outer() -> xr.Dataset:
        found = faults.work(layers=1)
        count.append("outer")
        return found.assign(inner=("three", part("inner", inner)["x"]))

    with keep_sweeps(folder):
        first = faults.work(layers=0)
        return part("outer", outer).assign(first=first["base"])


def test_a_part_is_made_once_and_damage_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count: list[str] = []
    one = made(tmp_path / "a", count)
    assert count == ["outer", "inner"]
    assert one.identical(made(tmp_path / "a", count)) and len(count) == 2
    whole = tmp_path / "a" / "002" / parts.WHOLE
    data = whole.read_bytes()
    for damage in (lambda: faults.flip(whole, 801), lambda: faults.cut(whole, 0.7), whole.unlink):
        damage()
        assert one.drop_attrs().identical(made(tmp_path / "a", count).drop_attrs())
        assert count.pop() == "outer"  # what is inside was kept by itself
        assert (f"{whole} is damaged" in capsys.readouterr().err) == (damage != whole.unlink)
    assert len(count) == 2 and len(whole.read_bytes()) == len(data)


def test_another_part_is_refused_by_name(tmp_path: Path) -> None:
    made(tmp_path, [])
    with pytest.raises(cutaway.BadInput, match=r"another part of a study.*: made from .[0-9a-f]{16} then"):
        made(tmp_path, [], given=2)
    manifest = tmp_path / "002" / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["facts"]["fingerprint"] = "0" * 16
    manifest.write_text(json.dumps(facts))
    with pytest.raises(cutaway.BadInput, match=r"fingerprint .0{16} then"):
        made(tmp_path, [])


COUNTRIES = ("Poland", "France", "Italy", "Spain", "Greece", "Norway")
ASKED = [word for country in COUNTRIES for word in ("-p", f"The capital of {country} is")]
STUDY = ["study", "attribution", *ASKED, "--answer", " Warsaw", "--foil", " Berlin", "--quiet"]


def test_a_study_killed_outside_of_sweeps_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, killed in its fifth part, of one prompt each; it has no sweep at all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(at_once, "__defaults__", (8,))
    assert run([*STUDY, "-o", "whole"]) == 0
    packed: list[int] = []

    def counted(value: object, stop: int = 99) -> bytes:
        packed.append(1)
        if len(packed) == stop:
            time.sleep(60)
        return pack(value)

    with monkeypatch.context() as m:
        m.setattr(parts, "pack", lambda value: counted(value, 5))
        pid = faults.forked(lambda: run([*STUDY, "-o", "part"]))
    for _ in range(6000):
        time.sleep(0.005)
        if len(faults.shards(Path("part.partial"))) == 4:
            break
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]) and len(faults.shards(Path("part.partial"))) == 4
    monkeypatch.setattr(parts, "pack", counted)
    assert run(["resume", "part"]) == 0
    (one, _), (two, _) = open_result("whole"), open_result("part")
    assert len(packed) == len(COUNTRIES) + 1 - 4 and one.keys() == two.keys()
    for name, array in one.items():
        assert array.drop_attrs().identical(two[name].drop_attrs()), name
