"""One run at a time in a folder. The system's own file lock, so a process that died holds nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ..disk import cannot_write, read_json
from ..errors import BadInput

LOCK, HOLDER = "lock", "holder.json"
NAMES = frozenset({LOCK, HOLDER})
"""What a lock leaves in a folder."""


@contextmanager
def exclusive(folder: Path, what: Path | None = None) -> Iterator[None]:
    """Nobody else runs in this folder inside. It is made if it is not there; `what` is how messages call it.

    Raises:
        BadInput: somebody does: the message says which process, on which machine, since when.
    """
    from filelock import FileLock, Timeout

    what = folder if what is None else what
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise BadInput(_refusal(folder, what)) from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        with suppress(OSError):  # who it is helps, and a full disk is told of where it matters
            (folder / HOLDER).write_text(json.dumps(_me()), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
        lock.release()


def _me() -> dict[str, str | int]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _refusal(folder: Path, what: Path) -> str:
    try:
        holder = read_json(folder / HOLDER, 10_000)
        who = f"process {int(holder['pid'])} on {str(holder['host'])[:80]!r}, since {str(holder['since'])[:40]}"
    except (BadInput, KeyError, ValueError, TypeError):
        who = "another process"
    return (
        f"{what} is in use by {who}. Wait until it is done, or choose another place. If you ended that process, it "
        "holds nothing any more: try again."
    )
