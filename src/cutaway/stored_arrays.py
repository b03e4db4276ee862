"""What a folder of arrays says of itself, read before anything in it is trusted.

Zarr's own reader knows codecs that unpickle and believes any shape. A result holds none of the former and is small, so
whatever is not what `saving` writes is refused: another format or codec, links, and shapes that would fill the memory.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from .disk import read_json
from .errors import BadInput

NODE = "zarr.json"
FILES = 200_000
BYTES = 2**33
"""Of all arrays of a result in memory: 8 GiB."""
CODECS = {"bytes", "vlen-utf8", "zstd", "blosc", "gzip", "crc32c"}
WIDTHS = {"bool": 1, "string": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2} | {
    f"{kind}{8 * n}": n for n in (4, 8) for kind in ("int", "uint", "float")
}


def check_arrays(folder: Path) -> None:
    """Pass if a Zarr folder holds arrays of the kind that results are made of.

    Raises:
        BadInput: it does not; the message names the file.
    """
    files = total = 0
    for here, inner, names in os.walk(folder):
        files += len(names)
        if files > FILES:
            raise BadInput(f"{folder} holds more than {FILES} files, more than a result has. It is not read.")
        for name in (*inner, *names):
            if (Path(here) / name).is_symlink():
                raise _odd(Path(here) / name, "it is a link, and results have none")
        for name in names:
            if name.startswith("."):
                raise _odd(Path(here) / name, "results are not written in this format")
        if NODE in names:
            total += _bytes(Path(here) / NODE)
            if total > BYTES:
                raise BadInput(f"{folder} declares more than {BYTES // 2**30} GiB of arrays. It is not read.")


def _bytes(path: Path) -> int:
    """The size in memory that the file of a group or an array declares."""
    node = read_json(path, 2**20)
    if node.get("zarr_format") != 3:
        raise _odd(path, "results are not written in this format")
    if node.get("node_type") == "group":
        if node.get("consolidated_metadata"):
            raise _odd(path, "it speaks for other files")
        return 0
    shape, kind = node.get("shape"), node.get("data_type")
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise _odd(path, "its shape is none")
    if not isinstance(kind, str) or kind not in WIDTHS:
        raise _odd(path, "its data type is none of a result's")
    if node.get("storage_transformers") or not _known(node.get("codecs")):
        raise _odd(path, "its codecs are none of a result's")
    chunk = _chunk(node)
    if len(chunk) != len(shape) or math.prod(chunk) > max(2**27, 2 * math.prod(shape)):
        raise _odd(path, "its chunks do not fit its shape")
    return math.prod(shape) * WIDTHS[kind]


def _known(codecs: Any) -> bool:
    return isinstance(codecs, list) and all(isinstance(c, dict) and c.get("name") in CODECS for c in codecs)


def _chunk(node: dict[str, Any]) -> list[int]:
    grid = node.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) and grid.get("name") == "regular" else None
    chunk = settings.get("chunk_shape") if isinstance(settings, dict) else None
    return chunk if isinstance(chunk, list) and all(type(n) is int and 0 < n < 2**40 for n in chunk) else [0] * 99


def _odd(path: Path, why: str) -> BadInput:
    return BadInput(f"{path} is not read as part of a result: {why}. Make the result again.")
