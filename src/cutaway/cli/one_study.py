"""What every command of a study does around its own work: look at the output first, run, save, deliver."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ..saving import check_folder_free, save_result
from .deliver import Output, folder_of
from .session import Session
from .studies import _files, _page, _print

if TYPE_CHECKING:
    from ..studies.study import Study


def one_study(ctx: click.Context, as_json: bool, path: str | None, force: bool, make: Callable[[], Study]) -> None:
    """Make a study and write it where -o says: a folder, one file, or standard output. Exits with 1 if a check failed.

    Raises:
        BadInput: the output cannot be written; nothing has run then.
    """
    session: Session = ctx.obj
    folder = folder_of(path)
    out = Output(session, as_json, None if folder else path, force)
    out.check(".html")
    if folder:
        check_folder_free(folder, force)
    with session.working():
        done = make()
        done.command = session.command
        if folder:
            save_result(folder, done.arrays, done.document(), _files(done), force)
            session.note(f"wrote {folder / 'report.html'}, result.json, result.zarr, command.txt")
    out.deliver(done.document, lambda console: _print(console, done), {".html": lambda: _page(done)})
    ctx.exit(0 if done.ok else 1)
