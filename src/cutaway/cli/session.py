"""What one run of the command line knows and how it speaks on standard error."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import click

from ..errors import BadInput, CutawayError


@dataclass
class Where:
    """Where sweeps are run: what `--engine`, `--address` and `--workers` say. None: not said."""

    engine: str | None = None
    address: str | None = None
    workers: int | None = None
    fixed: bool = False  # `resume` was told, and the command that it continues is not asked

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sweeps inside are run there.

        Raises:
            BadInput: there is no such cluster, or the options do not fit together.
        """
        if self.engine == "ray":
            from ..workers import on_ray

            with on_ray(self.address, self.workers):
                yield
            return
        if self.address or self.workers:
            raise BadInput("--address and --workers are of --engine ray. Add it, or leave them out.")
        yield


class Session:
    """`quiet` and `debug` as asked for, the command line itself, and everything that is said on standard error."""

    def __init__(self, args: list[str]) -> None:
        self.args = list(args)
        self.command = shlex.join(["cutaway", *args])
        self.resuming: Path | None = None  # the unfinished run that is continued
        self.continuing: str | None = None  # the command that continues this run, which was interrupted
        self.where = Where()
        # all of it; a run that can be continued keeps it, and gets the same again
        self.standard_input: Callable[[], str] = lambda: sys.stdin.read()
        self.quiet = False
        self.debug = bool(os.environ.get("CUTAWAY_DEBUG"))

    def say(self, text: str) -> None:
        """A line of progress; only a person at a terminal sees it."""
        if not self.quiet and sys.stderr.isatty():
            click.echo(text, err=True)

    def note(self, text: str) -> None:
        """A line that matters even when standard error is a file: a path written, a warning."""
        if not self.quiet:
            click.echo(text, err=True)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Libraries may talk as they like inside: it goes to standard error, or nowhere when quiet."""
        with redirect_stdout(sys.stderr):
            if self.quiet or not sys.stderr.isatty():
                _hush()
            yield

    # -- how a run ends other than well ---------------------------------------------------------------------------

    def usage(self, error: click.ClickException) -> int:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # the message is the help page
            click.echo(error.format_message(), err=True)
            return 2
        click.echo(f"error: {error.format_message()}", err=True)
        context = getattr(error, "ctx", None)
        if context is not None:
            click.echo(f"See: {context.command_path} --help", err=True)
        return 2

    def failed(self, error: Exception) -> int:
        if self.debug:
            traceback.print_exception(error)
        elif isinstance(error, CutawayError):
            click.echo(f"error: {error}", err=True)
        elif isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            click.echo(f"error: {error.strerror}. Close some programs, or raise the limit (ulimit -n).", err=True)
        elif _out_of_memory(error):
            click.echo(
                "error: there is not enough memory, even for one prompt at a time. Give shorter prompts, or a "
                "smaller model or dtype.",
                err=True,
            )
        else:
            what = " ".join(str(error).split()) or "no message"
            click.echo(f"error: unexpected {type(error).__name__}: {what}", err=True)
            click.echo("This should not happen. Run again with --debug to see where, and please report it.", err=True)
        self._say_how_to_continue()
        return error.exit_code if isinstance(error, CutawayError) else 2

    def interrupted(self) -> int:
        click.echo("interrupted", err=True)
        self._say_how_to_continue()
        return 130

    def _say_how_to_continue(self) -> None:
        if self.continuing is not None:
            click.echo(f"What was finished is kept. Continue with: {self.continuing}", err=True)

    def pipe_closed(self) -> int:
        """Whoever read our output has read enough. Python must not try to flush what is left at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocator gave up. Without PyTorch it was Python's own."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from ..parts import out_of_memory

    return out_of_memory(error)


def _hush() -> None:
    """No progress bars and no advice from the libraries that load models; their errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        transformers.logging.set_verbosity_error()
    from transformers.utils import logging

    logging.disable_progress_bar()
