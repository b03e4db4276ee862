"""What a folder of arrays says of itself, read before anything in it is trusted.

Zarr's own reader knows codecs that unpickle, believes any shape, and unpacks whatever it is told to. A result holds
none of the first and is small, so whatever is not what `saving` writes is refused: another format or codec, links,
shapes that would fill the memory, and chunks that hold more than their shape says.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from .disk import read_json
from .errors import BadInput
from .wording import prose

NODE = "zarr.json"
FILES = 200_000
BYTES = 2**33
"""Of all arrays of a result in memory: 8 GiB."""
CODECS = (["bytes"], ["bytes", "zstd"], ["vlen-utf8"], ["vlen-utf8", "zstd"])
"""How a result's chunks are packed, from array to file."""
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
            node = read_json(Path(here) / NODE, 2**20)
            total += _bytes(Path(here) / NODE, node)
            require_small(folder, total)
            if node.get("node_type") != "group":
                total += _unpacked(Path(here), node, BYTES - total)
                require_small(folder, total)


def require_small(folder: Path, n_bytes: int) -> None:
    """Pass if arrays of that many bytes may be read.

    Raises:
        BadInput: they are more than a result has.
    """
    if n_bytes > BYTES:
        raise BadInput(f"{folder} declares more than {BYTES // 2**30} GiB of arrays. It is not read.")


def _bytes(path: Path, node: dict[str, Any]) -> int:
    """The size in memory that the file of a group or an array declares."""
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
    if node.get("storage_transformers") or _codecs(node) not in CODECS or _codecs(node)[0] != _first_codec(kind):
        raise _odd(path, "its codecs are none of a result's")
    chunk = _chunk(node)
    if len(chunk) != len(shape) or math.prod(chunk) > max(2**27, 2 * math.prod(shape)):
        raise _odd(path, "its chunks do not fit its shape")
    return max(math.prod(shape), math.prod(chunk)) * WIDTHS[kind]


def _codecs(node: dict[str, Any]) -> list[Any]:
    codecs = node.get("codecs")
    return [c.get("name") if isinstance(c, dict) else None for c in codecs] if isinstance(codecs, list) else []


def _first_codec(kind: str) -> str:
    return "vlen-utf8" if kind == "string" else "bytes"


def _chunk(node: dict[str, Any]) -> list[int]:
    grid = node.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) and grid.get("name") == "regular" else None
    chunk = settings.get("chunk_shape") if isinstance(settings, dict) else None
    return chunk if isinstance(chunk, list) and all(type(n) is int and 0 < n < 2**40 for n in chunk) else [0] * 99


# -- chunks: what they hold, before Zarr unpacks them ------------------------------------------------------------------


def _unpacked(array: Path, node: dict[str, Any], room: int) -> int:
    """Bytes of text in an array's chunks; numbers are counted by their shape, which their chunks must have.

    Raises:
        BadInput: a chunk does not hold what the array declares, or the text is more than there is room for.
    """
    text, cells = node["data_type"] == "string", math.prod(_chunk(node))
    packed, found = _codecs(node)[-1] == "zstd", 0
    for path in sorted(p for p in array.rglob("*") if p.is_file() and p.name != NODE):
        most = room - found if text else cells * WIDTHS[node["data_type"]]
        data = _decoded(path, packed, most)
        if not text and len(data) != most:
            raise _odd(path, "it does not hold what its shape says")
        if text:
            if len(data) < 4 or int.from_bytes(data[:4], "little") != cells:
                raise _odd(path, "it does not hold what its shape says")
            found += len(data)
    return found


def _decoded(path: Path, packed: bool, most: int) -> bytes:
    """A chunk as it is before it becomes an array: at most `most` bytes, and never more in memory than these."""
    if path.stat().st_size > most + most // 128 + 1024:  # what cannot be packed becomes a little larger
        raise _odd(path, "it is larger than what its shape says")
    data = path.read_bytes()
    if not packed:
        return data
    size = _stated_size(data)
    if size is None or size > most:
        raise _odd(path, "it unpacks to more than its shape says")
    from numcodecs.zstd import Zstd

    out = bytearray(size)
    try:
        if size:
            Zstd().decode(data, out)
    except (RuntimeError, ValueError) as error:
        raise _odd(path, f"it cannot be unpacked ({error})") from None
    return bytes(out)


def _stated_size(data: bytes) -> int | None:
    """The size that the first frame of Zstandard data states for what it holds (RFC 8878, 3.1.1.1); None if it does
    not."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = data[4]
    single = flags >> 5 & 1
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if not width or len(data) < start + width:
        return None
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)


def _odd(path: Path, why: str) -> BadInput:
    return BadInput(f"{prose(str(path), 300)} is not read as part of a result: {why}. Make the result again.")
