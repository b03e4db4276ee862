"""The explorer in a real browser, end to end on the bundled model: asked, changed, patched and saved."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import cutaway
import wordy
from browsing import Browser, Seen, needs_browser, serious, started
from conftest import pair_file
from cutaway import cli

pytestmark = [pytest.mark.browser, needs_browser]
A, B = "The capital of Poland is", "The capital of Peru is"
SHOTS = os.environ.get("CUTAWAY_SCREENSHOTS")


@contextmanager
def explorer(load: Any, name: str, results: tuple[Path, ...] = (), awake: bool = True) -> Iterator[str]:
    """A running explorer's address."""
    import uvicorn

    from cutaway.explorer import app, serving
    from cutaway.explorer.shelf import Shelf
    from cutaway.explorer.worker import Worker

    worker = Worker(load, name)
    if awake:
        worker.wake()
    sock = serving.listening("127.0.0.1", 0)
    server = uvicorn.Server(serving.configured(app.build(worker, Shelf(results))))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
        worker.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = cutaway.load("pocket")
    with explorer(lambda: model, "pocket") as address:
        yield address


NARROW = """() => [...document.querySelectorAll("thead th, tbody th")]
  .filter(c => c.checkVisibility() && c.innerText.trim().length > 2 && c.clientWidth < 26).map(c => c.innerText)"""
CAPTIONS = """(width) => [...document.querySelectorAll(".scroll > table > caption")].filter((one) => {
    if (!one.checkVisibility({ contentVisibilityAuto: true })) return false;
    const frame = one.closest(".scroll");
    frame.scrollLeft = frame.scrollWidth;
    const box = one.getBoundingClientRect();
    frame.scrollLeft = 0;
    return box.left < 0 || box.right > width;
}).map((one) => one.textContent)"""
"""The captions that are not in sight once their table is scrolled to its end."""


def ask(page: Any, text: str, other: str = "") -> None:
    page.locator("#text").fill(text)
    page.locator("#other").fill(other)
    page.get_by_role("button", name="Look", exact=True).click()
    done(page)


def done(page: Any) -> None:
    page.get_by_text(re.compile(r"^Done in")).wait_for(timeout=30_000)


def quiet(seen: Seen, address: str) -> None:
    """Nothing was asked of anyone else, nothing broke, nothing tried to run."""
    assert [r for r in seen.requests if not r.startswith((address, "data:", "blob:"))] == []
    assert seen.errors == [] and seen.violations == []


def shot(page: Any, name: str, whole: bool = False) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=whole)


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_a_prompt_becomes_views_and_a_cell_a_change(browser: Browser, url: str, theme: str, width: int) -> None:
    with browser.page(url, width, theme) as (page, seen):
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        print(f"first contentful paint {theme} {width}: {paint} ms")
        ask(page, A, B)
        for heading in ("Tokens and next token", "Two prompts", "the logit lens$", "What wrote", "Where heads look"):
            assert page.get_by_role("heading", name=re.compile(heading)).is_visible(), heading
        assert "pocket is ready" in page.locator("#model").inner_text()
        page.locator("table.lens td[data-at='3 4']").first.click()
        assert page.locator("#place").input_value() == "L3.resid_post@4"
        assert page.locator("#placed").inner_text() == "layer 3, position 4 ␣Poland"
        page.locator("#patch").click()
        change = page.locator("#changes > section").first
        change.locator("figure.spread svg circle").nth(39).wait_for(timeout=30_000)
        assert "before | after" in change.locator("h2").inner_text()
        assert change.locator("figure.spread svg circle").count() == 40
        assert change.locator("tr[data-changed=yes]").count() > 0
        assert page.evaluate("document.activeElement.tagName") == "H2", "the answer is what is read next"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        found = serious(page)
        assert found == [], "\n".join(found)
        shot(page, f"explorer-{theme}-{width}")
        assert page.evaluate(CAPTIONS, width) == [], "captions go out of sight where a table is scrolled sideways"
        assert page.evaluate(NARROW) == [], "words that are broken letter by letter"
        quiet(seen, url)


def test_heads_tokens_and_terms_are_places(browser: Browser, url: str) -> None:
    with browser.page(url) as (page, seen):
        ask(page, A)
        page.locator(".thumb[data-layer='3'][data-head='1']").click()
        assert page.locator("#place").input_value() == "L3H1.z"
        page.locator("#zero").click()
        page.get_by_role("heading", name="Zeroing L3H1.z").wait_for(timeout=30_000)
        matrix = page.locator("canvas.matrix")
        side = matrix.bounding_box()["width"] / 6
        matrix.click(position={"x": 4.5 * side, "y": 5.5 * side})
        assert page.locator("#place").input_value() == "L3H1.pattern@5<-4"
        assert page.locator("#placed").inner_text() == "layer 3, head 1, position 5 ␣is, its weight on 4 ␣Poland"
        matrix.focus()
        for key in ("ArrowUp", "ArrowLeft", "ArrowLeft", "Enter"):
            page.keyboard.press(key)
        assert page.locator(".tip").inner_text().startswith("␣Poland (4) looks at ␣of (3)")
        assert page.locator("#place").input_value() == "L3H1.pattern@4<-3"
        page.locator("#zero").click()
        page.get_by_role("heading", name="Zeroing L3H1.pattern@4<-3").wait_for(timeout=30_000)
        page.get_by_role("button", name="Remove this").first.click()
        page.locator("figure.prompt .chip").nth(4).click()
        assert page.locator("#place").input_value() == "L0.resid_pre@4"
        page.locator(".splitting summary[data-layer='5']").first.click()
        assert page.locator("#place").input_value() == "L5.resid_post@-1"
        page.locator(".splitting [data-term='L5.mlp']").first.click()
        assert page.locator("#place").input_value() == "L5.mlp_out@-1"
        page.locator("#toward").fill("Lima")
        page.locator("#scale").fill("2")
        page.locator("#add").click()
        page.get_by_role("heading", name=re.compile("Adding to L5.mlp_out@-1 [+]2 lengths")).wait_for(timeout=30_000)
        assert page.locator("#changes > section").count() == 2
        page.get_by_role("button", name="Remove this").first.click()
        assert page.locator("#changes > section").count() == 1
        assert page.locator("#patch").is_disabled()
        quiet(seen, url)


def test_a_pair_is_patched_place_by_place_and_can_be_stopped(browser: Browser, url: str) -> None:
    with browser.page(url) as (page, seen):
        ask(page, A, B)
        grid = page.locator("#grid")
        grid.get_by_role("button", name="Run").click()
        grid.get_by_role("heading", name="Patching A into B: resid_pre").wait_for(timeout=30_000)
        assert grid.locator("figure.view").count() == 2
        grid.locator("figure.view").first.locator("[data-layer='1'][data-position='4']").click()
        assert page.locator("#place").input_value() == "L1.resid_pre@4" and page.locator("#which").input_value() == "B"
        page.locator("#patch").click()
        page.get_by_role("heading", name=re.compile("Patching L1.resid_pre@4 .*Poland")).wait_for(timeout=30_000)
        lens = page.locator("figure[data-view=lens][data-prompt=B]")
        assert lens.count() == 1 and "Peru" in lens.locator("table.lens thead").inner_text()
        lens.locator("td[data-at='3 4']").click()
        assert page.locator("#place").input_value() == "L3.resid_post@4" and page.locator("#which").input_value() == "B"
        quiet(seen, url)


def test_a_part_that_is_refused_keeps_no_other_back(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutaway.errors import Refused
    from cutaway.explorer import worker

    real = worker.answered

    def partly(subject: Any, question: Any, progress: Any) -> Any:
        if question.kind == "lens":
            raise Refused("The lens is not certified for this model.")
        return real(subject, question, progress)

    monkeypatch.setattr(worker, "answered", partly)
    model = cutaway.load("pocket")
    with explorer(lambda: model, "pocket") as address, browser.page(address) as (page, seen):
        page.locator("#text").fill(A)
        page.get_by_role("button", name="Look", exact=True).click()
        page.get_by_text(re.compile("The rest took")).wait_for(timeout=30_000)
        assert page.locator("#trouble").inner_text() == "The lens is not certified for this model."
        assert page.locator("table.lens").count() == 0 and page.locator(".thumb").count() == 24
        assert page.get_by_role("heading", name="What wrote the prediction").is_visible()
        quiet(seen, address)


def test_progress_is_shown_and_stopping_frees_the_worker(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from cutaway.explorer import worker

    real = worker.answered
    stopped = threading.Event()

    def slow(subject: Any, question: Any, progress: Any) -> Any:
        if question.kind != "grid":
            return real(subject, question, progress)
        try:
            for i in range(1, 2000):
                progress(i, 2000)
                time.sleep(0.01)
        except worker.Cancelled:
            stopped.set()
            raise
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(worker, "answered", slow)
    model = cutaway.load("pocket")
    with explorer(lambda: model, "pocket") as address, browser.page(address) as (page, seen):
        ask(page, A, B)
        page.locator("#grid").get_by_role("button", name="Run").click()
        page.get_by_text(re.compile(r"of 2000 cells")).wait_for()
        assert page.locator("#progress").is_visible()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.", exact=True).wait_for()
        assert stopped.wait(10) and not page.locator("#progress").is_visible()
        ask(page, B)
        quiet(seen, address)


def test_stop_gives_up_the_loading_of_the_model_too(browser: Browser) -> None:
    import torch

    model, go = cutaway.load("pocket"), threading.Event()

    def load() -> cutaway.Model:
        while not go.is_set():
            torch.zeros(1).add(1)
        return model

    with explorer(load, "pocket") as address, browser.page(address) as (page, seen):
        page.get_by_text("pocket is loading").wait_for()
        page.locator("#text").fill(A)
        page.get_by_role("button", name="Look", exact=True).click()
        page.get_by_text("Loading the model").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.", exact=True).wait_for()
        page.get_by_text("loading it was stopped").wait_for()
        go.set()
        ask(page, A)
        page.locator("#model", has_text="pocket is ready").wait_for()
        quiet(seen, address)


def test_a_change_is_shown_before_its_control_which_can_be_stopped(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from cutaway.explorer import changing

    real, hold = changing.sweeps, threading.Event()

    def slow(model: Any, base: Any, edits: Any, metric: Any, tell: Any) -> Any:
        while "" not in edits and not hold.is_set():
            torch.zeros(1).add(1)
        return real(model, base, edits, metric, tell)

    monkeypatch.setattr(changing, "sweeps", slow)
    model = cutaway.load("pocket")
    with explorer(lambda: model, "pocket") as address, browser.page(address) as (page, seen):
        ask(page, A, B)
        page.locator("table.lens td[data-at='3 4']").first.click()
        page.locator("#patch").click()
        change = page.locator("#changes > section").first
        change.get_by_text("being drawn …").first.wait_for(timeout=30_000)
        assert (
            change.locator("tr[data-changed=yes]").count() > 0 and change.locator("figure.spread circle").count() == 0
        )
        assert (
            "takes logit(␣Warsaw)" in change.inner_text()
            and "Drawing the control" in page.locator("#status").inner_text()
        )
        assert serious(page) == []
        shot(page, "explorer-early")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.", exact=True).wait_for()
        assert "being drawn" not in change.inner_text() and change.get_by_text("not drawn, it was stopped").count() > 0
        page.locator("#zero").click()
        new = page.locator("#changes > section").first
        new.get_by_role("heading", name="Zeroing L3.resid_post@4").wait_for(timeout=30_000)
        hold.set()
        new.locator("figure.spread circle").nth(19).wait_for(timeout=30_000)
        assert (
            "being drawn" not in new.inner_text() and "Against the control: p =" in page.locator("#status").inner_text()
        )
        assert page.evaluate("document.activeElement.textContent").startswith("Zeroing L3.resid_post@4"), "still read"
        assert page.locator("#changes > section").count() == 2 and not page.locator("#stop").is_visible()
        new.locator("figure.spread [data-mark]").first.click()
        assert new.locator(".pinned").count() == 1, "what came later answers too"
        quiet(seen, address)


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until the focus is on (or in) this; fails where no number of presses leads there."""
    for _ in range(400):
        page.keyboard.press("Tab")
        if page.evaluate("(one) => document.activeElement.closest(one) !== null", selector):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_everything_by_keys_alone(browser: Browser, url: str, tmp_path: Path) -> None:
    with browser.page(url) as (page, seen):
        for field, words in (("#text", A), ("#other", B)):
            tab_to(page, field)
            page.keyboard.type(words)
        page.keyboard.press("Enter")
        done(page)
        tab_to(page, "#contents")
        names = page.locator("#contents button").all_inner_texts()
        assert names == ["Tokens", "A | B", "Grid", "Lens", "Lens of B", "Heads", "Contributions"]
        headings = page.locator("#answers > section > h2").all_inner_texts()
        for _ in range(3):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.textContent") == headings[3] == "Layer by layer: the logit lens"
        page.keyboard.press("Shift+Tab")
        page.wait_for_function("document.activeElement.textContent === 'Run'")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Patching A into B: resid_pre").wait_for(timeout=30_000)
        assert page.evaluate("document.activeElement.textContent") == "Patching A into B: resid_pre"
        tab_to(page, "table.lens")
        for key in ("ArrowDown", "ArrowRight", "Enter"):
            page.keyboard.press(key)
        assert page.locator("#place").input_value() == "L1.resid_post@1"
        assert page.evaluate("document.activeElement.matches('table.lens td')"), "focus stays where it was"
        tab_to(page, "#patch")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Patching L1.resid_post@1").wait_for(timeout=30_000)
        assert "Patching L1.resid_post@1" in page.locator("#status").inner_text(), "said by the live region"
        page.get_by_role("button", name="Back to the place").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.matches('table.lens td')")
        tab_to(page, ".thumb")
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert page.locator("#place").input_value() == "L5H3.z"
        tab_to(page, "canvas.matrix")
        for key in ("ArrowLeft", "Enter"):
            page.keyboard.press(key)
        assert page.locator("#place").input_value() == "L5H3.pattern@1<-0", "from the token that was pinned in the lens"
        tab_to(page, "#zero")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Zeroing L5H3.pattern@1<-0").wait_for(timeout=30_000)
        tab_to(page, "#place")
        page.keyboard.press("Control+A")
        page.keyboard.type("L5.mlp_out@-1")
        tab_to(page, "#toward")
        page.keyboard.type("Lima")
        tab_to(page, "#remove")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Removing from L5.mlp_out@-1").wait_for(timeout=30_000)
        tab_to(page, "#save")
        with page.expect_download() as got:
            page.keyboard.press("Enter")
        got.value.save_as(tmp_path / "explored.html")
        said = (tmp_path / "explored.html").read_text(encoding="utf-8")
        assert said.count(": before | after</h2>") == 3
        quiet(seen, url)


def test_a_change_waits_for_what_is_being_looked_at(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit asked for while views still come takes none of them away, and is made on the prompts that are shown."""
    from cutaway.explorer import worker

    real, hold = worker.answered, threading.Event()

    def held(subject: Any, question: Any, progress: Any) -> Any:
        if question.kind == "attention":
            assert hold.wait(20)
        return real(subject, question, progress)

    monkeypatch.setattr(worker, "answered", held)
    model = cutaway.load("pocket")
    with explorer(lambda: model, "pocket") as address, browser.page(address) as (page, seen):
        page.locator("#text").fill(A)
        page.get_by_role("button", name="Look", exact=True).click()
        page.locator("table.lens td[data-at='3 4']").click(timeout=30_000)
        page.locator("#text").fill("Something else")
        page.locator("#zero").click()
        hold.set()
        page.get_by_role("heading", name="Zeroing L3.resid_post@4").wait_for(timeout=30_000)
        assert page.locator(".thumb").count() == 24 and page.locator("figure.splitting").count() == 2
        assert page.locator("#changes").get_by_text("logit(␣Warsaw)").count() > 0
        assert not page.locator("#stop").is_visible()
        quiet(seen, address)


def test_an_address_brings_back_what_was_asked(browser: Browser, url: str) -> None:
    with browser.page(url) as (page, _):
        ask(page, A, B)
        page.locator("table.lens td[data-at='2 3']").first.click()
        kept = page.url
        assert "a=The" in kept and "layer=2" in kept
    with browser.page(kept) as (page, seen):
        done(page)
        assert page.locator("#text").input_value() == A and page.locator("#other").input_value() == B
        quiet(seen, url)


def test_a_report_is_saved_and_stands_alone(browser: Browser, url: str, tmp_path: Path) -> None:
    with browser.page(url) as (page, seen):
        ask(page, A)
        page.locator("table.lens td[data-at='3 4']").first.click()
        page.locator("#zero").click()
        page.locator("#changes > section").wait_for(timeout=30_000)
        with page.expect_download() as got:
            page.get_by_role("button", name="Save as a report").click()
        got.value.save_as(tmp_path / "explored.html")
        quiet(seen, url)
    with browser.page(tmp_path / "explored.html") as (page, seen):
        assert page.locator("h2", has_text="before | after").count() == 1
        assert page.locator("table.lens td[data-at]").count() == 36
        assert seen.requests == [(tmp_path / "explored.html").as_uri()]
        assert seen.errors == [] and seen.violations == []


def test_python_and_command_line_are_copied(browser: Browser, url: str) -> None:
    with browser.page(url, permissions=["clipboard-read", "clipboard-write"]) as (page, _):
        ask(page, A)
        page.get_by_role("button", name="Copy command line").first.click()
        page.get_by_text("Copied.", exact=True).wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == f"cutaway top -p '{A}'"
        page.get_by_role("button", name="Copy all Python").click()
        page.locator("#status", has_text="Copied.").wait_for()
        copied, space = page.evaluate("navigator.clipboard.readText()"), {}
        assert copied.count("cutaway.load(") == 1
        page.locator(".ways summary").nth(1).click()
        assert page.locator(".ways pre").nth(2).is_visible()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "a long line makes the page wide"
        exec(compile(copied, "copied", "exec"), space)  # its last answer is what is shown last
        shown = re.search(r"= ([-+][\d.]+) logits", page.locator("figure.splitting .heading").first.inner_text())
        assert shown and float(shown[1]) == pytest.approx(float(space["found"].sum()), rel=5e-3)


def test_a_bad_question_is_one_message_beside_the_form(browser: Browser, url: str) -> None:
    with browser.page(url) as (page, seen):
        page.get_by_role("button", name="Look", exact=True).click()
        page.locator("#trouble", has_text="There is no prompt.").wait_for()
        page.locator("#text").fill(A)
        page.locator("#answer").fill("no such single token")
        page.get_by_role("button", name="Look", exact=True).click()
        page.locator("#trouble", has_text="no such single token").wait_for()
        assert "An id is written #11." in page.locator("#trouble").inner_text()
        assert page.locator("#trouble strong").inner_text().endswith("would mislead.")
        page.locator("#answer").fill("")
        ask(page, A)
        assert not page.locator("#trouble").is_visible()
        page.get_by_role("button", name="Change a place").click()
        page.locator("#place").fill("L77.resid_pre@0")
        page.locator("#zero").click()
        page.locator("#trouble").wait_for()
        assert "77" in page.locator("#trouble").inner_text()
        page.locator(".splitting summary[data-layer='5']").first.click()  # at the foot of a long page
        page.locator("#place").fill("L78.resid_pre@0")
        page.locator("#zero").click()
        page.locator("#trouble", has_text="78").wait_for()
        box = page.locator("#trouble").evaluate("(one) => one.getBoundingClientRect().toJSON()")
        assert page.evaluate("scrollY") > 1000 and 0 <= box["top"] < box["bottom"] <= 900, (
            "the message is seen where one reads"
        )
        assert serious(page) == []
        quiet(seen, url)


def test_what_cannot_be_had_is_said_where_it_would_be(browser: Browser, url: str) -> None:
    import torch

    with browser.page(url) as (page, seen):
        ask(page, A, "The capital of the old Peru is")
        grid = page.locator("#grid")
        assert grid.get_by_role("button", name="Run").is_disabled() and "differ in length" in grid.inner_text()
        page.locator("table.lens td[data-at='3 4']").first.click()
        page.locator("#patch").click()  # one position of the stream has a value in both
        page.get_by_role("heading", name="Patching L3.resid_post@4").wait_for(timeout=30_000)
        page.locator("#place").fill("L3H1.z")
        page.locator("#patch").click()
        page.locator("#trouble", has_text="do not correspond").wait_for(timeout=30_000)
        ask(page, A, B)
        assert grid.get_by_role("button", name="Run").is_enabled()
        page.locator("#swap").click()
        page.locator("figure[data-view=lens]").first.get_by_text("Peru").first.wait_for(timeout=30_000)
        done(page)
        assert page.locator("#text").input_value() == B and page.locator("#other").input_value() == A
        assert page.locator("#intro").is_hidden()
        quiet(seen, url)
    broken = cutaway.load("pocket")
    with torch.no_grad():
        broken.hf.transformer.h[3].mlp.c_proj.weight[0, 0] = torch.nan
    with explorer(lambda: broken, "broken") as address, browser.page(address) as (page, seen):
        page.locator("#text").fill(A)
        page.get_by_role("button", name="Look", exact=True).click()
        page.locator("#trouble", has_text="NaN first appears in L3.mlp_out at position 0").wait_for(timeout=30_000)
        assert page.locator("#answers > section").count() == 0 and serious(page) == []
        quiet(seen, address)


def test_hostile_tokens_are_visible_and_do_not_run(browser: Browser) -> None:
    nasty = wordy.model(nasty=True, bos="<s>")
    with explorer(lambda: nasty, "</script><b>") as address, browser.page(address) as (page, seen):
        page.on("dialog", lambda d: pytest.fail("a token ran"))
        some = [t for t in wordy.NASTY if len(t) < 100 and t != "\x00"]
        page.goto(f"{address}#a={'x' * 3}")
        text, other = "|".join(some), "|".join([*some[:-1], some[0]])
        page.evaluate(
            "([a, b]) => { document.getElementById('text').value = a; document.getElementById('other').value = b; }",
            [text, other],
        )
        page.get_by_role("button", name="Look", exact=True).click()
        page.get_by_text(re.compile(r"^(Done in|Stopped)")).or_(page.locator("#trouble:visible")).first.wait_for(
            timeout=30_000
        )
        assert not page.locator("#trouble").is_visible(), page.locator("#trouble").inner_text()
        chips = page.locator("figure.prompt").first.locator(".chip").all_inner_texts()
        assert all(chips) and "<b>" in chips and "&nbsp;" in chips and "⟨U+202E⟩abc" in chips
        page.locator("figure.prompt .chip").nth(1).click()
        page.locator("#zero").click()
        page.locator("#changes > section").wait_for(timeout=30_000)
        assert page.locator("main img, main iframe, main b, main script").count() == 0
        quiet(seen, address)


def test_saved_results_open_without_a_model(browser: Browser, tmp_path: Path) -> None:
    pairs = pair_file(tmp_path)
    assert cli.run(["study", "attribution", "-p", A, "--answer", " Warsaw", "-q", "-o", str(tmp_path / "poland")]) == 0
    assert cli.run(["patch", "--pairs", str(pairs), "--site", "z", "-q", "-o", str(tmp_path / "sweep")]) == 0
    study = json.loads((tmp_path / "poland" / "result.json").read_text(encoding="utf-8"))
    study["outline"] = [["First", 2], ["The rest", len(study["findings"]) - 2]]
    (tmp_path / "poland" / "result.json").write_text(json.dumps(study), encoding="utf-8")

    def load() -> Any:
        raise AssertionError("a saved result needs no model")

    with explorer(load, "none", (tmp_path,), awake=False) as address, browser.page(address) as (page, seen):
        page.get_by_role("button", name="poland").click()
        page.get_by_text("No model was needed").wait_for()
        assert page.locator("table.lens").count() == 1 and page.locator("figure.attention .thumb").count() == 24
        assert "result=0" in page.url
        assert page.get_by_role("heading", name="The rest").is_visible()
        page.locator("details.more > summary").first.click()
        said = [" ".join(one.split()) for one in page.locator("#answers p").all_inner_texts()]
        assert study["findings"][0] in said and study["findings"][1] in said
        page.get_by_role("button", name="sweep").click()
        page.locator("figure.view [data-layer='3'][data-head='1']").first.wait_for()
        assert page.locator("button[data-result][aria-pressed=true]").inner_text() == "sweep"
        assert serious(page) == []
        assert "is loaded when you first ask" in page.locator("#model").inner_text()
        quiet(seen, address)
    with (
        explorer(load, "none", (tmp_path,), awake=False) as address,
        browser.page(f"{address}results/0") as (page, seen),
    ):
        assert page.locator("table.lens").count() == 1 and seen.errors == [] and seen.violations == []
