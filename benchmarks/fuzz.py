"""Coverage-guided fuzzing of what reads files from elsewhere: `pip install atheris`, then

    python benchmarks/fuzz.py -max_total_time=300 -rss_limit_mb=2048

Every input goes to the readers of pairs, result documents, array headers, directions and subspaces. A `CutawayError` is
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
    from cutaway.saving import result_kind
    from cutaway.stored_arrays import check_arrays
    from cutaway.tasks.pairs import read_pairs

FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "result.zarr").mkdir()


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
    }
    path, read = readers[(which or b"\0")[0] % len(readers)]
    path.write_bytes(data)
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
