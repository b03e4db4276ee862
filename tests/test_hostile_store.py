"""Sweeps in progress that somebody damaged or made up: continued to the same bits, or refused with one message.

A few here; `CUTAWAY_FUZZ=300` tries so many.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import save
from safetensors.torch import save as save_torch

import cutaway
import faults
from cutaway.resume.shards import Store

MANY = int(os.environ.get("CUTAWAY_FUZZ", "25")) // 3


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with faults.small_shards():
        yield


@pytest.fixture(scope="module")
def plain() -> xr.Dataset:
    with faults.small_shards():
        return faults.work()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("kept") / "store"
    with faults.small_shards():
        faults.work(store)
    return store


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "store"))


def continued(store: Path, plain: xr.Dataset) -> str:
    """What was refused, if it was; otherwise the bits are those of a sweep left alone. Nothing else appears."""
    beside = sorted(p for p in store.parent.rglob("*") if store not in p.parents)
    try:
        found = faults.work(store)
    except cutaway.BadInput as error:
        said = str(error)
        assert "\n" not in said and "\x1b" not in said and len(said) < 4000 and str(store) in said
        return said
    finally:
        assert sorted(p for p in store.parent.rglob("*") if store not in p.parents) == beside
    assert faults.same_bits(found, plain)
    return ""


@pytest.mark.parametrize("seed", range(max(1, MANY)))
def test_anything_done_to_its_files(store: Path, plain: xr.Dataset, seed: int) -> None:
    chance = random.Random(seed)
    files = sorted(p for p in store.iterdir() if p.is_file())
    for _ in range(chance.randint(1, 5)):
        one, other = chance.choice(files), chance.choice(files)
        data = bytearray(one.read_bytes()) if one.exists() else bytearray()
        kind = chance.choice(["flip", "cut", "swap", "gone", "nonsense", "long", "more", "link"])
        if kind == "flip" and data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[chance.randrange(len(data) + 1) :]
        elif kind == "swap" and other.exists():
            data = bytearray(other.read_bytes())
        elif kind == "nonsense":
            data = bytearray(chance.randbytes(200))
        elif kind == "long":
            data += chance.randbytes(200_000)
        elif kind == "more":
            (store / f"{chance.randrange(10**9)}.shard").write_bytes(chance.randbytes(99))
        one.unlink(missing_ok=True)
        if kind == "link":
            one.symlink_to(other.name if other != one else "/dev/zero")
        elif kind != "gone":
            one.write_bytes(data)
    continued(store, plain)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m | {"budgets": [10**9]}, "no budgets of this sweep"),
        (lambda m: m | {"budgets": [40, 10**9]}, "no budgets of this sweep"),
        (lambda m: m | {"budgets": [40.0]}, "no budgets of this sweep"),
        (lambda m: m | {"budgets": [True]}, "no budgets of this sweep"),
        (lambda m: m | {"facts": []}, "no manifest of a sweep"),
        (lambda m: m | {"facts": m["facts"] | {"\x1b[31m": "\n" * 10**6}}, r"⟨U\+001B⟩\[31m"),
        (lambda m: m | {"facts": {f"key {i}": i for i in range(10**5)}}, "and 1000.. more"),
        (lambda m: m | {"facts": m["facts"] | {"prompts": {"deep": [1, [2, [3]]]}}}, r"prompts \("),
        (lambda m: m | {"schema_version": 10**400}, "no manifest of a sweep"),
    ],
)
def test_manifests_that_no_sweep_wrote(store: Path, plain: xr.Dataset, change: Callable, says: str) -> None:
    import re

    whole = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(change(whole)))
    assert re.search(says, continued(store, plain))


@pytest.mark.parametrize("depth", [10, 100_000])
def test_a_deep_manifest(store: Path, plain: xr.Dataset, depth: int) -> None:
    (store / "manifest.json").write_text('{"facts": ' + "[" * depth + "]" * depth + "}")
    assert "manifest.json" in continued(store, plain)


@pytest.mark.parametrize(
    "forge",
    [
        lambda arrays: save({k: v.astype(np.float32) for k, v in arrays.items()}),
        lambda arrays: save_torch({k: torch.from_numpy(v).bfloat16() for k, v in arrays.items()}),
        lambda arrays: save({k: v[:1] for k, v in arrays.items()}),
        lambda arrays: save({k: v.astype(np.int64) for k, v in arrays.items()}),
        lambda arrays: save({**arrays, "more": np.zeros(1)}),
        lambda arrays: save(dict(list(arrays.items())[1:])),
        lambda arrays: b"",
        lambda arrays: (2**62).to_bytes(8, "little") + b"{}",
        lambda arrays: (100).to_bytes(8, "little") + b'{"a":{"dtype":"F64","shape":[9999999999],"data_offsets":[0,8]}}',
    ],
)  # fmt: skip
def test_shards_whose_checksum_was_made_to_fit(
    store: Path, plain: xr.Dataset, forge: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever knows a sweep can sign anything for it: what is no such shard is run again."""
    whole, path = json.loads((store / "manifest.json").read_text()), faults.shards(store)[3]
    from safetensors.numpy import load

    data = forge(load(path.read_bytes()[:-32]))
    path.write_bytes(data + Store(store, whole["facts"], whole["budgets"])._digest(path, data))
    assert continued(store, plain) == ""
    assert path.name in capsys.readouterr().err
