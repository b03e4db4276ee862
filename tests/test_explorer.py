"""The explorer's server: who is answered, what is taken, what is said, and whether the numbers are right."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch.overrides import TorchFunctionMode

import cutaway
import wordy
from conftest import pair_file
from cutaway import cli
from cutaway.engine import recording
from cutaway.engine.paths import engine
from cutaway.errors import BadInput
from cutaway.explorer import app, limits, serving, worker
from cutaway.explorer.answer import Answer
from cutaway.explorer.asking import answered
from cutaway.explorer.control import other_words, same_length
from cutaway.explorer.question import parse
from cutaway.explorer.refusal import Refusal
from cutaway.explorer.shelf import Shelf
from cutaway.explorer.stopping import Stoppable
from cutaway.explorer.subject import Subject
from cutaway.explorer.telling import Cancelled, Teller
from cutaway.explorer.worker import Worker
from cutaway.saving import plain as plain_json
from families import build
from test_tail import Skipping

A, B = "The capital of Poland is", "The capital of Peru is"
HERE = "http://127.0.0.1:8642"
EXPLORER = Path(app.__file__).parent


@pytest.fixture(scope="module")
def model() -> cutaway.Model:
    one = cutaway.load("pocket")
    Subject(one, "pocket").prepare()  # now, as no other thread does it while a test uses the model
    return one


@pytest.fixture(scope="module")
def subject(model: cutaway.Model) -> Subject:
    return Subject(model, "pocket")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, a sweep, and something else."""
    folder = tmp_path_factory.mktemp("saved")
    assert cli.run(["study", "attribution", "-p", A, "--answer", " Warsaw", "-q", "-o", str(folder / "poland")]) == 0
    pairs = ["--pairs", str(pair_file(folder)), "--site", "z", "-q"]
    assert cli.run(["patch", *pairs, "-o", str(folder / "sweep")]) == 0
    (folder / "secret.txt").write_text("not served", encoding="utf-8")
    return folder


def client(of: Worker, folders: tuple[Path, ...] = (), **more: Any) -> TestClient:
    return TestClient(app.build(of, Shelf(folders), **more), base_url=HERE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def web(model: cutaway.Model, saved: Path) -> TestClient:
    return client(Worker(lambda: model, "pocket"), (saved,))


def events(text: str) -> list[tuple[str, Any]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


def error_of(response: Any) -> dict[str, str]:
    """The one message: what, why, what to do; never a traceback."""
    assert "Traceback" not in response.text
    found = response.json()["error"]
    assert set(found) == {"what", "why", "do"} and all(found.values())
    return found


# -- who is answered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8642", "", "10.0.0.1"]
)
def test_a_foreign_host_is_refused(web: TestClient, host: str) -> None:
    for path in ("/", "/api/state", "/explorer.js"):
        response = web.get(path, headers={"host": host})
        assert response.status_code == 403 and "Host" in error_of(response)["what"]


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:9999", "[::1]:8642", "LOCALHOST"])
def test_this_machines_own_names_are_answered(web: TestClient, host: str) -> None:
    assert web.get("/api/state", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_a_foreign_origin_is_refused(web: TestClient, headers: dict[str, str]) -> None:
    asked = web.post("/api/ask", json={"kind": "tokens", "text": A}, headers=headers)
    assert asked.status_code == 403 and "another site" in error_of(asked)["what"]
    assert web.get("/api/state", headers=headers).status_code == 403


def test_its_own_origin_is_answered(web: TestClient) -> None:
    response = web.post("/api/ask", json={"kind": "tokens", "text": A}, headers={"origin": HERE})
    assert response.status_code == 200


def test_every_answer_has_a_strict_policy(web: TestClient) -> None:
    for path in ("/", "/api/state", "/nothing", "/explorer.css"):
        headers = web.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_a_token_is_needed_where_one_was_made(model: cutaway.Model) -> None:
    web = client(Worker(lambda: model, "pocket"), host="0.0.0.0", token="s3cret")
    assert web.get("/").status_code == web.get("/api/state").status_code == 401
    assert web.get("/?token=wrong").status_code == web.get("/?token=").status_code == 401
    assert web.get("/api/state", headers={"x-cutaway-token": "s3cret"}).status_code == 200
    assert web.get("/api/state", headers={"host": "192.168.1.5", "x-cutaway-token": "s3cret"}).status_code == 200
    assert web.get("/api/state", headers={"host": "evil.example", "x-cutaway-token": "s3cret"}).status_code == 403
    entered = web.get("/?token=s3cret", follow_redirects=False)
    cookie = entered.headers["set-cookie"].lower()
    assert entered.status_code == 303 and "httponly" in cookie and "samesite=strict" in cookie
    assert web.get("/api/state").status_code == 200, "the cookie is sent from now on"


# -- what is taken ----------------------------------------------------------------------------------------------------

PATHS = [
    "/../pyproject.toml", "/..%2f..%2fpyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/explorer.js/../app.py", "/app.py",
    "/page.html", "//etc/passwd", "/static/../app.py", "/explorer.js%00", "/..\\app.py",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_only_own_files_are_served(web: TestClient, path: str) -> None:
    response = web.request("GET", HERE + path)
    assert response.status_code in (400, 404) and "import" not in response.text
    error_of(response)


@pytest.mark.parametrize(
    "name", ["2", "-1", "x", "0/", "..%2f", "...", "%2e%2e", "..%2fsecret.txt", "secret.txt", "poland", "0%2f..", "1e0"]
)
def test_only_known_results_are_opened(web: TestClient, name: str) -> None:
    for path in (f"/api/results/{name}", f"/results/{name}"):
        response = web.get(path)
        assert response.status_code == 404 and "not served" not in response.text
        error_of(response)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400), (b"", 400), (b"\xff\xfe", 400), (b"[" * 20_000, 400), (b"[]", 400), (b"null", 400), (b'"x"', 400),
        (b'{"kind": "tokens"}', 400), (b'{"kind": "tokens", "text": ""}', 400), (b'{"kind": "tokens", "text": 3}', 400),
        (b'{"kind": "nothing", "text": "x"}', 400), (b'{"kind": "tokens", "text": "x", "path": "/etc"}', 400),
        (b'{"kind": "compare", "text": "x"}', 400), (b'{"kind": "edit", "text": "x"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "zero", "place": "L0.pattern"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "zero", "place": "L0H0.pattern@1"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "zero", "place": "L0H0.pattern@1<-x"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "zero", "place": "L0H0.z@1<-0"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "add", "toward": "x", "place": "L0H0.pattern@1<-0"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "zero", "place": "__import__"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "zero", "place": "resid_pre@0"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "patch", "place": "L0.resid_pre@0"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "add", "place": "L0.resid_pre@0"}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "add", "place": "L0.resid_pre@0", "toward": "x", "scale": 1e99}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "add", "place": "L0.resid_pre@0", "toward": "x", "scale": NaN}', 400),
        (b'{"kind": "edit", "text": "x", "edit": "add", "place": "L0.z", "scale": 1' + b"0" * 4000 + b"}", 400),
        (b'{"kind": "tokens", "text": "x", "scale": 1' + b"0" * 9000 + b"}", 400),
        (b'{"kind": "tokens", "text": "\\ud800"}', 400),
        (json.dumps({"kind": "tokens", "text": "x" * (limits.CHARACTERS + 1)}).encode(), 413),
        (json.dumps({"kind": "tokens", "text": "x" * limits.BODY}).encode(), 413),
    ],
)  # fmt: skip
def test_a_bad_question_gets_one_clear_message(web: TestClient, body: bytes, status: int) -> None:
    response = web.post("/api/ask", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    error_of(response)


def test_a_body_that_does_not_say_how_large_it_is_is_cut_off(web: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 4096

    response = web.post("/api/ask", content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    error_of(response)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"])
def test_only_json_is_read(web: TestClient, kind: str) -> None:
    response = web.post("/api/ask", content=b'{"kind": "tokens", "text": "x"}', headers={"content-type": kind})
    assert response.status_code == 415
    error_of(response)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("GET", "/api/ask"),
        ("PUT", "/api/state"),
        ("DELETE", "/api/jobs/99"),
        ("DELETE", "/api/jobs/" + "9" * 5000),
        ("DELETE", "/api/jobs/-1"),
        ("DELETE", "/api/jobs/x"),
    ],
)
def test_what_cannot_be_done_is_said(web: TestClient, method: str, path: str) -> None:
    response = web.request(method, path)
    assert response.status_code in (404, 405)
    error_of(response)


@pytest.mark.parametrize("questions", [[], "x", [{}], [{"kind": "tokens", "text": "x"}] * 25])
def test_a_report_is_of_a_few_questions(web: TestClient, questions: Any) -> None:
    response = web.post("/api/report", json={"questions": questions})
    assert response.status_code == 400
    error_of(response)


def test_what_the_model_cannot_do_is_an_error_event(web: TestClient) -> None:
    for question in (
        {"kind": "edit", "text": A, "edit": "zero", "place": "L99.resid_pre@0"},
        {"kind": "edit", "text": A, "edit": "zero", "place": "L0.resid_pre@99"},
        {"kind": "edit", "text": A, "edit": "zero", "place": "L0H0.pattern@2<-3"},
        {"kind": "edit", "text": A, "edit": "zero", "place": "L0H77.pattern@2<-1"},
        {"kind": "grid", "text": A, "other": "Peru"},
        {"kind": "lens", "text": A, "answer": "no such single token"},
        {"kind": "tokens", "text": "word " * 700},
    ):
        name, data = events(web.post("/api/ask", json=question).text)[-1]
        assert name == "error" and data["what"] and "Traceback" not in data["what"], question


# -- waiting, progress, giving up -------------------------------------------------------------------------------------


def stuck(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Answers that take until they are given up, telling how far they are."""
    begun = threading.Event()

    def slow(subject: Any, question: Any, progress: Any) -> Answer:
        for i in range(4000):
            begun.set()
            progress(i, 4000)
            time.sleep(0.005)
        raise AssertionError("nobody gave up")

    monkeypatch.setattr(worker, "answered", slow)
    return begun


def test_a_question_can_be_given_up(monkeypatch: pytest.MonkeyPatch, model: cutaway.Model) -> None:
    begun = stuck(monkeypatch)
    one = Worker(lambda: model, "pocket")
    web, got = client(one), []
    asking = threading.Thread(
        target=lambda: got.extend(events(web.post("/api/ask", json={"kind": "tokens", "text": A}).text))
    )
    asking.start()
    assert begun.wait(10)
    assert web.delete("/api/jobs/1").json() == {"cancelled": 1}
    asking.join(10)
    names = [name for name, _ in got]
    assert names[0] == "started" and names[-1] == "cancelled" and set(names[1:-1]) == {"progress"}
    assert web.delete("/api/jobs/1").status_code == 404, "it is no longer asked"


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch, model: cutaway.Model) -> None:
    stuck(monkeypatch)
    one = Worker(lambda: model, "pocket")
    question, heard = parse({"kind": "tokens", "text": A}), []
    jobs = [one.ask([question], False, lambda name, data: heard.append(name)) for _ in range(limits.WAITING)]
    response = client(one).post("/api/ask", json={"kind": "tokens", "text": A})
    assert response.status_code == 503
    error_of(response)
    one.close()
    for _ in range(400):
        if heard.count("cancelled") == len(jobs):
            break
        time.sleep(0.01)
    assert heard.count("cancelled") == len(jobs)
    one.cancel(one.ask([question], False, lambda *a: None).number)


def test_whoever_leaves_gives_up(monkeypatch: pytest.MonkeyPatch, model: cutaway.Model) -> None:
    begun = stuck(monkeypatch)
    one = Worker(lambda: model, "pocket")
    sock = serving.listening("127.0.0.1", 0)
    threading.Thread(target=_served, args=(one, sock), daemon=True).start()
    port = sock.getsockname()[1]
    body = json.dumps({"kind": "tokens", "text": A}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        head = f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert begun.wait(10)
        (job,) = one._jobs.values()
    assert job.gone.wait(10), "the connection closed, and the question goes on"


def _served(one: Worker, sock: socket.socket) -> None:
    import uvicorn

    uvicorn.Server(serving.configured(app.build(one, Shelf(())))).run(sockets=[sock])


def test_the_end_waits_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is in PyTorch when Python ends aborts the whole process."""
    fresh, begun, over = cutaway.load("pocket"), threading.Event(), threading.Event()
    real = Subject.prepare

    def prepare(subject: Subject, *tell: Any) -> None:
        if subject.model is not fresh:
            real(subject, *tell)
            return
        begun.set()
        while not over.is_set():
            torch.zeros(1).add(1)

    monkeypatch.setattr(Subject, "prepare", prepare)
    one = Worker(lambda: fresh, "pocket")
    one.wake()
    assert begun.wait(30)
    one.close()
    ended = not one._thread.is_alive()
    over.set()
    assert ended


def test_what_the_first_edit_waits_for_is_measured_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = cutaway.load("pocket")
    one, heard = Worker(lambda: fresh, "pocket"), []
    begun, given_up = threading.Event(), threading.Event()
    real = Subject.prepare

    def prepare(subject: Subject, *tell: Any) -> None:
        if subject.model is not fresh or begun.is_set():  # other tests' workers prepare theirs meanwhile
            return real(subject, *tell)
        begun.set()
        try:
            while True:
                torch.zeros(1).add(1)
        except Cancelled:
            given_up.set()
            raise

    monkeypatch.setattr(Subject, "prepare", prepare)
    one.wake()
    assert begun.wait(30) and not given_up.is_set()
    one.ask([parse({"kind": "tokens", "text": A})], False, lambda name, data: heard.append(name))
    assert given_up.wait(30), "a question waits for no preparation"
    for _ in range(1000):
        if one._prepared:
            break
        time.sleep(0.02)
    assert heard[-1] == "answer" and getattr(fresh, "_engine", None) is not None, "then it goes on"


def test_an_answer_is_given_up_anywhere_and_leaves_nothing_behind() -> None:
    """Between any two of PyTorch's calls: the same question gives the same answer afterwards, by the same path."""
    one = {"text": "w1|w2|w3|w4", "other": "w1|w5|w3|w4", "edit": "patch", "place": "L0H1.z"}
    questions = [parse({**one, "kind": kind}) for kind in ("edit", "lens", "attribution")]

    def asked(subject: Subject, unwanted: Any) -> list[Answer]:
        with Stoppable(unwanted):
            return [answered(subject, one, Teller()) for one in questions]

    calls = 0

    def counted() -> bool:
        nonlocal calls
        calls += 1
        return calls == stop

    stop, plain = 0, wordy.model()
    whole = [json.dumps(plain_json(one.document())) for one in asked(Subject(plain, "w"), counted)]
    every, path, logits = calls, engine(plain).path, plain.hf(torch.tensor([[1, 2, 3]])).logits
    assert "waves" in path
    for stop in np.random.default_rng(0).integers(1, every, 8).tolist():
        model, calls = wordy.model(), 0
        subject = Subject(model, "w")
        with pytest.raises(Cancelled):
            asked(subject, counted)
        assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.hf.modules())
        assert torch.equal(model.hf(torch.tensor([[1, 2, 3]])).logits, logits)
        assert [json.dumps(plain_json(one.document())) for one in asked(subject, lambda: False)] == whole, stop
        assert engine(model).path == path, stop


def given_up_while_loading(one: Worker, web: TestClient) -> list[str]:
    """The events of a question that is given up by its number as soon as the model is being loaded."""
    got: list[str] = []
    question = {"kind": "tokens", "text": A}
    asking = threading.Thread(
        target=lambda: got.extend(n for n, _ in events(web.post("/api/ask", json=question).text)), daemon=True
    )
    asking.start()
    for _ in range(3000):
        if one.state == "loading" and one._jobs:
            break
        time.sleep(0.01)
    (number,) = one._jobs
    assert web.delete(f"/api/jobs/{number}").status_code == 200
    asking.join(60)
    return got


class Held(TorchFunctionMode):
    """Waits at its `stop`th call."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop, self.calls, self.reached, self.go = stop, 0, threading.Event(), threading.Event()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self.stop:
            self.reached.set()
            self.go.wait(30)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stop", [1, 100, 1000])
def test_loading_is_given_up_with_the_last_question_and_leaves_nothing_behind(stop: int) -> None:
    """Between any two of PyTorch's calls; then a load gives the same model as ever."""
    whole = cutaway.load("pocket").hf(torch.tensor([[1, 2, 3]])).logits
    inits, held = dict(vars(torch.nn.init)), Held(stop)

    def load() -> cutaway.Model:
        with held:
            return cutaway.load("pocket")

    one = Worker(load, "pocket")
    one._prepared = True  # nothing is measured while nobody asks
    web = client(one)
    one.wake()
    assert held.reached.wait(60), held.calls
    threading.Timer(0.2, held.go.set).start()
    assert given_up_while_loading(one, web)[-1] == "cancelled" and held.calls < stop + 100
    state = web.get("/api/state").json()
    assert (state["state"], state["trouble"]) == ("asleep", "Loading was stopped.")
    assert torch.get_default_dtype() == torch.float32 and torch.empty(0).device.type == "cpu"
    assert dict(vars(torch.nn.init)) == inits
    held.stop = 0  # the next one is not held
    assert events(web.post("/api/ask", json={"kind": "tokens", "text": A}).text)[-1][0] == "answer"
    assert torch.equal(one._subject.model.hf(torch.tensor([[1, 2, 3]])).logits, whole)


def test_a_load_that_somebody_waits_for_goes_on() -> None:
    go, loads = threading.Event(), []

    def load() -> Any:
        loads.append(1)
        while not go.is_set():
            torch.zeros(1).add(1)
        raise BadInput("loaded to the end")

    one, heard = Worker(load, "slow"), []
    jobs = [one.ask([parse({"kind": "tokens", "text": A})], False, lambda *event: heard.append(event)) for _ in "abc"]
    while one.state != "loading":
        time.sleep(0.01)
    one.cancel(jobs[0].number)
    jobs[1].gone.set()  # its page has gone
    assert one.state == "loading"
    one.cancel(jobs[2].number)
    while one.state != "asleep":
        time.sleep(0.01)
    assert loads == [1]
    jobs = [one.ask([parse({"kind": "tokens", "text": A})], False, lambda *event: heard.append(event)) for _ in "ab"]
    while one.state != "loading":
        time.sleep(0.01)
    jobs[0].gone.set()
    jobs[1].gone.set()
    time.sleep(0.1)
    assert one.state == "loading", "a page that is loaded anew asks again soon"
    go.set()
    while one.state != "failed":
        time.sleep(0.01)
    assert loads == [1, 1]


def test_nothing_is_given_up_within_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_way.py").write_text("import torch\nwhole = torch.zeros(2).add(1)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with Stoppable(lambda: True):
        half_way = importlib.import_module("half_way")
        with pytest.raises(Cancelled):
            torch.zeros(1)
    assert half_way.whole.tolist() == [1, 1]


def test_an_error_that_should_not_happen_is_one_message(monkeypatch: pytest.MonkeyPatch, model: cutaway.Model) -> None:
    def broken(*given: Any) -> Answer:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(worker, "answered", broken)
    got = events(client(Worker(lambda: model, "pocket")).post("/api/ask", json={"kind": "tokens", "text": A}).text)
    assert got[-1][0] == "error" and got[-1][1]["what"] == "Unexpected ZeroDivisionError: by zero"


def test_a_model_that_cannot_be_loaded_is_said_and_tried_again() -> None:
    tries = []

    def load() -> Any:
        tries.append(1)
        raise BadInput("It is not there.")

    web = client(Worker(load, "gone"))
    for n in (1, 2):
        got = events(web.post("/api/ask", json={"kind": "tokens", "text": A}).text)
        assert got[-1] == ("error", {"what": "It is not there.", "why": "", "do": ""}) and len(tries) == n
    assert web.get("/api/state").json()["state"] == "failed"


# -- answers ----------------------------------------------------------------------------------------------------------


def ask(subject: Subject, **question: Any) -> Answer:
    return answered(subject, parse(question), Teller())


def by_hand(model: cutaway.Model, text: str, layer: int, position: int, value: torch.Tensor | None) -> torch.Tensor:
    """Logits at the end with `value` in place of what a block of the untouched model puts out; None: unedited."""

    def hook(module: Any, args: Any, out: Any) -> Any:
        stream = (out[0] if isinstance(out, tuple) else out).clone()
        stream[:, position] = value
        return (stream, *out[1:]) if isinstance(out, tuple) else stream

    ids = model.prompts(text).ids
    handle = None if value is None else model.hf.transformer.h[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model.hf(ids).logits[0, -1]
    finally:
        if handle is not None:
            handle.remove()


def test_an_edit_is_told_before_its_control_is_drawn(subject: Subject) -> None:
    heard: list[Any] = []

    class Listening(Teller):
        def __call__(self, done: int, total: int) -> None:
            heard.append((done, total))

        def early(self, answer: Answer) -> None:
            heard.append(answer)

    question = parse({"kind": "edit", "text": A, "other": B, "edit": "patch", "place": "L2.resid_post@4"})
    whole = answered(subject, question, Listening())
    early, *rest = heard
    assert isinstance(early, Answer) and rest[-1] == (2 * limits.DRAWS, 2 * limits.DRAWS)
    for what in ("before", "after", "effect", "place"):
        assert early.facts[what] == whole.facts[what]
    assert early.heading == whole.heading and (early.python, early.shell) == (whole.python, whole.shell)
    assert sum("being drawn" in one for one in early.sentences) == 2 and early.facts["p"] == {}
    assert not any("being drawn" in json.dumps(one) for one in whole.document()["sections"])
    for name, draws in whole.facts["control"].items():
        large = sum(abs(d) >= abs(whole.facts["effect"]["logit_diff"]) for d in draws["logit_diff"])
        assert whole.facts["p"][name] == (large + 1) / 21


def test_it_is_said_once_that_edits_are_measured_first_and_not_before_a_place_that_is_none() -> None:
    notes: list[str] = []

    class Noting(Teller):
        def note(self, words: str) -> None:
            assert not notes and getattr(fresh, "_engine", None) is None
            notes.append(words)

    fresh = wordy.model()
    one = Subject(fresh, "w")
    question = {"kind": "edit", "text": "w1|w2|w3", "edit": "zero"}
    with pytest.raises(BadInput, match="layer 77"):
        answered(one, parse({**question, "place": "L77.resid_pre@0"}), Noting())
    assert notes == []
    for place in ("L0.resid_pre@0", "L1.mlp_out@1"):
        answered(one, parse({**question, "place": place}), Noting())
    assert len(notes) == 1 and "once" in notes[0]
    web = client(Worker(wordy.model, "w"))
    got = events(web.post("/api/ask", json={**question, "place": "L0.resid_pre@0"}).text)
    assert [data for name, data in got if name == "note"] == [{"words": notes[0]}] and got[-1][0] == "answer"


def test_the_base_of_an_edit_is_recorded_once_and_its_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, runs = cutaway.load("pocket"), []
    fresh.hf.transformer.wte.register_forward_pre_hook(lambda module, args: runs.append(args[0].tolist()))
    Subject(fresh, "pocket").prepare()
    runs.clear()
    one = Subject(fresh, "pocket")
    ids = fresh.prompts(A).ids.tolist()
    ask(one, kind="edit", text=A, edit="zero", place="L2.mlp_out@4")
    assert [run for run in runs if run == ids] == [ids] * 3, "seen, recorded, and with the edit"
    asked = [
        {"text": text, "other": other, "edit": edit, "place": place}
        for text, other, edit, place in (
            (A, B, "zero", "L2.mlp_out@4"), (A, B, "patch", "L2.mlp_out@4"), (B, A, "patch", "L2.mlp_out@4"),
            (B, A, "patch", "L4H1.pattern@-1<-4"), (B, A, "zero", "L4H1.z"), (B, "Peru", "patch", "L2.resid_post@1"),
            (B, A, "add", "L3.resid_pre@4"), (A, B, "patch", "L0.resid_pre@4"),
        )
    ]  # fmt: skip
    found = [ask(one, kind="edit", **question).facts for question in asked]
    monkeypatch.setattr(recording, "last_base", lambda: None)
    for facts, question in zip(found, asked, strict=True):
        assert ask(Subject(fresh, "pocket"), kind="edit", **question).facts == facts, question


@pytest.mark.parametrize("edit", ["zero", "patch"])
def test_before_and_after_are_those_of_a_hook(model: cutaway.Model, subject: Subject, edit: str) -> None:
    found = ask(subject, kind="edit", text=A, other=B, edit=edit, place="L3.resid_post@4").facts
    w, lima = model.token_id(" Warsaw"), model.token_id(" Lima")
    with torch.no_grad():
        there = model.hf(model.prompts(B).ids, output_hidden_states=True).hidden_states[4][0, 4]
    value = torch.zeros_like(there) if edit == "zero" else there
    before, after = by_hand(model, A, 3, 4, None), by_hand(model, A, 3, 4, value)
    for logits, kept in ((before, found["before"]), (after, found["after"])):
        chances = logits.log_softmax(-1)
        assert kept["logit_diff"] == pytest.approx(float(logits[w] - logits[lima]), abs=2e-3)
        assert kept["log_prob"] == pytest.approx(float(chances[w]), abs=2e-3)
        assert kept["prob"] == pytest.approx(float(chances[w].exp()), abs=1e-4)
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    assert found["effect"]["kl"] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=2e-3)
    assert set(found["control"]) == {"random, same length"} | ({"another word there"} if edit == "patch" else set())
    assert all(len(draws) == limits.DRAWS for one in found["control"].values() for draws in one.values())


def test_a_grids_cells_are_those_of_a_hook(model: cutaway.Model, subject: Subject) -> None:
    found = ask(subject, kind="grid", text=A, other=B).facts
    w, lima = model.token_id(" Warsaw"), model.token_id(" Lima")
    with torch.no_grad():
        clean = model.hf(model.prompts(A).ids, output_hidden_states=True).hidden_states
    ends = [float(x[w] - x[lima]) for x in (by_hand(model, B, 0, 0, None), by_hand(model, A, 0, 0, None))]
    for layer, position in ((1, 4), (3, 5), (5, 5), (2, 2)):
        logits = by_hand(model, B, layer - 1, position, clean[layer][0, position])
        share = (float(logits[w] - logits[lima]) - ends[0]) / (ends[1] - ends[0])
        assert found["normalized"][layer][position] == pytest.approx(share, abs=1e-3)
    assert len(found["control"]) == limits.GRID_DRAWS


def weight_by_hand(
    model: cutaway.Model, text: str, layer: int, head: int, query: int, key: int, by: float
) -> torch.Tensor:
    """Logits at the end with one attention weight moved by so much: its value vector, added to the head's output."""
    attention, d = model.hf.transformer.h[layer].attn, model.d_model // model.n_heads
    values: list[torch.Tensor] = []

    def seen(module: Any, args: Any, out: torch.Tensor) -> None:
        values.append(out[..., -model.d_model :].unflatten(-1, (model.n_heads, d)))

    def moved(module: Any, args: Any) -> Any:
        z = args[0].clone()
        z[:, query, head * d : (head + 1) * d] += by * values[0][:, key, head]
        return (z, *args[1:])

    hooks = [attention.c_attn.register_forward_hook(seen), attention.c_proj.register_forward_pre_hook(moved)]
    try:
        with torch.no_grad():
            return model.hf(model.prompts(text).ids).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("edit", ["zero", "patch"])
def test_a_weight_of_a_pattern_is_moved_as_a_hook_moves_it(model: cutaway.Model, subject: Subject, edit: str) -> None:
    made = ask(subject, kind="edit", text=A, other=B, edit=edit, place="L4H1.pattern@-1<-4")
    w, lima = model.token_id(" Warsaw"), model.token_id(" Lima")
    mine, theirs = (model.trace(text)["pattern", 4][0, :, 5, 4] for text in (A, B))
    aim = 0.0 if edit == "zero" else float(theirs[1])
    by = aim - float(mine[1])
    before = by_hand(model, A, 0, 0, None)

    def change(head: int, key: int) -> float:
        after = weight_by_hand(model, A, 4, head, 5, key, by)
        return float((after[w] - after[lima]) - (before[w] - before[lima]))

    assert made.facts["effect"]["logit_diff"] == pytest.approx(change(1, 4), abs=2e-3) and abs(by) > 1e-3
    other = made.facts["control"]
    keys = [change(1, key) for key in (0, 1, 2, 3, 5)]
    heads = [change(head, 4) for head in range(model.n_heads) if head != 1]
    assert other["same weight, other token"]["logit_diff"] == pytest.approx(keys, abs=2e-3)
    assert other["same weight, other head"]["logit_diff"] == pytest.approx(heads, abs=2e-3)
    assert ("another word there" in other) == (edit == "patch")
    assert offered(made)["found"]["effect"].sel(metric="logit_diff").item() == pytest.approx(change(1, 4), abs=2e-3)


def test_a_small_gap_is_said_and_effects_are_shown_in_logits(model: cutaway.Model, subject: Subject) -> None:
    plain = ask(subject, kind="grid", text=A, other=B)
    assert "share" in plain.parts[0].caption and not any("differ by only" in one for one in plain.sentences)
    ends = [model.trace(text).logits[0, -1].double() for text in (A, B)]
    gaps, city = ends[0] - ends[1], model.token_id(" city")
    near = (gaps - gaps[city]).abs()
    near[city] = torch.inf
    foil = next(i for i in near.argsort().tolist() if model.token_text(i).strip().isalpha())
    made = ask(subject, kind="grid", text=A, other=B, answer=" city", foil=model.token_text(foil))
    assert "differ by only" in made.sentences[1] and "in logits" in made.parts[0].caption
    gap = float(near[foil])
    assert abs(made.facts["reference"] - made.facts["base"]) == pytest.approx(gap, abs=2e-3) and gap < 0.5
    assert "share" not in made.parts[0].caption


def test_a_control_is_as_long_as_the_change_and_points_elsewhere(model: cutaway.Model) -> None:
    base = model.prompts(A)
    change = torch.randn(6, 128, generator=torch.Generator().manual_seed(1)) * torch.arange(6)[:, None]
    control = same_length("resid_post", change, 3, layers=2, positions="all")
    plain = model.trace(base)["resid_post", 2][0]
    moved = []
    for operation in control.operations:
        one = cutaway.model.Model.trace(
            model, base, edits=type(control)("resid_post", (), (operation,), 2, positions="all")
        )
        delta = one["resid_post", 2][0] - plain
        assert torch.allclose(delta.norm(dim=-1), change.norm(dim=-1), atol=1e-3, rtol=1e-3)
        moved.append(delta)
    assert not torch.allclose(moved[0], moved[1]) and not torch.allclose(moved[0], change)


def test_other_words_differ_only_where_the_prompts_do(model: cutaway.Model) -> None:
    base, source = model.prompts(B, " Warsaw", " Lima"), model.prompts(A, " Warsaw", " Lima")
    made = other_words(model, base, source, 5)
    assert len(made) == 5 and len({int(one.ids[0, 4]) for one in made}) > 1
    assert all((one.ids != source.ids)[0].nonzero()[:, 0].tolist() in ([4], []) for one in made)
    assert other_words(model, base, base, 5) == [] and other_words(model, base, model.prompts("Peru"), 5) == []


def offered(made: Answer) -> dict[str, Any]:
    """What the Python that is offered leaves behind, run as it is."""
    space: dict[str, Any] = {}
    exec(compile(made.python, "offered", "exec"), space)
    return space


@pytest.fixture
def loaded(model: cutaway.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is offered loads the model that is at hand; that it loads the same one is tested by itself."""

    def load(name: str) -> cutaway.Model:
        assert name == "pocket"
        return model

    monkeypatch.setattr(cutaway, "load", load)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("edit", "place"),
    [("add", "L2.mlp_out@-1"), ("remove", "L4.resid_pre@4"), ("add", "L3H1.z@-1"), ("zero", "L3H1.z"),
     ("patch", "L3.resid_post@4"), ("patch", "L4H1.pattern@-1<-4")],
)  # fmt: skip
def test_the_python_that_is_offered_gives_the_numbers_that_are_shown(subject: Subject, edit: str, place: str) -> None:
    direction = {"toward": "Warsaw", "against": "Lima"} if edit in ("add", "remove") and ".z" not in place else {}
    made = ask(subject, kind="edit", text=A, other=B, edit=edit, place=place, scale=1.5, **direction)
    space = offered(made)
    assert set(space["draws"]) == set(made.facts["control"])
    for metric, value in made.facts["effect"].items():
        assert space["found"]["effect"].sel(metric=metric).item() == pytest.approx(value, abs=2e-3), metric
        for name, draws in made.facts["control"].items():
            again = space["draws"][name]["effect"].sel(metric=metric).values.ravel()
            assert again == pytest.approx(draws[metric], abs=2e-3), (metric, name)


def numbers(packed: str) -> np.ndarray:
    """What the page's script reads of packed numbers."""
    kind, _, data = packed.partition(":")
    return np.frombuffer(base64.b64decode(data), f"<{kind}").astype(float)


@pytest.mark.usefixtures("loaded")
def test_the_python_of_every_view_gives_the_numbers_that_are_shown(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ask(subject, kind="tokens", text=A)
    found = offered(made)["found"]
    assert dict(zip(found.token.values.tolist(), found.probability.values, strict=True)) == pytest.approx(
        made.facts["next"], rel=1e-4
    )
    made = ask(subject, kind="lens", text=A)
    found = offered(made)["found"]["probability"].isel(prompt=0)
    drawn = numbers(made.parts[0].data["probability"])  # [layer, position, rank]
    assert drawn == pytest.approx(found.transpose("layer", "position", "rank").values.ravel(), rel=1e-4)
    made = ask(subject, kind="attribution", text=A, other=B)
    assert float(offered(made)["found"].sum()) == pytest.approx(made.facts["total"], abs=2e-3)
    made = ask(subject, kind="attention", text=A)
    drawn = np.array([numbers(head["weights"]) for head in made.parts[0].data["heads"]])  # up to the diagonal
    found = offered(made)["found"].isel(prompt=0).values.reshape(len(drawn), 6, 6)
    assert drawn == pytest.approx(found[:, *np.tril_indices(6)], abs=1e-4)
    made = ask(subject, kind="compare", text=A, other=B)
    capsys.readouterr()
    offered(made)
    printed = capsys.readouterr().out
    series = [np.fromstring(one, sep=" ") for one in re.findall(r"^\[([^\]A-Za-z]+)\]", printed, re.MULTILINE)]
    assert np.array(series) == pytest.approx(np.array([made.facts["A"], made.facts["B"]]), abs=2e-3)
    for site in ("resid_pre", "z"):
        made = ask(subject, kind="grid", text=A, other=B, site=site)
        space = offered(made)
        assert space["found"]["effect"].values[0] == pytest.approx(np.array(made.facts["effect"]), abs=2e-3)
        gap = made.facts["reference"] - made.facts["base"]
        draws = space["draws"]["effect"].isel(prompt=0).transpose("draw", ...).values / gap
        assert draws == pytest.approx(np.array(made.facts["control"]), abs=2e-3)


def test_what_is_offered_loads_the_model_as_it_was_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"dtype": "bfloat16", "attn": "eager"}
    one = Subject(cutaway.load("pocket", dtype="bfloat16", attn_implementation="eager"), "pocket", options)
    made = ask(one, kind="tokens", text=A)
    space = offered(made)
    assert str(space["m"].dtype) == "torch.bfloat16" and space["m"].hf.config._attn_implementation == "eager"
    assert space["found"].probability.values[0] == pytest.approx(max(made.facts["next"].values()), rel=1e-6)
    capsys.readouterr()
    assert cli.run([*shlex.split(made.shell)[1:], "--json", "-q"]) == 0
    table = json.loads(capsys.readouterr().out)["tables"][0]
    assert table["data_vars"]["probability"]["data"][0] == pytest.approx(max(made.facts["next"].values()), rel=1e-6)


def test_the_commands_that_are_offered_run(
    subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ask(subject, kind="edit", text=A, other=B, edit="patch", place="L3H1.z")
    assert cli.run([*shlex.split(made.shell)[1:], "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["answers"][0]["facts"]
    assert found["effect"] == pytest.approx(made.facts["effect"], abs=1e-4)
    assert cli.run([*shlex.split(made.shell)[1:], "-q", "-o", str(tmp_path / "edit.html")]) == 0
    assert "before | after" in (tmp_path / "edit.html").read_text(encoding="utf-8")
    for kind in ("tokens", "lens", "attribution", "attention", "compare"):
        command = ask(subject, kind=kind, text=A, other=B).shell
        assert cli.run([*shlex.split(command)[1:], "-q"]) == 0, command
    assert cli.run(["ask", "{"]) == cli.run(["ask", '{"kind": "x", "text": "y"}']) == 2


def test_views_are_trees_and_a_report_is_one_page(web: TestClient) -> None:
    questions = [{"kind": "tokens", "text": A}, {"kind": "edit", "text": A, "edit": "zero", "place": "L2H1.z"}]
    name, data = events(web.post("/api/ask", json=questions[1]).text)[-1]
    assert name == "answer" and all(isinstance(part, list) for one in data["sections"] for part in one["parts"])
    name, data = events(web.post("/api/report", json={"questions": questions}).text)[-1]
    assert name == "answer" and data["html"].startswith("<!doctype html>") and "L2H1.z" in data["html"]
    assert "Content-Security-Policy" in data["html"] and "http://127" not in data["html"]


def test_a_second_prompt_of_other_length_is_compared_all_the_same(subject: Subject) -> None:
    made = ask(subject, kind="compare", text=A, other="Peru")
    assert "do not correspond" in made.sentences[0]
    with pytest.raises(BadInput, match="do not correspond"):
        ask(subject, kind="edit", text=A, other="Peru", edit="patch", place="L3H1.z")


def test_a_model_without_a_lens_compares_prompts_all_the_same() -> None:
    hf = build("gpt2", "sdpa")
    hf.__class__ = Skipping
    one = Subject(cutaway.Model(hf, wordy.tokenizer(wordy.words()), name="skipping"), "skipping")
    made = ask(one, kind="compare", text="w1|w2|w3", other="w1|w4|w3")
    assert "The lens is refused" in made.sentences[1] and "A" not in made.facts and made.facts["aligned"]
    with torch.no_grad():
        best = [int(hf(torch.tensor([ids])).logits[0, -1].argmax()) for ids in ([1, 2, 3], [1, 4, 3])]
    found = made.parts[1].rows
    assert [next(row[0] for row in found if row[k] == "0") for k in (1, 2)] == [f"w{i}" for i in best]
    edited = ask(one, kind="edit", text="w1|w2|w3", edit="zero", place="L0.resid_pre@1")
    assert len(edited.facts["control"]["random, same length"]["kl"]) == limits.DRAWS


# -- saved results, and starting --------------------------------------------------------------------------------------


def test_saved_results_open_without_torch(saved: Path) -> None:
    code = f"""
import sys
from starlette.testclient import TestClient
from cutaway.explorer import app
from cutaway.explorer.shelf import Shelf
from cutaway.explorer.worker import Worker
shelf = Shelf([{str(saved)!r}])
web = TestClient(app.build(Worker(lambda: 1 / 0, "none"), shelf), base_url="{HERE}")
listed = web.get("/api/state").json()["results"]
assert [one["title"] for one in listed] == ["poland", "sweep"], listed
for one in listed:
    found = web.get("/api/results/" + one["id"]).json()
    assert found["title"] and sum(len(s["parts"]) for s in found["sections"]) > 1
    page = web.get("/results/" + one["id"])
    assert page.text.startswith("<!doctype html>") and page.headers["content-security-policy"].startswith("sandbox")
assert web.get("/").status_code == 200
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_findings_under_sub_headings_are_served(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "poland"
    shutil.copytree(saved / "poland", folder)
    facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    facts["outline"] = [["First", 1], ["The rest", len(facts["findings"]) - 1]]
    (folder / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    groups = Shelf([folder]).open("0")["sections"][0]["groups"]
    assert [one["heading"] for one in groups] == ["First", "The rest"]
    assert [text for one in groups for text in (one["lead"], *one["details"])] == facts["findings"]


def test_a_shelf_says_what_is_no_result(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(BadInput, match="no result folder"):
        Shelf([tmp_path])
    shelf = Shelf([saved / "poland"])
    with pytest.raises(Refusal):
        shelf.open("1")


def test_a_taken_port_is_passed_over_and_a_port_asked_for_is_not() -> None:
    first = serving.listening("127.0.0.1", None)
    second = serving.listening("127.0.0.1", None)
    try:
        assert first.getsockname()[1] < second.getsockname()[1] < serving.PORT + serving.TRIES
        with pytest.raises(BadInput, match="--port"):
            serving.listening("127.0.0.1", first.getsockname()[1])
    finally:
        first.close()
        second.close()


def test_other_machines_only_with_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explore", "--host", "0.0.0.0", "--no-browser"]) == 2
    assert "--token" in capsys.readouterr().err
    assert serving.new_token("127.0.0.1", False) is None
    assert len(str(serving.new_token("0.0.0.0", True))) > 20


def test_the_address_is_printed_and_interrupting_ends_with_130() -> None:
    command = [sys.executable, "-m", "cutaway", "explore", "--port", "0", "--no-browser"]
    env = {**os.environ, "SSH_CONNECTION": "a b c d"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as running:
        assert running.stdout is not None and running.stderr is not None
        url = running.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        port = int(url.rstrip("/").rpartition(":")[2])
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130, err
    assert out == "" and f"ssh -L {port}:127.0.0.1:{port}" in err and "Traceback" not in err


def test_the_pages_script_makes_text_and_asks_only_its_own_server() -> None:
    for file in EXPLORER.glob("*.js"):
        code = file.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new\s+Function|DOMParser|"
            r"setTimeout\(\s*['\"`]|XMLHttpRequest|WebSocket|sendBeacon|\bimport\(", code
        ), file.name  # fmt: skip
        assert not re.search(r"https?://(?!www\.w3\.org)", code), file.name
    page = (EXPLORER / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|style=|<style|https?:", page)
