"""What is answered at all: requests of this machine's own pages, with the token where one is needed, and small ones."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
import sys
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import BODY
from .refusal import Refusal, bad

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
COOKIE = "cutaway-token"
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)


class Guard:
    """Around the application. `token` None: only names of this machine's loopback are answered.

    A page elsewhere can make a browser send requests here, and can make its own name resolve to this machine. So the
    Host must be one of ours, an Origin must be our own, and a request from another site is refused. The Host's port may
    be any: a forwarded one (ssh -L 9000:127.0.0.1:8642) is another, and a name that points here shows all the same.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", token: str | None = None, verbose: bool = False) -> None:
        self.app, self.token, self.verbose = app, token, verbose
        self.names = LOOPBACK | {host.lower()}
        if token is not None:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: 403
            return
        status = 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if status in (403, 413):
                    headers["connection"] = "close"  # nobody's connection is kept, nor the rest of a body read
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_names(headers)
            if not scope["query_string"].isascii():
                raise bad("The address is none.", "It has bytes that no address has.", "Write them with %.")
            if self._is_entrance(scope):
                response = RedirectResponse("/", 303)
                response.set_cookie(COOKIE, str(self.token), httponly=True, samesite="strict")
                await response(scope, receive, dressed)
            else:
                self._check_token(headers)
                self._check_size(headers)
                await self.app(scope, _counted(receive), dressed)
        except Refusal as error:
            await JSONResponse(error.document(), error.status)(scope, receive, dressed)
        finally:
            if self.verbose:
                print(f"{scope['method']} {scope['path']!r} {status}", file=sys.stderr)

    def _check_names(self, headers: Headers) -> None:
        hosts, origins, sites = (headers.getlist(name) for name in ("host", "origin", "sec-fetch-site"))
        if len(hosts) != 1 or not self._ours(_name(hosts[0])):
            raise Refusal(
                403, "The request's Host is not this explorer.", "Another site's name may point here (DNS rebinding).",
                "Open the address that the explorer printed.",
            )  # fmt: skip
        own = {f"{scheme}://{hosts[0]}".lower() for scheme in ("http", "https")}  # https: behind a proxy that speaks it
        foreign = len(origins) > 1 or not {origin.lower() for origin in origins} <= own
        elsewhere = not set(sites) <= {"same-origin", "none"} and headers.get("sec-fetch-mode") != "navigate"
        if foreign or elsewhere:
            raise Refusal(
                403, "The request comes from another site.", "Only the explorer's own page may ask.",
                "Open the address that the explorer printed.",
            )  # fmt: skip

    def _ours(self, name: str) -> bool:
        return bool(name) and (name in self.names or (self.token is not None and _is_address(name)))

    def _is_entrance(self, scope: Scope) -> bool:
        """Whether the address is the one that was printed, token and all."""
        if self.token is None or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _check_token(self, headers: Headers) -> None:
        if self.token is None:
            return
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = cookie.value if cookie is not None else headers.get("x-cutaway-token", "")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            raise Refusal(
                401, "The token is missing or wrong.", "The explorer can be reached from other machines.",
                "Open the whole address that it printed.",
            )  # fmt: skip

    def _check_size(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > BODY:
            raise _too_large()


def _counted(receive: Receive) -> Receive:
    """The same, refusing more than a body may have, whatever was announced."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY:
            raise _too_large()
        return message

    return counted


def _too_large() -> Refusal:
    return Refusal(413, "The request is too large.", f"At most {BODY} bytes are taken.", "Shorten the prompt.")


def _name(host: str) -> str:
    """The name in a Host header, without its port; empty where it is not written as a name and a port are."""
    found = _HOST.fullmatch(host)
    if found is None or int(found[3] or 1) not in range(1, 65536):
        return ""
    return (found[1] or found[2]).lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
