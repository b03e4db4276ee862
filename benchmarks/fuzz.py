"""Coverage-guided fuzzing of what reads files from elsewhere: `pip install atheris`, then

    python benchmarks/fuzz.py -max_total_time=300 -rss_limit_mb=2048

Every input goes to one of the readers: of pairs, result documents, array headers, directions, subspaces, questions,
manifests, shards (with a checksum that fits) and packed chunks. A `CutawayError` is
an answer; any other exception is a crash, which atheris writes to a file and reports. Not needed by anything else.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cutaway", "json"]):
    from cutaway.directions import direction
    from cutaway.errors import CutawayError
    from cutaway.explorer.question import parse
    from cutaway.explorer.refusal import Refusal
    from cutaway.geometry.subspaces import load_subspaces
    from cutaway.resume.shards import Store, _continued
    from cutaway.saving import result_kind
    from cutaway.stored_arrays import _decoded, check_arrays
    from cutaway.tasks.pairs import read_pairs

FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "result.zarr").mkdir()
STORE = Store(FOLDER, {"budget": 40}, [40])


def one(data: bytes) -> None:
    import json

    which, data = data[:1], data[1:]
    file = FOLDER / "file"
    readers = {
        0: (file, read_pairs),
        1: (FOLDER / "result.json", lambda path: result_kind(FOLDER)),
        2: (FOLDER / "result.zarr" / "zarr.json", lambda path: check_arrays(FOLDER / "result.zarr")),
        3: (file, direction),
        4: (file, load_subspaces),
        5: (file, lambda path: parse(json.loads(path.read_bytes()))),
        6: (FOLDER / "manifest.json", lambda path: _continued(FOLDER, {"budget": 40}, 40)),
        7: (STORE._path(0, 0), lambda path: STORE.load(0, 0, {"a": (2,)})),
        8: (file, lambda path: _decoded(path, True, 2**20)),
    }
    path, read = readers[(which or b"\0")[0] % len(readers)]
    path.write_bytes(data + STORE._digest(path, data) if path.suffix == ".shard" else data)
    try:
        read(path)
    except (CutawayError, Refusal):
        pass
    except (ValueError, RecursionError):  # of json.loads above, as the explorer's own routes answer it
        if read is not readers[5][1]:
            raise


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
