"""Commands that can be continued: beside their output, OUT.partial keeps the command line and its sweeps' shards.

It is there from the command's beginning, locked, and goes away when the output has been written.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from ..disk import UNDONE, cannot_write, read_json, replace_file, sweep_up
from ..errors import BadInput, NoRoom, Unfinished
from ..resume.keeping import keep_sweeps
from ..resume.locking import exclusive
from ..saving import SCHEMA_VERSION
from .session import Session

COMMANDS = frozenset({"patch", "study", "demo"})
"""Commands with sweeps, whose output is in their option -o."""

SUFFIX, RUN, INPUT, KIND = ".partial", "run.json", "input.txt", "unfinished run"
SWEEPS = "sweeps"
_MANNERS = frozenset({"--force", "--quiet", "-q", "--debug", "--json"})
_WHERE = ("--engine", "--address", "--workers")
"""Options that change nothing of what is run; the latter take a value."""


@dataclass(frozen=True)
class Run:
    """A command line and where it was given."""

    args: list[str]
    cwd: str

    @property
    def command(self) -> str:
        return shlex.join(["cutaway", *self.args])

    def same(self, other: Run) -> bool:
        return _what(self.args) == _what(other.args) and self.cwd == other.cwd


def _what(args: list[str]) -> list[str]:
    """A command line without what changes nothing of what is run."""
    values = {i + 1 for i, a in enumerate(args) if a in _WHERE}
    rest = [a for i, a in enumerate(args) if i not in values and a not in (*_MANNERS, *_WHERE)]
    return [a for a in rest if not a.startswith(tuple(f"{option}=" for option in _WHERE))]


def partial_of(out: Path) -> Path:
    """Where the unfinished run of an output is kept."""
    return out if out.name.endswith(SUFFIX) else out.with_name(out.name + SUFFIX)


def read_run(folder: Path) -> Run:
    """What an unfinished run was.

    Raises:
        BadInput: it cannot be told, or is nothing that may be continued.
    """
    found = read_json(folder / RUN, 10**6)
    args, cwd = found.get("command"), found.get("cwd")
    if found.get("kind") != KIND or found.get("schema_version") != SCHEMA_VERSION:
        raise BadInput(f"{folder / RUN} is no unfinished run of this version.")
    if not isinstance(args, list) or not all(isinstance(a, str) for a in args) or not isinstance(cwd, str):
        raise BadInput(f"{folder / RUN} holds no command line.")
    if not args or args[0] not in COMMANDS:
        raise BadInput(f"{folder / RUN} asks for a command that cannot be continued.")
    return Run(args, cwd)


@contextmanager
def unfinished(session: Session, out: Path, force: bool) -> Iterator[None]:
    """Inside, sweeps are kept beside `out`, and nobody else works on it. Afterwards nothing is left but the output.

    Raises:
        BadInput: somebody else works on it, or an unfinished run of another command is there.
    """
    folder = partial_of(out)
    if session.resuming not in (None, folder.resolve()):
        raise BadInput(
            f"The unfinished run in {session.resuming} writes to {out}, which is elsewhere. Move it back beside that."
        )
    new_parents = [p for p in folder.parents if not p.exists()]
    try:
        with exclusive(folder, out):
            begun = _begin(session, folder, force)
            session.standard_input = partial(kept_input, session, folder)
            sweep_up(out.parent, out.name)
            if begun and not force and _there(out):  # it died after its output was written
                _remove(folder)
                if session.resuming:
                    session.note(f"{out} was finished; there is nothing to continue.")
                    raise click.exceptions.Exit(0)
            try:
                with keep_sweeps(folder / SWEEPS):
                    yield
            except click.exceptions.Exit:  # how a command that is done hands over its exit code
                _remove(folder)
                raise
            except (KeyboardInterrupt, NoRoom, Unfinished):
                if _kept(folder):
                    session.continuing = continuing(out)
                else:
                    _remove(folder)
                raise
            except BaseException:
                if not (begun or _kept(folder)):
                    _remove(folder)
                raise
            _remove(folder)
    finally:
        for parent in new_parents:  # made for nothing
            with suppress(OSError):
                parent.rmdir()


def _begin(session: Session, folder: Path, force: bool) -> bool:
    """Write down what is run; true if it was begun before."""
    now = Run(session.args, os.getcwd())
    if (folder / RUN).is_file():
        if session.resuming or (then := read_run(folder)).same(now):
            return True
        if not force:
            raise BadInput(
                f"{folder} keeps an unfinished run of another command:\n  {then.command}\nwhile this is\n  "
                f"{now.command}\nContinue that one with: {continuing(folder)}\nor begin anew with --force."
            )
        shutil.rmtree(folder / SWEEPS, ignore_errors=True)
        (folder / INPUT).unlink(missing_ok=True)
    facts = {"schema_version": SCHEMA_VERSION, "kind": KIND, "command": now.args, "cwd": now.cwd}
    try:
        replace_file(folder / RUN, (json.dumps(facts, indent=1) + "\n").encode())
    except OSError as error:
        raise cannot_write(folder / RUN, error) from None
    return False


def kept_input(session: Session, folder: Path) -> str:
    """What the run got on standard input: read now and kept, or as it was kept before.

    Raises:
        BadInput: the same command gets another input now. NoRoom: it cannot be kept.
    """
    kept = folder / INPUT
    try:
        then = kept.read_bytes().decode("utf-8", "surrogateescape") if kept.is_file() else None
        if session.resuming and then is not None:
            return then
        now = sys.stdin.read()
        if then is None:
            replace_file(kept, now.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(kept, error) from None
    if then is not None and then != now:
        raise BadInput(
            f"{folder} keeps an unfinished run of this command with another standard input. Continue it as it was "
            f"with: {continuing(folder)}\nor delete {folder} to begin anew."
        )
    return now


def continuing(out: Path) -> str:
    """The command that continues."""
    return shlex.join(["cutaway", "resume", str(out).removesuffix(SUFFIX)])


def _kept(folder: Path) -> bool:
    """Whether there is anything worth keeping."""
    return any((folder / SWEEPS).rglob("*.shard"))


def _there(out: Path) -> bool:
    return out.is_file() or (out / "result.json").is_file()


def _remove(folder: Path) -> None:
    """In one step first, so that it is never half there."""
    gone = folder.with_name(f".{folder.name.removesuffix(SUFFIX)}.{os.getpid()}{UNDONE}")
    with suppress(OSError):
        folder = folder.rename(gone)
    shutil.rmtree(folder, ignore_errors=True)
