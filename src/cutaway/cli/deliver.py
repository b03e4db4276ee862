"""Where a command's result goes and in which form: a table on the terminal, JSON, or a file chosen by its suffix."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput
from ..saving import check_free, to_json, write_file
from .session import Session

if TYPE_CHECKING:
    from rich.console import Console

Forms = Mapping[str, Callable[[], str | bytes]]
_LITERAL: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # text is text


@dataclass(frozen=True)
class Output:
    """What the options `--json`, `-o` and `--force` ask for."""

    session: Session
    as_json: bool
    path: str | None
    force: bool

    @property
    def file(self) -> Path | None:
        return None if self.path in (None, "-") else Path(str(self.path))

    def check(self, *suffixes: str) -> None:
        """Refuse a path that cannot be written before any work is done; `suffixes` besides .json and .txt.

        Raises:
            BadInput: the suffix is not one of those offered, or something is there already.
        """
        if self.file is None:
            return
        known = (".txt", ".json", *suffixes)
        if self.file.suffix not in known:
            what = f"suffix {self.file.suffix!r}" if self.file.suffix else "no suffix"
            raise BadInput(f"{self.file} has {what}; this command writes {', '.join(known)}.")
        check_free(self.file, self.force)

    def deliver(self, facts: Callable[[], Any], text: Callable[[Console], None], forms: Forms | None = None) -> None:
        """Print or write: `facts` makes the JSON, `text` prints on a console, `forms` has the other suffixes."""
        if self.file is None:
            if self.as_json:
                click.echo(to_json(facts()), nl=False)
            else:
                text(terminal())
            return
        data: str | bytes
        if self.file.suffix == ".json":
            data = to_json(facts())
        elif self.file.suffix == ".txt":
            data = as_text(text)
        else:
            data = (forms or {})[self.file.suffix]()
        write_file(self.file, data, self.force)
        self.session.note(f"wrote {self.file}")


def folder_of(path: str | None) -> Path | None:
    """The path, if it names a folder: not standard output, nor what is written like a file (`.csv`, but not `.v2`)."""
    if path is None or path == "-":
        return None
    single = re.fullmatch(r"\.[A-Za-z]{2,5}", Path(path).suffix) and not path.endswith("/") and not Path(path).is_dir()
    return None if single else Path(path)


def terminal() -> Console:
    """Standard output for rich. A pipe gets plain text of any width; colours follow NO_COLOR, FORCE_COLOR and TERM."""
    from rich.console import Console

    pipe = not sys.stdout.isatty()
    return Console(file=sys.stdout, width=400 if pipe else None, soft_wrap=pipe, **_LITERAL)


def as_text(text: Callable[[Console], None]) -> str:
    """What would be printed, without colours."""
    from rich.console import Console

    file = io.StringIO()
    text(Console(file=file, width=400, color_system=None, force_terminal=False, **_LITERAL))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
