"""Single files that are there whole or not at all, also after a crash; JSON within limits; full disks told apart."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import BadInput, CutawayError, NoRoom

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

UNDONE = ".unwritten"
"""Suffix of files that were being written when a process died; nothing reads them."""


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: synced to the disk beside its place, then moved there.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=UNDONE, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~umask())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names in a folder reach the disk, where the system can be asked for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep_up(folder: Path, name: str) -> None:
    """Remove what was being written for a file or folder of that name when a process died; nobody may write it now."""
    for left in folder.glob(f".{glob.escape(name)}.*{UNDONE}"):
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def cannot_write(path: Path, error: OSError) -> CutawayError:
    """The error to raise for a file that could not be written."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return NoRoom(
            f"There is no room left to write {path} ({why}). What was finished before is kept: make room and do the "
            "same again."
        )
    return BadInput(f"{path} cannot be written: {why}.")


def read_json(path: Path, limit: int = 2**24) -> dict[str, Any]:
    """A JSON object from a file that may hold anything.

    Raises:
        BadInput: it is larger than `limit` bytes, cannot be read, or is no JSON object.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, limit) + 1)  # no more room is taken than for what is there
        if max(size, len(data)) > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        found = json.loads(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no JSON object.")
    return found


def json_line(text: str, where: str) -> Any:
    """A JSON value from a line of a file that may hold anything.

    Raises:
        BadInput: it is none, or one that cannot be read: a number of thousands of digits, lists in lists in lists.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is not JSON: {error.msg} at character {error.pos + 1}.") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not read: {error}.") from None


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
