"""Files and requests that mean harm: one message each, nothing written elsewhere, no code run from data.

The number of examples is small here; `CUTAWAY_FUZZ=1000` runs so many of each.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from starlette.testclient import TestClient

import cutaway
from conftest import pair_file
from cutaway import cli
from cutaway.errors import CutawayError
from cutaway.explorer import app
from cutaway.explorer.shelf import Shelf
from cutaway.explorer.worker import Worker
from cutaway.geometry.subspaces import load_subspaces
from cutaway.report.saved import page_of
from cutaway.tasks.pairs import read_pairs
from cutaway.tasks.sentences import read_frequencies, read_sentences
from cutaway.tasks.texts import read_texts

MANY = int(os.environ.get("CUTAWAY_FUZZ", "25"))
fuzz = settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "marshal.loads")
watched: list[list[str]] = []


@sys.addaudithook
def _audit(event: str, args: tuple) -> None:
    if watched and event in FORBIDDEN:
        watched[-1].append(event)


@contextmanager
def harmless(folder: Path) -> Iterator[None]:
    """Nothing is run from data, and nothing appears in the folder's tree."""
    before = sorted(folder.rglob("*"))
    watched.append([])
    try:
        yield
    finally:
        events = watched.pop()
    assert events == [] and sorted(folder.rglob("*")) == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    args = ["patch", "--pairs", str(pair_file(folder)), "--site", "z", "-q", "-o", str(folder / "sweep")]
    assert cli.run(args) == 0
    return folder / "sweep"


def message(read: Callable[[], object]) -> str:
    """What was refused, and nothing where it was not."""
    try:
        read()
    except CutawayError as error:
        return str(error)
    return ""


def opened(folder: Path) -> None:
    """Read as a result: it is one, or there is one message."""
    for read in (cutaway.open_result, page_of):
        said = message(lambda read=read: read(folder))
        assert "\n" not in said and len(said) < 1000


# -- result folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(max(1, MANY // 2)))
def test_damaged_results(saved: Path, tmp_path: Path, seed: int) -> None:
    """Bits flipped, cut short, swapped, taken away, written over."""
    folder = tmp_path / "sweep"
    shutil.copytree(saved, folder)
    chance = random.Random(seed)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".html")
    for _ in range(chance.randint(1, 4)):
        one, other = chance.choice(files), chance.choice(files)
        data = bytearray(one.read_bytes())
        kind = chance.choice(["flip", "cut", "swap", "gone", "nonsense"])
        if kind == "flip" and data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[chance.randrange(len(data) + 1) :]
        elif kind == "swap":
            data = bytearray(other.read_bytes())
        elif kind == "nonsense":
            data = bytearray(chance.randbytes(50))
        one.write_bytes(data)
        if kind == "gone":
            one.write_bytes(b"")
    with harmless(tmp_path):
        opened(folder)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_no_codec_unpickles(saved: Path, tmp_path: Path) -> None:
    """Zarr 2 reads arrays through any numcodecs codec, and one of them is pickle."""
    folder, sign = tmp_path / "sweep", tmp_path / "run"
    array = folder / "result.zarr" / "sweep" / "value"
    array.mkdir(parents=True)
    shutil.copy(saved / "result.json", folder)
    for group in (folder / "result.zarr", array.parent):
        (group / ".zgroup").write_text('{"zarr_format": 2}')
    about = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "<f8", "compressor": {"id": "pickle", "protocol": 5},
        "fill_value": None, "order": "C", "filters": None,
    }  # fmt: skip
    (array / ".zarray").write_text(json.dumps(about))
    (array / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["prompt"]}')
    (array / "0").write_bytes(pickle.dumps(Evil(sign)))
    with harmless(tmp_path), pytest.raises(cutaway.BadInput, match="not written in this format"):
        cutaway.open_result(folder)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("shape", [2**39], "declares more than 8 GiB"),
        ("shape", [-1], "its shape is none"),
        ("codecs", [{"name": "numcodecs.pickle"}], "its codecs are none"),
        (
            "data_type",
            {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**40}},
            "its data type is none",
        ),
        ("storage_transformers", [{"name": "x"}], "its codecs are none"),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [2**38]}}, "its chunks do not fit"),
        ("zarr_format", 2, "not written in this format"),
    ],
)
def test_arrays_that_say_what_no_result_says(saved: Path, tmp_path: Path, key: str, value: Any, why: str) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(saved, folder)
    path = folder / "result.zarr" / "sweep" / "base" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with harmless(tmp_path), pytest.raises(cutaway.BadInput, match=why):
        cutaway.open_result(folder)


def rle(size: int, state: bool = True) -> bytes:
    """A Zstandard frame of so many bytes of "a" in blocks of one byte each (RFC 8878, 3.1.1), by hand."""
    head = b"\x28\xb5\x2f\xfd" + (b"\xc0\x58" + size.to_bytes(8, "little") if state else b"\x00\x58")
    blocks = [min(2**17, size - start) for start in range(0, size, 2**17)]
    return head + b"".join(
        (n << 3 | 1 << 1 | (i == len(blocks) - 1)).to_bytes(3, "little") + b"a" for i, n in enumerate(blocks)
    )


def test_the_frames_made_by_hand_are_zstandard() -> None:
    from numcodecs.zstd import Zstd

    assert Zstd().decode(rle(300_000)) == b"a" * 300_000 == Zstd().decode(rle(300_000, state=False))


LARGE = 2**34
BOMBS = {
    "more than its shape": ("value", lambda: rle(2**23), "unpacks to more than its shape says"),
    "of a size not stated": ("value", lambda: rle(2**23, state=False), "unpacks to more than its shape says"),
    "a second frame": ("value", lambda: rle(8) + rle(2**23), "(cannot be unpacked|does not hold)"),
    "a second frame of text": ("text", lambda: rle(8) + rle(LARGE), "(cannot be unpacked|does not hold)"),
    "text": ("text", lambda: rle(LARGE), "unpacks to more than its shape says"),
    "text of a size not stated": ("text", lambda: rle(LARGE, state=False), "unpacks to more than its shape says"),
    "more words than cells": ("text", lambda: rle(100), "does not hold what its shape says"),
    "less than its shape": ("value", lambda: rle(8), "does not hold what its shape says"),
    "nothing": ("text", lambda: b"", "unpacks to more than its shape says"),
    "a long file": ("value", lambda: rle(LARGE), "larger than what its shape says"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_chunks_that_unpack_to_more_than_there_is(saved: Path, tmp_path: Path, bomb: str) -> None:
    """Sixteen gigabytes in a process that may grow by a half: refused, not run out of memory."""
    import resource

    import faults

    folder, (array, data, why) = tmp_path / "sweep", BOMBS[bomb]
    shutil.copytree(saved, folder)
    chunk = next(
        p
        for p in sorted((folder / "result.zarr" / "sweep" / array).rglob("*"))
        if p.is_file() and p.name != "zarr.json"
    )
    chunk.write_bytes(data())
    assert chunk.stat().st_size < 2**20
    cutaway.open_result(saved)  # what reads arrays is there

    def job() -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, resource.RLIM_INFINITY))
        with pytest.raises(cutaway.BadInput, match=why):
            cutaway.open_result(folder)

    _, status = os.waitpid(faults.forked(job), 0)
    assert status == 0


def test_one_long_word_does_not_widen_all_others(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy keeps all words of an array as wide as its longest."""
    from cutaway import stored_arrays

    arrays, _ = cutaway.open_result(saved)
    widest = max(4 * v.size * v.dtype.itemsize // 4 for v in arrays["sweep"].variables.values() if v.dtype.kind == "U")
    total = sum(v.nbytes for v in arrays["sweep"].variables.values() if v.dtype.kind != "U")
    monkeypatch.setattr(stored_arrays, "BYTES", max(widest - 1, 0))
    with pytest.raises(cutaway.BadInput, match="declares more than"):
        cutaway.open_result(saved)
    monkeypatch.setattr(stored_arrays, "BYTES", 100 * (widest + total))
    cutaway.open_result(saved)


def test_links_and_deep_json(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(saved, folder)
    (folder / "result.zarr" / "sweep" / "more").symlink_to("/etc")
    with pytest.raises(cutaway.BadInput, match="it is a link"):
        cutaway.open_result(folder)
    for text in (
        "[" * 100_000,
        '{"schema_version": 1}',
        '{"schema_version": ' + "9" * 5000 + "}",
        "[]",
        '"\\ud800"',
        "NaN",
    ):
        (folder / "result.json").write_text(text)
        with pytest.raises(cutaway.BadInput, match=r"result\.json|schema version"):
            cutaway.open_result(folder)


# -- other files -------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["clean", "corrupt", "answer", "foil", "family", "roles", "CLEAN", ""])


@fuzz
@given(st.lists(st.dictionaries(FIELDS, JSON | TEXT, max_size=6) | JSON, max_size=3), st.binary(max_size=40))
def test_files_of_pairs(tmp_path_factory: pytest.TempPathFactory, lines: list, more: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "pairs.jsonl"
    path.write_bytes("\n".join(json.dumps(line) for line in lines).encode() + more)
    assert "\n" not in message(lambda: read_pairs(path))


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000, '{"clean": "\\ud800", "corrupt": "a"}', '{"clean": NaN}'])
def test_lines_that_once_broke_the_reader(tmp_path: Path, line: str, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "pairs.jsonl").write_text(line)
    assert cli.run(["patch", "--pairs", str(tmp_path / "pairs.jsonl"), "--site", "z"]) == 2
    said = capsys.readouterr().err
    assert "unexpected" not in said and "error:" in said


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["cutaway", "subspaces", "cutaway_direction", "version"]), TEXT | JSON.map(json.dumps)
    )
)
def test_vectors(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, str]) -> None:
    path = tmp_path_factory.getbasetemp() / "vectors.safetensors"
    facts = {k: v.encode("utf-8", "replace").decode() for k, v in facts.items()}
    for known in (facts, facts | {"cutaway": "subspaces"}):
        path.write_bytes(save({"vector": torch.ones(4)}, known))
        for read in (load_subspaces, cutaway.direction):
            message(lambda read=read: read(path))


@fuzz
@given(st.binary(max_size=200))
def test_vectors_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(data)
    for read in (load_subspaces, cutaway.direction):
        with pytest.raises(CutawayError):
            read(path)


# -- the explorer ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web() -> TestClient:
    worker = Worker(lambda: cutaway.load("pocket"), "pocket")
    return TestClient(app.build(worker, Shelf(())), base_url="http://127.0.0.1:8642", raise_server_exceptions=False)


QUESTION = st.dictionaries(
    st.sampled_from(["kind", "text", "other", "place", "edit", "scale", "metric", "site", "prompt", "answer", "x"]),
    st.sampled_from(["lens", "edit", "grid", "A", "add", "L1.z@-1", "L99H99.q", "logit_diff", "z"]) | JSON,
)


@fuzz
@given(st.sampled_from(["/api/ask", "/api/report", "/api/state", "/api/nothing", "/results/../x"]), QUESTION | JSON)
def test_requests_of_any_kind(web: TestClient, address: str, body: Any) -> None:
    """Answered, or refused with what, why and what to do; never 500."""
    text = json.dumps(body if address != "/api/report" else {"questions": [body]})
    response = web.post(address, content=text.encode(), headers={"content-type": "application/json"})
    assert response.status_code != 500 and "Traceback" not in response.text
    assert "This should not happen" not in response.text
    assert response.status_code == 200 or set(response.json()["error"]) == {"what", "why", "do"}


# -- the command line --------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["top", "lens", "attribute", "patch", "check", "report", "resume", "study", "ioi", "replicate", "--model", "pocket",
     "--answer", " Warsaw", "--foil", "--of", "#99999", "-p", "The capital of Poland is", "--json", "-o", "x/../y.json",
     "--site", "z", "--layers", "-1", "--top", "0", "nan", "1e999", "--read", "END", "--pairs", "/dev/null", "--dtype",
     "object", "--device", "nowhere", "--metric", "kl", "--seed", "--dry-run", "--", "\x00", "\ud800", "\u202e", ""]
)  # fmt: skip


@settings(fuzz, max_examples=MANY)
@given(st.lists(WORDS, min_size=1, max_size=6))
def test_command_lines(tmp_path_factory: pytest.TempPathFactory, args: list[str]) -> None:
    """A documented exit code and one message; nothing is written but where it was asked to."""
    here = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    os.chdir(here)
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            code = cli.run([*args, "-q"])
    finally:
        os.chdir(before)
    assert code in (0, 1, 2) and "error: unexpected" not in said.getvalue(), (args, said.getvalue())
    assert {p.name for p in here.rglob("*") if p.is_file()} <= {"y.json"}


def test_numbers_stay_numbers(saved: Path) -> None:
    """What is refused above is not what results hold."""
    arrays, _ = cutaway.open_result(saved)
    assert np.isfinite(arrays["sweep"]["value"].values).all()


LINES = ("a.jsonl", read_texts), ("b.jsonl", read_sentences), ("c.json", read_frequencies)
FREQUENCIES = ("NaN", "Infinity", "-1", "9" * 400)


@pytest.mark.parametrize(
    ("name", "read", "line"),
    [
        *((name, read, line) for name, read in LINES for line in ('{"text": ' + "9" * 5000 + "}", "[" * 100_000)),
        *(("d.json", read_frequencies, f'{{"the": {value}}}') for value in FREQUENCIES),
        ("e.tsv", read_frequencies, "the\tnan"),
    ],
)
def test_numbers_and_lists_that_no_reader_takes(name: str, read: Callable, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(line)
    with pytest.raises(cutaway.BadInput):
        read(tmp_path / name)
