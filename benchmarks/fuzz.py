"""Coverage-guided fuzzing of what reads files from elsewhere: `pip install atheris`, then

    python benchmarks/fuzz.py -max_total_time=300 -rss_limit_mb=2048

Every input goes to one of the readers: of pairs, texts, sentences, frequencies, result documents, array headers,
directions, subspaces, questions, manifests, run files, shards and parts (with a checksum that fits) and packed chunks;
FUZZ=texts, or several with commas, chooses among them. Half of the inputs are valid files with some bytes changed. A
`CutawayError` is an answer; any other exception is a crash, which atheris writes to a file and reports. Not needed by
anything else.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["cutaway", "json"]):
    import numpy as np
    import torch
    import xarray as xr
    from safetensors.torch import save

    from cutaway.cli.unfinished import read_run
    from cutaway.directions import direction
    from cutaway.errors import CutawayError
    from cutaway.explorer.question import parse
    from cutaway.explorer.refusal import Refusal
    from cutaway.geometry.subspaces import load_subspaces
    from cutaway.resume.packed import pack, unpack
    from cutaway.resume.parts import WHOLE
    from cutaway.resume.shards import Store, _continued
    from cutaway.saving import result_kind
    from cutaway.stored_arrays import _decoded, check_arrays
    from cutaway.tasks.pairs import read_pairs
    from cutaway.tasks.sentences import read_frequencies, read_sentences
    from cutaway.tasks.texts import read_texts

FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "result.zarr").mkdir()
STORE = Store(FOLDER, {"budget": 40}, [40])


def question(path: Path) -> None:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # as the explorer's own routes answer it
        return
    parse(found)


def part(path: Path) -> None:
    data = STORE.read(WHOLE, 2**20)
    if data is not None:
        try:
            unpack(data)
        except Exception:  # noqa: BLE001 - as `Parts` answers it: the part is made again
            return


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pairs": ("pairs.jsonl", read_pairs),
    "texts": ("texts.jsonl", read_texts),
    "plain": ("texts.txt", read_texts),
    "sentences": ("sentences.jsonl", read_sentences),
    "frequencies": ("frequencies.json", read_frequencies),
    "table": ("frequencies.tsv", read_frequencies),
    "result": ("result.json", lambda path: result_kind(FOLDER)),
    "arrays": ("result.zarr/zarr.json", lambda path: check_arrays(FOLDER / "result.zarr")),
    "direction": ("direction.safetensors", direction),
    "subspaces": ("subspaces.safetensors", load_subspaces),
    "question": ("question.json", question),
    "manifest": ("manifest.json", lambda path: _continued(FOLDER, {"budget": 40}, 40)),
    "run": ("run.json", lambda path: read_run(FOLDER)),
    "shard": (STORE._path(0, 0).name, lambda path: STORE.load(0, 0, {"a": (2,)})),
    "part": (WHOLE, part),
    "chunk": ("chunk", lambda path: _decoded(path, True, 2**20)),
}
"""Reader -> the file it reads, and how it is called."""


def valid() -> dict[str, bytes]:
    """A file that each reader takes, as far as there is a short one."""
    arrays = xr.Dataset({"a": (("x", "y"), np.zeros((2, 3))), "b": ("x", ["p", "q"])}, {"x": [1, 2]}, {"c": "d"})
    card = {"cutaway_direction": json.dumps({"name": "n", "how": "given", "layer": 3, "sources": ["a"]})}
    found: dict[str, Any] = {
        "pairs": {"clean": "a b", "corrupt": "a c", "answer": " d", "foil": " e", "roles": {"S": 1}},
        "texts": {"text": "a b c", "family": "f"},
        "sentences": {"text": "Mary saw her.", "target": "her", "family": 1},
        "frequencies": {"the": 10, "a": 2.5},
        "question": {"kind": "top", "prompt": "a"},
        "manifest": {"schema_version": 1, "kind": "sweep in progress", "facts": {"budget": 40}, "budgets": [40, 20]},
        "run": {"schema_version": 1, "kind": "unfinished run", "command": ["study", "ioi", "-o", "x"], "cwd": "/"},
    }
    return {k: json.dumps(v).encode() for k, v in found.items()} | {
        "plain": b"a b\n\nc d\n", "table": b"the\t10\na\t2.5\n", "part": pack({"one": arrays, "two": [1, None, "x"]}),
        "direction": save({"vector": torch.ones(4)}, card), "subspaces": save({"L0": torch.eye(3)[:1]}),
        "shard": save({"a": torch.zeros(2, dtype=torch.float64)}),
    }  # fmt: skip


VALID = valid()
CHOSEN = [name for name in os.environ.get("FUZZ", "").split(",") if name] or list(READERS)


def one(data: bytes) -> None:
    head, data = (data[:2] + b"\0\0")[:2], data[2:]
    name = CHOSEN[head[0] % len(CHOSEN)]
    if head[1] % 2 and name in VALID:
        data = changed(VALID[name], data)
    file, read = READERS[name]
    path = FOLDER / file
    path.write_bytes(data + STORE._digest(path, data) if path.suffix == ".shard" else data)
    with suppress(CutawayError, Refusal):
        read(path)


def changed(whole: bytes, how: bytes) -> bytes:
    """A file with pieces replaced: three bytes say where and how much, up to 16 more by what."""
    for start in range(0, len(how) - 2, 19):
        at, length = int.from_bytes(how[start : start + 2]) % (len(whole) + 1), how[start + 2] % 17
        whole = whole[:at] + how[start + 3 : start + 3 + length] + whole[at + how[start + 2] // 17 :]
    return whole


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
