"""The routes: a page and its files, saved results, and questions, whose answers are streamed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..saving import plain
from ..views.frame import SCRIPT, STYLE, VIEWS_STYLE
from .guard import Guard
from .limits import CHARACTERS, TOKENS
from .question import EDITS, GRIDS, METRICS, parse
from .refusal import Refusal, bad
from .shelf import Shelf
from .worker import Job, Worker

HERE = Path(__file__).parent
REPORT_STYLE = HERE.parent / "report" / "page.css"
JS, CSS = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
FILES = {
    "/": ([HERE / "page.html"], "text/html; charset=utf-8"),
    "/views.js": ([SCRIPT], JS),
    "/explorer.js": ([HERE / "explorer.js"], JS),
    "/ask.js": ([HERE / "ask.js"], JS),
    "/place.js": ([HERE / "place.js"], JS),
    "/explorer.css": ([STYLE, VIEWS_STYLE, REPORT_STYLE, HERE / "explorer.css"], CSS),
}
"""Every file that is served, by its address. No address is ever joined to a path."""
REPORT_POLICY = "sandbox allow-scripts allow-downloads; frame-ancestors 'none'"


def build(
    worker: Worker, shelf: Shelf, host: str = "127.0.0.1", token: str | None = None, verbose: bool = False
) -> Any:
    """The application, behind its guard."""
    held = {address: (b"\n".join(f.read_bytes() for f in files), kind) for address, (files, kind) in FILES.items()}

    async def file(request: Request) -> Response:
        body, kind = held[request.url.path]
        return Response(body, headers={"content-type": kind})

    async def state(request: Request) -> Response:
        return JSONResponse(
            {
                "model": worker.name,
                "state": worker.state,
                "trouble": worker.trouble,
                **worker.about,
                "results": shelf.titles(),
                "limits": {"characters": CHARACTERS, "tokens": TOKENS},
                "edits": EDITS,
                "metrics": METRICS,
                "grids": GRIDS,
            }
        )

    async def result(request: Request) -> Response:
        return JSONResponse(plain(await asyncio.to_thread(shelf.open, request.path_params["name"])))

    async def result_page(request: Request) -> Response:
        text = await asyncio.to_thread(shelf.page, request.path_params["name"])
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})

    async def ask(request: Request) -> Response:
        question = parse(await _json(request))
        return _stream(worker, [question], False)

    async def report(request: Request) -> Response:
        given = await _json(request)
        some = given.get("questions") if isinstance(given, dict) else None
        if not isinstance(some, list) or not 0 < len(some) <= 24:
            raise bad("A report needs questions.", "It is made of 1 to 24 answers.", 'Send {"questions": [...]}.')
        return _stream(worker, [parse(one) for one in some], True)

    async def cancel(request: Request) -> Response:
        written = request.path_params["number"]
        number = int(written) if re.fullmatch("[0-9]{1,15}", written) else -1
        worker.cancel(number)
        return JSONResponse({"cancelled": number})

    routes = [
        *(Route(address, file, methods=["GET"]) for address in FILES),
        Route("/api/state", state, methods=["GET"]),
        Route("/api/results/{name:str}", result, methods=["GET"]),
        Route("/results/{name:str}", result_page, methods=["GET"]),
        Route("/api/ask", ask, methods=["POST"]),
        Route("/api/report", report, methods=["POST"]),
        Route("/api/jobs/{number:str}", cancel, methods=["DELETE"]),
    ]
    handlers: Any = {Refusal: _refused, HTTPException: _no_such, Exception: _unexpected}
    served = Starlette(routes=routes, exception_handlers=handlers)
    served.router.redirect_slashes = False  # an address is what it is
    return Guard(served, host, token, verbose)


async def _json(request: Request) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(
            415, "The request is not JSON.", "Only application/json is read.", "Send content-type: application/json."
        )
    try:
        body = await request.body()
    except ClientDisconnect:
        raise bad("The request was cut off.", "Its body did not arrive.", "Send it again.") from None
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad("The request's body is not JSON.", str(error)[:200], "Send one JSON object in UTF-8.") from None


def _stream(worker: Worker, questions: list[Any], whole: bool) -> Response:
    """Server-sent events until there is an answer, an error, or nobody who asks."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue()  # type: ignore[var-annotated]

    def listen(event: str, data: dict[str, Any]) -> None:
        try:
            loop.call_soon_threadsafe(events.put_nowait, (event, data))
        except RuntimeError:  # the loop is closed: nobody listens
            job.gone.set()

    job: Job = worker.ask(questions, whole, listen)

    async def told() -> AsyncIterator[bytes]:
        try:
            yield _event("started", {"job": job.number, "state": worker.state})
            while True:
                event, data = await events.get()
                yield _event(event, data)
                if event not in ("progress", "note", "early"):
                    return
        finally:
            job.gone.set()

    return StreamingResponse(told(), media_type="text/event-stream")


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(plain(data), allow_nan=False)}\n\n".encode()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.document(), error.status)


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    why = "The explorer serves its own page, its files, and what that page asks."
    what = "There is nothing at this address." if error.status_code == 404 else "This cannot be done at this address."
    return await _refused(request, Refusal(error.status_code, what, why, "Open the address that the explorer printed."))


async def _unexpected(request: Request, error: Exception) -> Response:
    what = f"Unexpected {type(error).__name__}."
    return await _refused(request, Refusal(500, what, "This should not happen.", "Run with -v, and please report it."))
