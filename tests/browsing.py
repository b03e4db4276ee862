"""A real browser for tests: pages are opened as a reader opens them; what they ask for or complain of is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def why_not() -> str | None:
    """What is missing for tests in a browser."""
    try:
        import axe_playwright_python
        import playwright
    except ImportError as error:
        return f"no {error.name}: pip install 'cutaway[browser]'"
    assert axe_playwright_python and playwright
    return None if CHROMIUM else "no Chromium: apt-get install chromium"


needs_browser = pytest.mark.skipif(why_not() is not None, reason=f"tests in a browser: {why_not()}")


@dataclass
class Seen:
    """What pages asked for and complained of."""

    requests: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)  # of these, what the page's policy stopped
    errors: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


@dataclass
class Browser:
    """One Chromium."""

    chromium: Any

    @contextmanager
    def page(
        self, file: Path | str, width: int = 1280, theme: str = "light", scripts: bool = True, **more: Any
    ) -> Iterator[tuple[Any, Seen]]:
        """A file opened from disk (or an address of this machine), and what it asked for."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, java_script_enabled=scripts, **more
        )
        context.set_default_timeout(5000)
        seen = Seen()
        page = context.new_page()
        page.on("request", lambda r: seen.requests.append(r.url))
        page.on("requestfailed", lambda r: seen.blocked.append(r.url) if r.failure == "csp" else None)
        page.on("pageerror", lambda e: seen.errors.append(str(e)))
        page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
        page.expose_function("violated", lambda what: seen.violations.append(what))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (e) => violated(`${e.violatedDirective} ${e.blockedURI}`))"
        )
        address = file if str(file).startswith(("http:", "file:")) else Path(file).resolve().as_uri()
        page.goto(str(address))
        try:
            yield page, seen
        finally:
            context.close()


@contextmanager
def started() -> Iterator[Browser]:
    """A Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield Browser(chromium)
        finally:
            chromium.close()


def serious(page: Any) -> list[str]:
    """What axe finds that is serious or critical: rule, element, and why."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def proved(text: str, folder: Path) -> None:
    """A report opens from disk alone, at a desk and on a phone, in light and dark; every figure answers to keys."""
    file = folder / "proved.html"
    file.write_text(text, encoding="utf-8")
    with started() as browser:
        for theme, width in (("light", 1280), ("dark", 390)):
            with browser.page(file, width, theme) as (page, seen):
                assert seen.requests == [file.as_uri()]
                assert seen.errors == [] and seen.violations == []
                assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
                found = serious(page)
                assert found == [], "\n".join(found)
                if width == 1280:
                    assert page.evaluate(WALK) == []


WALK = """() => {
    const wrong = [];
    const press = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    for (const figure of document.querySelectorAll("figure.view:not(.verbatim)")) {
        if (!figure.getClientRects().length) continue;
        const name = figure.querySelector("svg, table")?.getAttribute("aria-label") || figure.className;
        const stops = [...figure.querySelectorAll("[data-mark][tabindex='0'], svg[role=application]")]
            .filter((e) => e.getClientRects().length);
        if (stops.length < 1) { wrong.push(`${name}: no tab stop`); continue; }
        if (figure.dataset.view === "attention") continue;
        stops[0].focus();
        const tip = document.querySelector(".tip"), before = tip.textContent;
        if (tip.hidden || !before) wrong.push(`${name}: focus says nothing`);
        for (const key of ["End", "Home", "ArrowRight", "ArrowDown"]) press(document.activeElement, key);
        if (!figure.contains(document.activeElement)) wrong.push(`${name}: keys lead out`);
        press(document.activeElement, "Enter");
        if (figure.dataset.view !== "splitting" && !document.querySelector(".choice")
            && !figure.querySelector(".pinned")) wrong.push(`${name}: Enter pins nothing`);
        press(document.activeElement, "Escape");
        if (document.querySelector("[data-mark].chosen")) wrong.push(`${name}: Escape keeps it`);
        if (!window.cutaway.rows(figure).length) wrong.push(`${name}: no data to copy`);
    }
    return wrong;
}"""
"""Focus, arrows, Enter and Escape in every figure that is seen; what is wrong, in words."""
