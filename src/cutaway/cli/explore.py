"""`explore`: the local page."""

from __future__ import annotations

from typing import Any

import click

from ..errors import BadInput
from .group import Command
from .options import loading, open_model, speech
from .session import Session

_MODEL = '"pocket", a folder, or a hub id.  [env var: CUTAWAY_MODEL; default: pocket]'
_HOST = "Listen on this address instead of 127.0.0.1; needs --token."
_TOKEN = "Put a secret for this run into the address; without it nothing is answered."
_PORT = "Default: the first free one from 8642 on; 0: any that is free."


@click.command(
    cls=Command,
    short_help="A local page: ask, change, compare.",
    examples=(
        "cutaway explore",
        "cutaway explore --model gpt2 --port 8700",
        "cutaway explore cutaway-demo        # saved results; the model is loaded when first asked",
    ),
)
@click.argument("results", nargs=-1, metavar="[RESULT]...", type=click.Path())
@click.option("-m", "--model", envvar="CUTAWAY_MODEL", help=_MODEL)
@loading
@click.option("--port", type=click.IntRange(0, 65535), help=_PORT)
@click.option("--host", default="127.0.0.1", help=_HOST)
@click.option("--token", is_flag=True, help=_TOKEN)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("-v", "--verbose", is_flag=True, help="Log requests, and tracebacks of errors, to standard error.")
@speech
@click.pass_context
def explore(
    ctx: click.Context,
    results: tuple[str, ...],
    model: str | None,
    port: int | None,
    host: str,
    token: bool,
    no_browser: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Open a page on this machine: type a prompt, see what the model makes of it, change one place, see before | after.

    RESULT are folders of studies and sweeps; they open without a model. The page listens on this machine only and asks
    the network nothing. Ctrl-C ends it.
    """
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise BadInput(f"explore needs {error.name}. Install it: pip install 'cutaway[explore]'") from None
    assert starlette and uvicorn
    from ..explorer.serving import address, hint, listening, new_token, open_browser, serve
    from ..explorer.shelf import Shelf
    from ..explorer.worker import Worker

    session: Session = ctx.obj
    name = model or "pocket"
    secret = new_token(host, token)
    shelf = Shelf(results)
    sock = listening(host, port)
    number = int(sock.getsockname()[1])

    def load() -> Any:
        with session.working():
            return open_model(session, name, **given)

    worker = Worker(load, name, verbose or session.debug, given)
    if model or not results:
        worker.wake()
    url = address(host, number, secret)
    click.echo(url)
    if hint(number):
        session.note(hint(number))
    if not no_browser:
        open_browser(url)
    serve(worker, shelf, sock, host, secret, verbose)
