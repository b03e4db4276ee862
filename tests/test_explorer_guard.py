"""Whom the explorer answers, tried with names, origins, bodies and bytes of any kind; `CUTAWAY_FUZZ=1000` tries more.

Whether a request should be answered is decided here by a few lines that share nothing with the guard: one Host that
is a name of this machine's loopback, nobody else's Origin, no other site.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway.errors import BadInput
from cutaway.explorer import app, limits, serving
from cutaway.explorer.shelf import Shelf
from cutaway.explorer.worker import Worker

MANY = int(os.environ.get("CUTAWAY_FUZZ", "25"))
fuzz = settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
PATHS = ["/", "/api/state", "/api/ask", "/explorer.js", "/api/jobs/1", "/api/results/0", "/nothing", "/api/report"]
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get"]


def worker() -> Worker:
    """One without a model: a question that gets as far as this is answered with an error event."""

    def load() -> Any:
        raise BadInput("There is no model here.")

    return Worker(load, "none")


# -- what should be answered, said differently ------------------------------------------------------------------------


def ours(hosts: list[bytes]) -> bool:
    """Whether the Host headers are one, and a name of the loopback with a port that exists."""
    found = [re.fullmatch(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", one.lower()) for one in hosts]
    return len(found) == 1 and found[0] is not None and (not found[0][2] or 0 < int(found[0][2][1:]) < 2**16)


def own(hosts: list[bytes], origins: list[bytes]) -> bool:
    """Whether no Origin is given, or the one that the page at this Host has."""
    return not origins or origins in ([b"http://" + hosts[0]], [b"https://" + hosts[0]])


def here(sites: list[bytes], modes: list[bytes]) -> bool:
    """Whether a browser says that the page itself asks, that nobody does, or that a link was followed."""
    return all(one in (b"same-origin", b"none") for one in sites) or modes[:1] == [b"navigate"]


NAMES = st.sampled_from(
    ["127.0.0.1", "localhost", "[::1]", "LocalHost", "evil.example", "127.0.0.1.evil.example", "evil-localhost", "",
     "0.0.0.0", "127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]", "[::1%25lo]", "::1", "[0:0:0:0:0:0:0:1]",
     "[::]", "[::1", "::1]", "[]", "10.0.0.1", "169.254.169.254", "\u24dbocalhost", "localho\u017ft", "xn--localhost"]
)  # fmt: skip
PORTS = st.sampled_from(
    [
        "",
        ":8642",
        ":1",
        ":65535",
        ":65536",
        ":0",
        ":00080",
        ":080808",
        ":",
        ":-1",
        ":x",
        ":8642:8642",
        ":\u0663",
        ":80 ",
    ]
)
BEFORE = st.sampled_from(["", "", "", "user@", "user:pw@", "evil.example@", " ", "http://", "evil.example,", "\t"])
AFTER = st.sampled_from(["", "", "", ".", "..", "@evil.example", ".evil.example", "/", "#", "?", "%00", "\x00", " x"])
WRITTEN = st.builds("{}{}{}{}".format, BEFORE, NAMES, PORTS, AFTER).map(str.encode)
GOOD = st.builds("{}{}".format, st.sampled_from(["127.0.0.1", "localhost", "[::1]"]), st.sampled_from(["", ":8642"]))
HOST = GOOD.map(str.encode) | WRITTEN | st.binary(max_size=30)
SITES = st.sampled_from([b"same-origin", b"none", b"same-site", b"cross-site", b"", b"Same-Origin", b"\xff"])
MODES = st.sampled_from([b"navigate", b"no-cors", b"cors", b"websocket", b""])


@st.composite
def headers(draw: st.DrawFn) -> dict[str, list[bytes]]:
    """Host, Origin and Sec-Fetch headers, often right, often several."""
    hosts = draw(st.lists(HOST, max_size=2) | HOST.map(lambda one: [one]))
    host = hosts[0] if hosts else b""
    near = st.sampled_from(
        [b"http://" + host, b"https://" + host, b"http://" + host + b"/", b"http://" + host + b".evil.example", host,
         b"http://user@" + host, b"null", b"", b"http://evil.example", b"http://[", b"http://127.0.0.1:1", b"file://",
         b"ws://" + host, b"http://" + host + b"#"]
    )  # fmt: skip
    return {
        "host": hosts,
        "origin": draw(st.lists(near | st.binary(max_size=20), max_size=2)),
        "sec-fetch-site": draw(st.lists(SITES, max_size=2)),
        "sec-fetch-mode": draw(st.lists(MODES, max_size=1)),
    }


# -- names, as the application gets them ------------------------------------------------------------------------------


async def called(application: Any, scope: dict[str, Any], body: list[bytes]) -> tuple[int, bytes]:
    """Status and body of the answer."""
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": one, "more_body": True} for one in body]
    parts.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        if parts:
            return parts.pop(0)
        return await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(application(scope, receive, send), 30)
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)


@pytest.fixture(scope="module")
def application() -> Any:
    return app.build(worker(), Shelf(()))


TARGETS = st.sampled_from(PATHS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map("/{}".format)
LENGTH = st.sampled_from([b"", b"0", b"5", b"-1", b"\xb2", b"9" * 5000, b"1e3", b"65537", b"+1"])


@fuzz
@given(headers(), st.sampled_from(METHODS), TARGETS, st.binary(max_size=20), st.lists(LENGTH, max_size=1))
def test_only_this_machines_own_pages_are_answered(
    application: Any, named: dict[str, list[bytes]], method: str, path: str, query: bytes, length: list[bytes]
) -> None:
    raw = [(name.encode(), value) for name, values in named.items() for value in values]
    raw += [(b"content-type", b"application/json"), *((b"content-length", one) for one in length)]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
        "headers": raw, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 8642), "root_path": "",
    }  # fmt: skip
    status, text = asyncio.run(called(application, scope, [b'{"kind": "tokens", "text": "x"}']))
    answered = ours(named["host"]) and own([h.lower() for h in named["host"]], [o.lower() for o in named["origin"]])
    if answered and here(named["sec-fetch-site"], named["sec-fetch-mode"]):
        assert status != 403 and status < 500
    else:
        assert status == 403
        assert set(json.loads(text)["error"]) == {"what", "why", "do"}
    assert b"Traceback" not in text


def test_a_websocket_is_closed_before_it_opens(application: Any) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"localhost")]}
    asyncio.run(application(scope, None, send))
    assert [one["type"] for one in sent] == ["websocket.close"]


# -- bytes, over a connection -----------------------------------------------------------------------------------------


@contextmanager
def listening(patience: float = 10.0, most: int = 64) -> Iterator[int]:
    """A served explorer's port."""
    import uvicorn

    sock = serving.listening("127.0.0.1", 0)
    server = uvicorn.Server(serving.configured(app.build(worker(), Shelf(())), patience, most))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield int(sock.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of one that waits a fifth of a second for a request."""
    with listening(0.2) as found:
        yield found


def spoken(port: int, request: bytes, end: bool = False) -> bytes:
    """What comes back until the server closes, which it does within seconds or this fails; `end`: no more is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        try:
            line.sendall(request)
            if end:
                line.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: line.recv(65536), b""))
        except (ConnectionResetError, BrokenPipeError):  # closed before everything was sent: refused
            return b""


def written(method: str, path: str, named: dict[str, list[bytes]], *more: bytes) -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Connection: close", *more]
    lines += [name.encode() + b": " + value for name, values in named.items() for value in values]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def status_of(answer: bytes) -> int:
    """0 where there was no answer but a closed connection."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


ASKED = b'{"kind": "tokens", "text": "x"}'
JSON = b"Content-Type: application/json"


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """How a body is announced, and what is sent: whole, cut short, chunked, chunked wrongly, both, or too large."""
    large = draw(st.sampled_from([10, limits.BODY - 10, limits.BODY + 1, 4 * limits.BODY]))
    body = draw(st.sampled_from([ASKED, b"", b"{", b" " * large, ASKED.ljust(large)]) | st.binary(max_size=50))
    chunk = draw(st.integers(1, 40_000))
    size = draw(st.sampled_from(["{:x}", "{:X};a=b", "0{:x}", "-{:x}", "{:x} ", "g{:x}", "{:x}" + "0" * 20]))
    parts = [body[i : i + chunk] for i in range(0, len(body), chunk)]
    chunks = b"".join(size.format(len(one)).encode() + b"\r\n" + one + b"\r\n" for one in parts)
    end = draw(st.sampled_from([b"0\r\n\r\n", b"", b"0\r\nx: y\r\n\r\n"]))
    coded = draw(st.sampled_from([b"chunked", b"gzip, chunked", b"identity", b"Chunked", b"chunked, chunked"]))
    how = draw(st.sampled_from(["length", "short", "chunked", "chunked", "both", "neither"]))
    length = b"Content-Length: %d" % (len(body) + 7 * (how == "short"))
    return {
        "length": ([length], body), "short": ([length], body), "neither": ([], body),
        "chunked": ([b"Transfer-Encoding: " + coded], chunks + end),
        "both": ([length, b"Transfer-Encoding: " + coded], chunks + end),
    }[how]  # fmt: skip


@fuzz
@given(headers(), st.sampled_from(METHODS[:8]), st.sampled_from(PATHS), bodies(), st.booleans())
def test_every_connection_ends_and_strangers_get_nothing(
    port: int, caplog: Any, named: dict[str, list[bytes]], method: str, path: str, body: Any, mine: bool
) -> None:
    if mine:
        named = {"host": [b"127.0.0.1:%d" % port]}
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        answer = spoken(port, written(method, path, named, JSON, *body[0]) + body[1])
    status = status_of(answer)
    stripped = {name: [one.strip(b" \t") for one in values] for name, values in named.items()}
    hosts = [one.lower() for one in stripped["host"]]
    if not (ours(hosts) and own(hosts, [one.lower() for one in stripped.get("origin", [])])):
        assert status in (0, 400, 403), answer[:300]
    assert status < 500 and b"Traceback" not in answer
    assert not [one for one in caplog.records if one.exc_info], "the server logged a traceback"


@fuzz
@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda t: f"GET / HTTP/1.1\r\n{t}\r\n\r\n".encode()))
def test_bytes_that_are_no_request_get_nothing(port: int, data: bytes) -> None:
    assert status_of(spoken(port, data, end=True)) in (0, 400, 403)


@pytest.mark.parametrize("path", ["/", "/api/ask"])
def test_an_upgrade_is_not_made(port: int, path: str) -> None:
    named = {"host": [b"127.0.0.1:%d" % port], "upgrade": [b"websocket"], "sec-websocket-version": [b"13"]}
    head = written("GET", path, named, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").replace(b"close", b"Upgrade", 1)
    answer = spoken(port, head.replace(b"GET", b"GET", 1), end=True)
    assert b" 101 " not in answer[:20]
    foreign = written("GET", path, named | {"origin": [b"http://evil.example"]}).replace(b"close", b"Upgrade", 1)
    assert status_of(spoken(port, foreign)) == 403


HERE = b"Host: 127.0.0.1\r\n"
LAST = HERE + b"Connection: close\r\n\r\n"
GET = b"GET /api/state HTTP/1.1\r\n"
POST = b"POST /api/ask HTTP/1.1\r\n" + HERE + JSON + b"\r\n"
FOREIGN = GET + b"Host: evil.example\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (GET + HERE + b"\r\n" + FOREIGN + GET + LAST, [200, 403]),
        (POST + b"Content-Length: 3\r\n\r\n{}x" + FOREIGN, [400, 403]),
        (POST + b"Content-Length: 99999\r\n\r\n" + GET + LAST, [413]),
        (POST + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FOREIGN, [400, 403]),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   " + GET + LAST, [400]),
        (b"GET http://evil.example/api/state HTTP/1.1\r\n" + LAST, [404]),
        (b"GET http://127.0.0.1/api/state HTTP/1.1\r\nHost: evil.example\r\n\r\n", [403]),
        (b"CONNECT evil.example:443 HTTP/1.1\r\n" + LAST, [404]),
        (b"GET //evil.example/%2e%2e/ HTTP/1.1\r\n" + LAST, [404]),
        (b"GET /results/%2e%2e/ HTTP/1.1\r\n" + LAST, [404]),
        (GET + HERE + LAST, [400]),
        (GET + b"Host: localhost.\r\n\r\n", [403]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [403]),
    ],
)
def test_one_request_is_not_taken_for_another(port: int, sent: bytes, statuses: list[int]) -> None:
    answer = spoken(port, sent)
    found = [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]
    assert found in (statuses, []), answer  # nothing: it was closed while more was being sent
    assert b"location" not in answer.lower() and b"Traceback" not in answer


def dribbled(port: int, *first: bytes) -> list[bytes]:
    """What comes back to each of these, a byte a moment following the last of them; fails where the line stays open."""
    answers = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        for one in first[:-1]:
            line.sendall(one)
            with line.makefile("rb") as file:
                head = b"".join(iter(file.readline, b"\r\n"))
                size = re.search(rb"(?i)content-length: (\d+)", head)
                assert size is not None
                answers.append(head + file.read(int(size[1])))
        line.sendall(first[-1])
        line.settimeout(0.02)
        came = b""
        for _ in range(500):
            try:
                more = line.recv(65536)
                if not more:
                    return [*answers, came]
                came += more
            except TimeoutError:
                with suppress(BrokenPipeError):
                    line.sendall(b"a")
            except ConnectionResetError:  # closed while bytes were under way
                return [*answers, came]
    raise AssertionError("the server still waits")


def test_a_request_that_comes_a_byte_at_a_time_is_not_waited_for(port: int) -> None:
    named = {"host": [b"localhost:%d" % port]}
    asked = written("GET", "/api/state", named).replace(b"Connection: close\r\n", b"")
    for slow in (
        b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        written("POST", "/api/ask", named, JSON, b"Content-Length: 5000"),
        written("POST", "/api/ask", named, JSON, b"Transfer-Encoding: chunked") + b"fff\r\n",
    ):  # fmt: skip
        (answer,) = dribbled(port, slow)
        assert status_of(answer) in (0, 408), slow
        answers = dribbled(port, asked, asked, slow)  # also where the line has been of use before
        assert [status_of(one) for one in answers[:2]] == [200, 200] and status_of(answers[2]) in (0, 408), slow
    answered = asked.replace(b"\r\n\r\n", b"\r\nContent-Length: 5000\r\n\r\n")  # before its body is there
    (answer,) = dribbled(port, answered)
    assert answer.count(b"HTTP/1.1 ") == 1 and status_of(answer) == 200
    assert status_of(spoken(port, written("GET", "/api/state", named))) == 200


def test_who_says_nothing_is_not_waited_for(port: int) -> None:
    assert spoken(port, b"") == b""
    answer = spoken(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    assert status_of(answer) == 408 and b"did not arrive" in answer and b"content-security-policy" in answer


def test_an_answer_is_waited_for_longer_than_a_request(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must come within the limit is the request; its answer may take its time."""
    real = app.Worker.ask

    def later(self: Worker, questions: Any, whole: bool, listen: Any) -> Any:
        def told(*given: Any) -> None:
            threading.Timer(0.6, listen, given).start()

        return real(self, questions, whole, told)

    monkeypatch.setattr(app.Worker, "ask", later)
    head = written("POST", "/api/ask", {"host": [b"localhost:%d" % port]}, JSON, b"Content-Length: %d" % len(ASKED))
    answer = spoken(port, head + ASKED)
    assert status_of(answer) == 200 and b"event: error" in answer and b"There is no model here." in answer


def test_only_so_many_connections_are_open() -> None:
    with listening(most=4) as port, ExitStack() as lines:
        held = [lines.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(4)]
        one = written("GET", "/api/state", {"host": [b"localhost:%d" % port]})
        held[0].sendall(one.replace(b"Connection: close\r\n", b""))
        assert status_of(held[0].recv(65536)) == 200, "those that are open are answered"
        for _ in range(3):
            held.append(lines.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
        answers = [b"".join(iter(lambda line=line: line.recv(65536), b"")) for line in held[4:]]
        assert [status_of(one) for one in answers] == [503] * 3 and b"4 connections are open" in answers[0]
        for line in held:
            line.close()
        for _ in range(100):
            if status_of(spoken(port, one)) == 200:
                break
        else:
            raise AssertionError("nobody is answered any more")


def test_a_body_that_does_not_come_is_not_waited_for(port: int) -> None:
    named = {"host": [b"localhost:%d" % port]}
    for announced in (b"Content-Length: 100", b"Transfer-Encoding: chunked"):
        answer = spoken(port, written("POST", "/api/ask", named, JSON, announced))
        assert status_of(answer) == 408 and b"did not arrive" in answer
    assert status_of(spoken(port, written("GET", "/api/state", named))) == 200


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
def test_a_body_that_is_none_is_refused_without_a_traceback(port: int, caplog: Any, host: str, method: str) -> None:
    """It comes with its head, so that the server refuses it before the application has answered the head."""
    head = written(method, "/api/ask", {"host": [host.encode()]}, JSON, b"Transfer-Encoding: chunked")
    with caplog.at_level(logging.WARNING):
        assert status_of(spoken(port, head + b"zz\r\n")) in (0, 400)
    assert not [one for one in caplog.records if one.exc_info]


MANY_FILES = 300
"""Requests for a file whose answers are more than any kernel keeps for who does not read."""


def pipelined(port: int, window: int) -> tuple[socket.socket, int]:
    """A line on which so many files were asked for, without reading; and how many bytes the answers have."""
    one = written("GET", "/explorer.css", {"host": [b"localhost:%d" % port]})
    size = len(spoken(port, one)) - len(b"connection: close\r\n")
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    line.settimeout(10)
    line.connect(("127.0.0.1", port))
    line.sendall(one.replace(b"Connection: close\r\n", b"") * (MANY_FILES - 1) + one)
    return line, size * MANY_FILES + len(b"connection: close\r\n")


@pytest.mark.parametrize("sip", [0, 64])
def test_who_does_not_take_an_answer_is_cut_off(sip: int) -> None:
    """Nothing of it, or a few bytes now and then."""
    with listening(0.5, most=4) as port, ExitStack() as lines:
        held = [pipelined(port, 4096) for _ in range(4)]
        for line, _ in held:
            lines.enter_context(line)
        one = written("GET", "/api/state", {"host": [b"localhost:%d" % port]})
        assert status_of(spoken(port, one)) in (0, 503), "they hold every connection"
        taken = 0
        for _ in range(200):
            if sip:
                taken += sum(len(line.recv(sip)) for line, _ in held)
            if status_of(spoken(port, one)) == 200:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("who does not read holds a connection for ever")
        line, size = held[0]
        with suppress(ConnectionResetError):
            while more := line.recv(65536):
                taken += len(more)
        assert taken < size, "what was left was thrown away"


def test_who_takes_an_answer_slowly_gets_all_of_it() -> None:
    """In many times as long as a connection waits for something to be taken."""
    with listening(0.2) as port:
        line, size = pipelined(port, 2**16)
        taken, begun = 0, time.monotonic()
        with line:
            while more := line.recv(2**16):
                taken += len(more)
                time.sleep(0.01)
        assert taken == size and time.monotonic() - begun > 0.6
