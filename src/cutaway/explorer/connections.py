"""Connections: how long one may take to send its request and to take its answer, how many there may be, and a last word
to whom is cut off."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .guard import HEADERS
from .limits import CONNECTIONS, PATIENCE, TAKEN
from .refusal import Refusal


class Connection(H11Protocol):
    """One connection. uvicorn itself waits for ever for the rest of a head or a body, and for who does not read.

    Args:
        patience: seconds in which a request must have arrived, counted from its first byte, or from the opening of its
            connection; and in which `TAKEN` bytes of what waits to be sent must have been taken, or all of it.
        most: connections that may be open; one more is closed at once.
    """

    def __init__(self, *given: Any, patience: float = PATIENCE, most: int = CONNECTIONS, **more: Any) -> None:
        super().__init__(*given, **more)
        self.patience, self.most = patience, most
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that one hears of anything that waits to be taken, and soon:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TAKEN)
        if len(self.connections) > self.most:
            self._close(Refusal(503, f"{self.most} connections are open.", "No more are taken.", "Close some pages."))
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():  # of what was closed nothing more is read
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which may begin the next request
        self._watch()

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Wait for the rest of a request that has begun; of none other."""
        state = self.conn.their_state
        if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
            self._wait()
        else:
            self._rest()

    def _wait(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.patience, self._too_late)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        why = f"It may take {self.patience:g} seconds."
        self._close(Refusal(408, "The request did not arrive.", why, "Send it again.") if begun else None)

    # -- sending: also what is left when a connection is closed, which else keeps it open ------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send()

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _send(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._sending = self.loop.call_later(self.patience, self._look_again, left)

    def _taken(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _look_again(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < TAKEN:
            self.transport.abort()
        else:
            self._send()

    # -- closing ----------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._close(Refusal(400, "The request is none.", msg, "Send HTTP, as a browser does."))

    def _close(self, refusal: Refusal | None) -> None:
        """Say why, where something can still be said, and close."""
        self._rest()
        if self.cycle is not None:  # what is being answered hears that nobody listens
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if refusal is not None:
            with suppress(h11.LocalProtocolError):  # an answer has begun, or may have no body
                for event in _events(refusal):
                    self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _events(refusal: Refusal) -> list[Any]:
    body = json.dumps(refusal.document()).encode()
    headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    head = h11.Response(
        status_code=refusal.status, reason=HTTPStatus(refusal.status).phrase.encode(), headers=list(headers.items())
    )
    return [head, h11.Data(data=body), h11.EndOfMessage()]
