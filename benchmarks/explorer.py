"""How long one waits in the explorer: its page, views, edits, attention and stopping, in headless Chromium on loopback.

    python benchmarks/explorer.py pocket
    python benchmarks/explorer.py gpt2-small --folder build/bench --tokens 64

A model that is no bundled one has the shape of that name (shapes.py), random weights and a token a word.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shapes import SEED, SHAPES

FIRST = """() => new Promise((done) => {
    const look = () => {
        const [paint] = performance.getEntriesByName("first-contentful-paint");
        return paint ? done(paint.startTime) : setTimeout(look, 5);
    };
    look();
})"""
PAINTED = """([press, until, text]) => new Promise((done) => {
    const begun = performance.now();
    const there = () => [...document.querySelectorAll(until)].some((one) => !text || one.textContent.includes(text));
    const look = () => there() ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)))
        : requestAnimationFrame(look);
    document.querySelector(press).click();
    requestAnimationFrame(look);
})"""
"""Press something; milliseconds until what is waited for has been painted."""
EDITED = """async ([press, name]) => {
    const begun = performance.now(), section = () => document.querySelector("#changes > section");
    const until = (there) => new Promise((done) => {
        const look = () => there() ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)))
            : requestAnimationFrame(look);
        requestAnimationFrame(look);
    });
    document.querySelector(press).click();
    const early = await until(() => section()?.querySelector("h2").textContent.includes(name));
    return [early, await until(() => section().querySelectorAll("figure.spread circle").length >= 20)];
}"""
"""Press an edit; milliseconds until its before | after has been painted, and until its control has."""
FRAMES = """async (steps) => {
    const next = () => new Promise((done) => requestAnimationFrame(done)), taken = [];
    const cells = [...document.querySelectorAll("table.lens td[data-at]")];
    if (steps === "pointer") document.activeElement.blur(); else cells[0].focus();
    for (let i = 0; i < 90; i++) {
        await next();
        const begun = performance.now();
        if (steps === "pointer") {
            const box = cells[(7 * i) % cells.length].getBoundingClientRect();
            cells[(7 * i) % cells.length].dispatchEvent(new PointerEvent("pointermove",
                { bubbles: true, clientX: box.x + 5, clientY: box.y + 5 }));
        } else document.activeElement.dispatchEvent(new KeyboardEvent("keydown",
            { key: i % 30 === 29 ? "ArrowDown" : i % 60 < 30 ? "ArrowRight" : "ArrowLeft", bubbles: true }));
        await new Promise((done) => { const port = new MessageChannel(); port.port1.onmessage = done;
            requestAnimationFrame(() => port.port2.postMessage(0)); });
        taken.push(performance.now() - begun);
    }
    return taken;
}"""
"""Move through the lens; of each step the milliseconds until its frame was painted, at best one frame (16.7)."""
READING = 8
"""Seconds that someone reads after the first Look, before the first edit."""
FREED = """async (question) => {
    const begun = performance.now();
    document.getElementById("stop").click();
    const answer = await fetch("/api/ask", { method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify(question) });
    await answer.text();
    return performance.now() - begun;
}"""
"""Press Stop, then ask what has been answered before: milliseconds until the model's thread was free to answer it."""


def main() -> None:
    """Print a table of medians, and keep every time as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["pocket", *SHAPES])
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    name = "pocket" if given.model == "pocket" else str(worded(given.model, given.folder))
    texts = _texts(given.model, given.tokens)
    with served(name) as url, _chromium() as chromium:
        found = measured(chromium, url, texts, given.times)
    print(f"| {given.model}, {given.tokens} tokens, ms | median | least | most |\n|---|--:|--:|--:|")
    for what, times in found.items():
        print(f"| {what} | {statistics.median(times):.0f} | {min(times):.0f} | {max(times):.0f} |")
    if given.output:
        given.output.write_text(json.dumps(found), encoding="utf-8")


def worded(shape: str, folder: Path) -> Path:
    """The model of this shape and a tokenizer with a token for each word w0, w1, ...; made where it is missing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from weights import saved

    where = folder / f"worded-{shape}"
    if (where / "tokenizer.json").exists():
        return where
    shutil.copytree(saved(SHAPES[shape], folder), where, dirs_exist_ok=True)
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(SHAPES[shape].vocab)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(where)
    return where


def _texts(model: str, tokens: int) -> Callable[[], tuple[str, str]]:
    """Ever new pairs of prompts of so many tokens that differ in one."""
    draw = random.Random(SEED)
    vocab = 1 if model == "pocket" else SHAPES[model].vocab
    frame = "The capital of Poland is Warsaw and the capital of Peru is Lima .".split()

    def pair() -> tuple[str, str]:
        if model != "pocket":
            words = [f"w{draw.randrange(vocab)}" for _ in range(tokens)]
            return " ".join(words), " ".join([*words[: tokens // 2], "w7", *words[tokens // 2 + 1 :]])
        words = [draw.choice(frame[:-1]) for _ in range(tokens - 1)]
        return " ".join(["The", *words]), " ".join(["The", *words[:-1], "is" if words[-1] != "is" else "of"])

    return pair


@contextmanager
def served(model: str) -> Iterator[str]:
    """The explorer in a process of its own, with its model loaded."""
    command = [sys.executable, "-m", "cutaway", "explore", "--model", model, "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        try:
            for _ in range(3000):
                try:
                    with urllib.request.urlopen(f"{url}api/state", timeout=5) as answer:
                        if json.load(answer)["state"] == "ready":
                            break
                except OSError:
                    pass
                time.sleep(0.1)
            yield url
        finally:
            running.terminate()


@contextmanager
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield chromium
        finally:
            chromium.close()


def measured(chromium: Any, url: str, texts: Callable[[], tuple[str, str]], times: int) -> dict[str, list[float]]:
    """Milliseconds of everything, `times` each."""
    found: dict[str, list[float]] = {}
    for visit in range(times):
        page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(300_000)
        page.goto(url)
        paint = page.evaluate(FIRST)
        for what, taken in {"first paint": [paint], **_used(page, *texts(), first=visit == 0)}.items():
            found.setdefault(what, []).extend(taken)
        page.context.close()
        print({what: round(taken[-1]) for what, taken in found.items()}, file=sys.stderr, flush=True)
    return found


def _used(page: Any, text: str, other: str, first: bool) -> dict[str, list[float]]:
    """One visit: look at a prompt, choose, edit, patch, start a grid and stop it."""
    page.fill("#text", text)
    page.fill("#other", other)
    shown = {"tokens": ".prompt .chip", "both prompts": ".lines", "lens": "table.lens",
             "attention": ".thumb", "what wrote it": ".splitting"}  # fmt: skip
    page.evaluate(
        """(shown) => {
        window.painted = {};
        const begun = performance.now();
        const look = () => {
            for (const [name, one] of Object.entries(shown)) {
                if (name in window.painted || !document.querySelector(one)) continue;
                window.painted[name] = 0;
                requestAnimationFrame(() => setTimeout(() => { window.painted[name] = performance.now() - begun; }));
            }
            requestAnimationFrame(look);
        };
        look();
        document.querySelector("#ask button[type=submit]").click();
    }""",
        shown,
    )
    page.get_by_text("Done in").wait_for()
    page.wait_for_timeout(200)
    taken = {f"Look: {name}": [at] for name, at in page.evaluate("window.painted").items()}
    lens = "table.lens td[data-at='2 3']"
    taken["a cell of the lens pinned"] = [page.evaluate(PAINTED, [lens, ".view.lens .choice", ""])]
    taken["a head of the attention shown"] = [
        page.evaluate(PAINTED, [".thumb[data-layer='1'][data-head='1']", ".large h4", "L1H1"])
    ]
    page.evaluate(PAINTED, ["table.lens td[data-at='3 4']", ".view.lens .choice", "L3"])
    if first:
        page.wait_for_timeout(1000 * READING)
    for press, name, draws in (("#zero", "Zeroing", "20"), ("#patch", "Patching", "2 x 20")):
        early, whole = page.evaluate(EDITED, [press, name])
        what = f"{name}, the first edit after a start" if first and press == "#zero" else name
        taken[f"{what}: before | after"], taken[f"{what}: {draws} draws"] = [early], [whole]
    taken["lens by keys, a step to its frame"] = page.evaluate(FRAMES, "keys")
    taken["lens by pointer, a step to its frame"] = page.evaluate(FRAMES, "pointer")
    page.evaluate(PAINTED, ["#grid button[type=submit]", "#status", " of "])
    question = {"kind": "tokens", "text": text, "other": other}
    taken["Stop a grid: the model answers again"] = [page.evaluate(FREED, question)]
    return taken


if __name__ == "__main__":
    main()
