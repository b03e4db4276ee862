"""Taking a port, saying where the page is, and serving it until interrupted."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import webbrowser
from functools import partial
from typing import Any

from ..errors import BadInput
from .app import build
from .connections import Connection
from .guard import LOOPBACK
from .limits import CONNECTIONS, PATIENCE
from .shelf import Shelf
from .worker import Worker

PORT = 8642
TRIES = 20


def listening(host: str, port: int | None) -> socket.socket:
    """A socket on the port that is asked for (0: any that is free), or on the first free one from `PORT` on.

    Raises:
        BadInput: it cannot be had.
    """
    trouble = ""
    for tried in range(PORT, PORT + TRIES) if port is None else [port]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, tried))
            one.listen(128)
            return one
        except OSError as error:
            one.close()
            trouble = error.strerror or str(error)
            if error.errno != errno.EADDRINUSE:
                break
    which = f"Ports {PORT} to {PORT + TRIES - 1} of" if port is None and "use" in trouble else f"Port {port or PORT} of"
    raise BadInput(f"{which} {host} cannot be had: {trouble}. Give another with --port; 0 takes any that is free.")


def address(host: str, port: int, token: str | None) -> str:
    """Where the page is."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def new_token(host: str, wanted: bool) -> str | None:
    """A token for this run where the page can be reached from elsewhere.

    Raises:
        BadInput: a host that others can reach, without --token.
    """
    if host not in LOOPBACK and not wanted:
        raise BadInput(
            f"{host} can be reached from other machines, and whoever reaches the page can use the model. "
            "Add --token for an address with a secret in it, or leave --host out and forward the port with ssh -L."
        )
    return secrets.token_urlsafe(24) if wanted else None


def serve(worker: Worker, shelf: Shelf, sock: socket.socket, host: str, token: str | None, verbose: bool) -> None:
    """Serve until interrupted."""
    import uvicorn

    try:
        uvicorn.Server(configured(build(worker, shelf, host, token, verbose))).run(sockets=[sock])
    finally:
        worker.close()


def configured(app: Any, patience: float = PATIENCE, most: int = CONNECTIONS) -> Any:
    """How the application is served, whichever of uvicorn's optional packages are there; limits as in `Connection`."""
    import uvicorn

    return uvicorn.Config(
        app,
        loop="asyncio",
        http=partial(Connection, patience=patience, most=most),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=30,
    )


def hint(port: int) -> str:
    """What to type at home when this runs elsewhere; empty where it does not."""
    if not os.environ.get("SSH_CONNECTION"):
        return ""
    return (
        f"From your own machine: ssh -L {port}:127.0.0.1:{port} {os.environ.get('USER', 'user')}@{socket.gethostname()}"
    )


def open_browser(url: str) -> None:
    """Open the page, where there is a screen to open it on."""
    screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if screen and not os.environ.get("SSH_CONNECTION"):
        webbrowser.open(url)
