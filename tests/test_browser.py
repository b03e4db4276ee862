"""Pages in a real browser: what a reader sees, points at, reaches with keys, copies and prints; and what cannot run."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import cutaway
import wordy
from browsing import Browser, needs_browser, serious, started
from cutaway import views
from cutaway.report.page import Section, Table, render
from cutaway.report.shared import study_page
from cutaway.studies.study import Study
from cutaway.views import Readings, lens_grid, node
from whole import agree, is_whole, pictures

pytestmark = [pytest.mark.browser, needs_browser]
HERE = Path(__file__).parent
SHOTS = os.environ.get("CUTAWAY_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def model() -> cutaway.Model:
    return cutaway.load("pocket")


@pytest.fixture(scope="module")
def attribution(model: cutaway.Model) -> Study:
    from cutaway.studies.attribution import Settings, run

    return run(
        model, Settings(("The capital of Poland is", "The capital of Peru is"), (" Warsaw", " Lima"), (" Berlin",))
    )


@pytest.fixture(scope="module")
def ioi(model: cutaway.Model) -> Study:
    from cutaway.studies.ioi import Settings, run

    return run(model, Settings(families=4, top=3, rows=2))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, attribution: Study, ioi: Study) -> dict[str, Path]:
    """Every kind of page, made of real results, as files."""
    from cutaway.studies.attribution import Settings, run

    nasty = wordy.model(nasty=True, bos="<s>")
    done = run(nasty, Settings(("|".join(wordy.NASTY),), (wordy.NASTY[1],), (wordy.NASTY[2],)))
    texts = {"attribution": study_page(attribution), "ioi": study_page(ioi), "nasty": study_page(done), "made": made()}
    folder = tmp_path_factory.mktemp("pages")
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    return {name: folder / f"{name}.html" for name in texts}


def made() -> str:
    """A page of views at the sizes they must bear: 12 layers x 64 tokens, 512 tokens of attention, and a comparison."""
    n = 512
    weights = np.random.default_rng(0).random((4, n, n)) * np.tri(n)
    weights /= weights.sum(-1, keepdims=True)
    places = [{"layer": i // 2, "head": i % 2} for i in range(4)]
    large = views.attention(
        weights, [f"L{i // 2}H{i % 2}" for i in range(4)], [f"t{i}" for i in range(n)], "Large", "Large.", places
    )
    deep = lens_grid(deep_readings(40, 64), "A deep lens.", "In words.", {"prompt": "deep"})
    rows = [[f"r{i}", f"{i}", f"{i if i % 3 else i + 1}"] for i in range(20)]
    table = Table(
        "Before and after.", ["row", "before", "after"], rows, ["row"], changed=[not i % 3 for i in range(20)]
    )
    return render("Sizes", "Views at the sizes they must bear", [Section("All", parts=[large, deep, table])], {})


def deep_readings(layers: int, tokens: int) -> Readings:
    random = np.random.default_rng(1)
    choices = [
        [[(f"w{(k + p + r) % 50}", 0.5 / (r + 1)) for r in range(5)] for p in range(tokens)] for k in range(layers)
    ]
    grid = random.random((layers, tokens))
    return Readings(
        [f"w{p}" for p in range(tokens)], range(layers), choices, grid, grid, ["w1"] * tokens, np.rint(99 * grid), grid
    )


def test_every_picture_is_whole(attribution: Study, ioi: Study) -> None:
    is_whole(attribution)
    is_whole(ioi)
    own = [one for one in pictures(ioi) if "Settings(" not in one.code]
    assert len(own) > 5
    agree(own[0].code, own[0])


NAMES = ("attribution", "ioi", "nasty", "made")


def test_pages_are_small_enough_to_send(pages: dict) -> None:
    assert all(pages[name].stat().st_size < 2_000_000 for name in ("attribution", "ioi"))


# -- nothing runs, nothing is fetched, nothing is broken --------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_a_page_opens_from_disk_alone(browser: Browser, pages: dict, name: str, theme: str, width: int) -> None:
    with browser.page(pages[name], width, theme) as (page, seen):
        assert seen.requests == [pages[name].as_uri()]
        assert seen.errors == [] and seen.violations == []
        assert page.evaluate("document.documentElement.classList.contains('scripted')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        assert page.evaluate("[...document.querySelectorAll('figure.view')].every((f) => f.dataset.live !== undefined)")
        found = serious(page)
        assert found == [], "\n".join(found)


def test_hostile_tokens_are_visible_and_do_not_run(browser: Browser, pages: dict) -> None:
    with browser.page(pages["nasty"]) as (page, seen):
        page.on("dialog", lambda d: pytest.fail("a token ran"))
        text = page.locator("table.lens").inner_text()
        for token in ("</scr", "<b>", "&nbsp;", r"$\frac$", "]]>", "⟨U+202E⟩abc", "⟨U+200B⟩", "漢字", "␣"):
            assert token in text, token
        assert page.locator("img, iframe, b").count() == 0
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        for cell in page.locator("table.lens td[data-at]").all()[:12]:
            cell.click()
        chips = page.locator(".chip").all_inner_texts()
        assert len(chips) == len(wordy.NASTY) and all(chips) and "<b>" in chips
        assert seen.errors == [] and seen.violations == []


def test_the_policy_holds_where_escaping_fails(browser: Browser, pages: dict, tmp_path: Path) -> None:
    bad = "<script>window.hit = 1</script><img src='https://example.org/x.png'><img src='x' onerror='window.hit = 2'>"
    bad += "<p style='position:fixed' onclick='window.hit = 3' id='bad'>press</p><base href='https://example.org/'>"
    file = tmp_path / "broken.html"
    file.write_text(
        pages["attribution"].read_text(encoding="utf-8").replace("<main>", f"<main>{bad}"), encoding="utf-8"
    )
    with browser.page(file) as (page, seen):
        page.locator("#bad").click()
        assert page.evaluate("window.hit") is None
        assert set(seen.requests) - set(seen.blocked) == {file.as_uri()}
        broken = {v.split()[0] for v in seen.violations}
        assert {"script-src-elem", "script-src-attr", "img-src", "style-src-attr", "base-uri"} <= broken
        assert page.locator("figure.view .tools").count() > 3, "the page's own script still runs"


def test_without_scripts_everything_can_be_read(browser: Browser, pages: dict) -> None:
    with browser.page(pages["attribution"], scripts=False) as (page, _):
        figures = page.locator("figure.view")
        assert figures.count() > 8
        assert page.locator("figure.attention svg").first.is_visible()
        assert page.locator("table.lens td[title]").first.get_attribute("title").startswith("L0, position 0")
        term = page.locator(".splitting .rows > details").first
        inner = term.locator("> details > summary").first
        assert not inner.is_visible()
        term.locator("> summary").click()
        assert inner.is_visible()
        twin = page.locator("details.twin:has(table)").first  # others hold the Python of a figure
        twin.locator("> summary").click()
        assert twin.locator("table").is_visible()


def test_a_tree_becomes_the_elements_that_the_markup_becomes(browser: Browser, pages: dict) -> None:
    views_of = [
        views.waterfall([("</script>", 1.0), ("<b>", -2.0)], -1.0, "t & t"),
        views.lines({"<s>": [0.0, 0.5]}, ["L0", "L1"], "t", "u"),
        Table("c", ["a", "b"], [["<i>", "1"], ["x", "2"]], ["a"]).element(),
        views.Picture(
            views.lines({"a": [1.0]}, ["L0"], "t", "u"), "c", "w", data={"x": "<\"'&>"}, kind="none"
        ).element(),
    ]
    with browser.page(pages["attribution"]) as (page, _):
        for one in views_of:
            same = page.evaluate(
                "([tree, markup]) => { const b = new DOMParser().parseFromString(markup, 'text/html').body.firstChild;"
                "const a = cutaway.build(tree); a.normalize();"
                "return a.isEqualNode(b) || [a.outerHTML, b.outerHTML]; }",
                [strip(one.tree()), str(one).replace(' xmlns="http://www.w3.org/2000/svg"', "")],
            )
            assert same is True, same
        tried = "(t) => { try { cutaway.build(t); return 'built'; } catch (e) { return e.message; } }"
        for tree in (["script", {}, "1"], ["p", {"onclick": "x"}], ["p", {"style": "x"}], ["rect", {"href": "x"}]):
            assert page.evaluate(tried, tree).startswith("views have no")


def strip(tree: Any) -> Any:
    if isinstance(tree, str):
        return tree
    return [tree[0], {k: v for k, v in tree[1].items() if k != "xmlns"}, *map(strip, tree[2:])]


# -- pointing, keys, pinning ------------------------------------------------------------------------------------------


def test_focus_says_what_the_pointer_says_and_each_view_is_one_tab_stop(browser: Browser, pages: dict) -> None:
    with browser.page(pages["ioi"]) as (page, _):
        figures = page.locator("figure.view").all()
        checked = 0
        for figure in figures:
            marks = figure.locator("[data-mark]")
            if not marks.count():
                continue
            stops = figure.locator("[data-mark][tabindex='0']").count()
            assert stops == 1, figure.get_attribute("class")
            for mark in [marks.nth(i) for i in range(0, marks.count(), max(1, marks.count() // 3))]:
                if figure.get_attribute("data-view") == "attention" or not mark.is_visible():
                    continue
                mark.scroll_into_view_if_needed()
                mark.dispatch_event("pointermove", {"bubbles": True})
                pointed = page.locator(".tip").inner_text()
                mark.dispatch_event("pointermove", {"bubbles": True})
                page.locator("h1").dispatch_event("pointermove", {"bubbles": True})
                assert not page.locator(".tip").is_visible()
                mark.evaluate("(m) => m.focus()")
                assert page.locator(".tip").inner_text() == pointed != ""
                assert page.locator(".spoken").first.text_content() == mark.get_attribute("data-told")
                checked += 1
        assert checked > 20


def test_a_walk_by_keys_through_the_lens(browser: Browser, pages: dict, attribution: Study) -> None:
    lens = attribution.arrays["lens"].isel(prompt=0)
    with browser.page(pages["attribution"]) as (page, _):
        page.locator("figure.lens td[data-at='0 0']").first.focus()
        at = lambda: page.evaluate("document.activeElement.dataset.at")  # noqa: E731
        walk = [("ArrowDown", "1 0"), ("ArrowRight", "1 1"), ("End", "1 5"), ("Control+End", "5 5"), ("Home", "5 0")]
        walk += [("ArrowUp", "4 0"), ("Control+Home", "0 0"), ("ArrowLeft", "0 0")]
        for key, where in walk:
            page.keyboard.press(key)
            assert at() == where, key
        page.keyboard.press("Control+End")
        page.keyboard.press("Enter")
        panel = page.locator("figure.lens .panel").first
        assert panel.is_visible()
        names = panel.locator("tbody button").all_inner_texts()
        assert names == [views.lens.label(str(t), 40) for t in lens["token"].values[5, 5]]
        assert page.locator(".choice").first.inner_text().startswith("Pinned")
        assert "#layer=5&position=5" in page.url
        panel.locator("tbody button").nth(1).press("Enter")
        assert panel.locator("tbody button").nth(1).get_attribute("aria-pressed") == "true"
        assert names[1].strip()[:8] in panel.locator("svg").text_content()
        height = lambda: float(panel.locator("polyline").first.get_attribute("points").split()[0].split(",")[1])  # noqa: E731
        before = height()
        panel.get_by_label("logarithmic").check()
        assert height() < before, "a small probability stands higher on a logarithmic scale"
        page.keyboard.press("Escape")
        assert not panel.is_visible() and page.locator(".chosen").count() == 0


def test_the_lens_is_coloured_by_what_is_asked(browser: Browser, pages: dict, attribution: Study) -> None:
    lens = attribution.arrays["lens"].isel(prompt=0)
    with browser.page(pages["attribution"]) as (page, _):
        figure = page.locator("figure.lens").first
        cell = figure.locator("td[data-at='2 1']")
        select = figure.locator("select").first
        select.select_option("entropy")
        assert float(cell.locator(".value").inner_text()) == pytest.approx(float(lens["entropy"][2, 1]), rel=5e-3)
        share = float(lens["entropy"][2, 1] / lens["entropy"].max())
        assert f"p{round(10 * share)}" in cell.get_attribute("class").split()
        select.select_option("rank")
        assert cell.locator(".value").inner_text() == f"#{int(lens['next_token_rank'][2, 1])}"
        select.select_option("kl")
        assert float(cell.locator(".value").inner_text()) == pytest.approx(float(lens["kl"][2, 1]), rel=5e-3)
        select.select_option("p0")
        assert "Warsaw" in figure.locator(".shades").inner_text()


def test_a_deep_lens_leaves_layers_out_and_keeps_the_last(browser: Browser, pages: dict) -> None:
    with browser.page(pages["made"]) as (page, _):
        rows = page.locator("figure.lens tbody tr:visible")
        assert rows.count() == 20 and rows.last.locator("th").inner_text() == "L39"
        page.locator("figure.lens select").nth(1).select_option("1")
        assert page.locator("figure.lens table.lens tbody tr:visible").count() == 40


def test_what_is_chosen_is_chosen_everywhere(browser: Browser, pages: dict, ioi: Study) -> None:
    with browser.page(pages["ioi"]) as (page, _):
        cell = page.locator("svg [data-layer='2'][data-head='1']").first
        cell.click(force=True)
        assert page.locator("figure.attention h4").first.inner_text() == "L2H1"
        chosen = page.locator("svg [data-mark].chosen")
        assert chosen.count() > 6
        for one in chosen.all():
            told = one.get_attribute("data-told")
            assert "L2" in told and ("H1" in told or "H" not in told.split(":")[0]), told
        page.locator(".choice button", has_text="Where they look").first.click()
        assert page.evaluate("document.activeElement.closest('figure')?.dataset.view") == "attention"
        page.keyboard.press("Escape")
        assert page.locator("[data-mark].chosen").count() == 0


def test_a_place_in_the_address_is_chosen_on_opening(browser: Browser, pages: dict) -> None:
    with browser.page(pages["ioi"].as_uri() + "#layer=1&head=2") as (page, _):
        assert page.locator("figure.attention h4").first.inner_text() == "L1H2"


# -- sums that open ---------------------------------------------------------------------------------------------------


def test_a_sum_opens_down_to_source_tokens_and_adds_up(browser: Browser, pages: dict, attribution: Study) -> None:
    with browser.page(pages["attribution"]) as (page, _):
        figure = page.locator("figure.splitting").first
        figure.locator("details").evaluate_all("(all) => all.forEach((d) => { d.open = true; })")
        facts = figure.evaluate(
            """(f) => [...f.querySelectorAll("div.splitting details")].map((d) => { const row = (r) => { const b = r.querySelector("line"), x = (n) => 10 * parseFloat(b.getAttribute(n));
            return [r.querySelector(".number").textContent, x("x1"), x("x2")]; };
            return [row(d.querySelector(":scope > summary")), [...d.children].slice(1).map((c) => row(c.tagName === "DETAILS" ? c.querySelector("summary") : c))]; })"""  # noqa: E501
        )
        assert len(facts) > 30
        for whole, parts in facts:
            assert float(whole[0]) == pytest.approx(sum(float(p[0]) for p in parts), abs=0.02)
            assert whole[1] == pytest.approx(parts[0][1], abs=2), "it begins where its first part begins"
            assert all(a[2] == pytest.approx(b[1], abs=4) for a, b in pairwise(parts))
        sources = figure.locator(".term", has_text="Poland")
        assert sources.count() > 4
        total = float(attribution.arrays["by_layer"].values[0].sum())
        assert float(figure.locator(".sum .number").inner_text()) == pytest.approx(total, abs=0.05)


def test_the_sum_by_keys(browser: Browser, pages: dict) -> None:
    with browser.page(pages["attribution"]) as (page, _):
        page.locator("figure.splitting summary").nth(0).focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.parentElement.open")
        page.keyboard.press("ArrowDown")
        assert "attn" in page.evaluate("document.activeElement.textContent")
        page.keyboard.press("ArrowLeft")
        assert "L0" in page.evaluate("document.activeElement.textContent")
        page.keyboard.press("ArrowLeft")
        assert not page.evaluate("document.activeElement.parentElement.open")


# -- attention --------------------------------------------------------------------------------------------------------


def test_attention_says_the_weights_of_the_run(browser: Browser, pages: dict, attribution: Study) -> None:
    weights = attribution.arrays["patterns"].isel(prompt=0)
    with browser.page(pages["attribution"]) as (page, _):
        figure = page.locator("figure.attention").first
        thumb = figure.locator(".thumb[data-layer='3'][data-head='2']")
        thumb.click()
        row = weights.sel(layer=3, head=2).values[4]
        figure.locator(".chip").nth(4).hover()
        told = figure.locator(".read").inner_text()
        best = int(row.argmax())
        assert f"({best}) {row[best]:.2f}" in told and "(position 4)" in told
        figure.locator("select").nth(1).select_option("yes")
        figure.locator(".chip").nth(0).hover()
        column = weights.sel(layer=3, head=2).values[:, 0]
        assert f"({int(column.argmax())}) {column.max():.2f}" in figure.locator(".read").inner_text()
        figure.locator("canvas.matrix").focus()
        page.keyboard.press("Home")
        assert f"{weights.sel(layer=3, head=2).values[5, 0]:.3f}" in page.locator(".tip").inner_text()


def test_heads_are_sorted_by_what_is_asked(browser: Browser, pages: dict, ioi: Study) -> None:
    effect = ioi.arrays["patch_z"]["effect"].transpose("layer", "head").values
    layer, head = np.unravel_index(int(effect.argmax()), effect.shape)
    with browser.page(pages["ioi"]) as (page, _):
        figure = page.locator("figure.attention").first
        figure.locator("select").first.select_option("effect of its output")
        assert figure.locator(".thumb").first.get_attribute("data-told") == f"L{layer}H{head}"


def test_512_tokens_of_attention_answer(browser: Browser, pages: dict) -> None:
    with browser.page(pages["made"]) as (page, seen):
        figure = page.locator("figure.attention").first
        assert figure.locator(".chip").count() == 512
        canvas = figure.locator("canvas.matrix")
        assert canvas.evaluate("(c) => c.width") == 512
        canvas.hover(position={"x": 10, "y": 200})
        assert re.search(r"t\d+ \(\d+\) looks at t\d+ \(\d+\): 0\.\d+", page.locator(".tip").inner_text())
        figure.locator(".thumb").nth(3).click()
        assert figure.locator("h4").inner_text() == "L1H1" and seen.errors == []


# -- tables, copying, colours -----------------------------------------------------------------------------------------


def test_tables_sort_and_show_changed_rows_alone(browser: Browser, pages: dict) -> None:
    with browser.page(pages["made"]) as (page, _):
        table = page.locator("table.sorts").last
        column = lambda: [int(t) for t in table.locator("tbody tr:visible td:nth-child(2)").all_inner_texts()]  # noqa: E731
        button = table.locator("thead button").nth(1)
        button.click()
        assert column() == sorted(range(20), reverse=True)
        assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"
        button.press("Enter")
        assert column() == list(range(20))
        page.get_by_label("changed rows only").check()
        assert column() == [i for i in range(20) if not i % 3]
        page.get_by_label("Filter").fill("r18")
        assert column() == [18]


@pytest.fixture
def served(pages: dict) -> Iterator[str]:
    """The pages from this machine: browsers let pages copy only where they know who asks."""
    handler = functools.partial(Quiet, directory=str(pages["ioi"].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def test_what_is_copied_is_what_the_result_says(browser: Browser, served: str, ioi: Study) -> None:
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    with browser.page(f"{served}/ioi.html", **allowed) as (page, seen):
        figure = page.locator("figure.view", has_text="Heads, output").first
        figure.get_by_role("button", name="Copy data").click()
        page.wait_for_function("navigator.clipboard.readText().then((t) => t.startsWith('layer'))")
        lines = page.evaluate("navigator.clipboard.readText()").strip().split("\n")
        assert lines[0].split("\t") == ["layer", "head", "value", "low", "high", "p corrected"]
        data = ioi.arrays["patch_z"]
        of = "share" if bool(np.isfinite(data["share"]).all()) else "effect"
        for line in lines[1:]:
            layer, head, value, *_ = map(float, line.split("\t"))
            assert value == pytest.approx(float(data[of].sel(layer=layer, head=head)), rel=1e-6, abs=1e-12)
        figure.get_by_role("button", name="Copy JSON").click()
        page.wait_for_function("navigator.clipboard.readText().then((t) => t.startsWith('['))")
        rows = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert len(rows) == data[of].size and set(rows[0]) == set(lines[0].split("\t"))
        figure.get_by_role("button", name="Copy Python").click()
        page.wait_for_function("navigator.clipboard.readText().then((t) => t.startsWith('import'))")
        assert "cutaway.show(found)" in page.evaluate("navigator.clipboard.readText()")
        for one in (figure, page.locator("figure.attention").first, page.locator("figure.splitting").first):
            one.get_by_role("button", name="Copy image").click()
            one.locator("[data-words='Copy image']", has_text="Copied").wait_for()
            kinds = page.evaluate("navigator.clipboard.read().then((i) => i[0].types)")
            size = page.evaluate(
                "navigator.clipboard.read().then((i) => i[0].getType('image/png')).then(createImageBitmap)"
                ".then((b) => [b.width, b.height])"
            )
            assert kinds == ["image/png"] and min(size) > 200
        assert seen.violations == [] and all(r.startswith((served, "data:")) for r in seen.requests)


def test_copies_hold_every_digit(browser: Browser, tmp_path: Path, attribution: Study) -> None:
    """Numbers that are read back from a page are the result's own, bit for bit (in float32 where they came from it)."""
    random = np.random.default_rng(0).standard_normal((3, 3))
    panels = {"before": random, "after": random.astype(np.float32).astype(float)}
    square = views.Picture(
        views.matrices(panels, ["a", "b", "c"], "t", "u"), "c", "w", kind="matrices",
        data=views.matrix_data(panels, ["a", "b", "c"], "position", "t"),
    )  # fmt: skip
    figures = cutaway.show(attribution).figures()
    lens, heads, terms = (next(f for f in figures if f.kind == kind) for kind in ("lens", "attention", "splitting"))
    (tmp_path / "x.html").write_text(render("t", "s", [Section("a", parts=[square, lens, heads, terms])], {}))
    with browser.page(tmp_path / "x.html") as (page, seen):
        every = [page.evaluate("(f) => cutaway.rows(f)", f.element_handle()) for f in page.locator("figure.view").all()]
    assert seen.errors == []
    numbers = lambda rows, name: [float(row[rows[0].index(name)]) for row in rows[1:]]  # noqa: E731
    same = lambda mine, other: (np.asarray(mine, other.dtype) == other).all()  # noqa: E731
    assert same(numbers(every[0], "value")[:9], random.ravel())
    assert same(numbers(every[0], "value")[9:], random.astype(np.float32).ravel())
    one = attribution.arrays["lens"].isel(prompt=0)
    assert same(numbers(every[1], "probability"), one["probability"].values.astype(np.float32).ravel())
    assert same(numbers(every[1], "kl")[:: one.sizes["rank"]], one["kl"].values.astype(np.float32).ravel())
    first = attribution.arrays["patterns"].isel(prompt=0)[divmod(heads.data["first"], 4)].values
    assert same(numbers(every[2], "weight"), first[np.tril_indices(len(first))])
    tops = [row for row in every[3][1:-1] if row[1] == "0"]
    layers = attribution.arrays["by_layer"].isel(prompt=0).values
    assert len(tops) == len(layers) and {float(row[2]) for row in tops} == set(layers.tolist())


def test_every_kind_of_view_takes_part_in_what_is_chosen(browser: Browser, tmp_path: Path, attribution: Study) -> None:
    lens = next(f for f in cutaway.show(attribution).figures() if f.kind == "lens")
    of_layers = [{"layer": str(k)} for k in range(3)]
    x, y, names = np.arange(3.0), np.arange(3.0) ** 2, ["L0", "L1", "L2"]
    table = Table("T.", ["layer", "x"], [[name, "1"] for name in names], ["layer"], places=of_layers)
    tokens = ["a", "b", "c"]
    drawn = {
        "lines": views.lines({"s": x.tolist()}, names, "lines", "u"),
        "points": views.points(x, y, names, names, "points", ("x", "y"), places=of_layers),
        "scatter": views.scatter(x, y, names, names, "scatter", ("x", "y"), of_layers),
        "grid": views.signed_grid(
            np.eye(3), names, tokens, "grid", places=(of_layers, [{"position": str(k)} for k in range(3)])
        ),
        "waterfall": views.waterfall([(n, 1.0) for n in names], 3.0, "waterfall", "u", of_layers),
        "stems": views.stems([1.0, 2.0, 3.0], tokens, "stems", "u"),
        "text": views.colored_text(tokens, [1.0, 2.0, 3.0], "u").having(aria_label="text"),
        "matrices": views.matrices({"m": np.eye(3)}, tokens, "matrices", "u"),
    }
    parts: list[Any] = [views.Picture(one, name, "w") for name, one in drawn.items() if name != "matrices"]
    data = views.matrix_data({"m": np.eye(3)}, tokens, "position", "t")
    parts += [views.Picture(drawn["matrices"], "matrices", "w", kind="matrices", data=data), table, lens]
    (tmp_path / "x.html").write_text(render("t", "s", [Section("a", parts=parts)], {}), encoding="utf-8")
    marked = """(p) => { cutaway.choose(p);
        return [...document.querySelectorAll("figure.view, .scroll > table.sorts")]
            .filter((f) => f.matches("figure") || !f.closest("figure"))
            .map((f) => !!f.querySelector(".chosen, .panel:not([hidden])")); }"""
    with browser.page(tmp_path / "x.html") as (page, _):
        layer, position = (page.evaluate(marked, place) for place in ({"layer": "1"}, {"position": "1"}))
        nothing = page.evaluate(marked, None)
    by_layer = [True] * 5 + [False, False, False, True, True]
    assert layer == by_layer and not any(nothing)
    assert position == [False, False, False, True, False, True, True, True, False, True]


@pytest.mark.parametrize("said", ["dark", "light"])
def test_a_notebook_says_whether_it_is_dark(browser: Browser, attribution: Study, tmp_path: Path, said: str) -> None:
    """JupyterLab's own words, against the system: the frame is as the notebook is, and what it says can be read."""
    shown = cutaway.show(attribution.arrays["lens"])._repr_html_()
    theme = "true" if said == "light" else "false"
    host = f"<!doctype html><title>host</title><body data-jp-theme-light='{theme}'>{shown}</body>"
    (tmp_path / "host.html").write_text(host, encoding="utf-8")
    with browser.page(tmp_path / "host.html", theme="light" if said == "dark" else "dark") as (page, _):
        frame = page.frame_locator("iframe")
        frame.locator("html.scripted").wait_for()
        page.wait_for_timeout(200)
        colour = "(e) => [getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(e).color]"
        paper, ink = frame.locator("h1").evaluate(colour)
    levels = [sum(map(int, re.findall(r"\d+", text))) for text in (paper, ink)]
    assert (levels[0] < 100 and levels[1] > 600) if said == "dark" else (levels[0] > 700 and levels[1] < 120)


def test_light_dark_and_print(browser: Browser, pages: dict) -> None:
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(21, 23, 28)"
    with browser.page(pages["attribution"], theme="dark") as (page, _):
        assert page.evaluate(paper) == dark
        button = page.locator("button.theme")
        button.click()
        assert button.inner_text() == "Colours: light" and page.evaluate(paper) == light
        button.click()
        assert button.inner_text() == "Colours: dark" and page.evaluate(paper) == dark
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(paper) == light
        assert not page.locator(".tools").first.is_visible() and not button.is_visible()
        page.emulate_media(media="print", color_scheme="light")
        assert len(page.pdf()) > 20_000
    pixel = "[...document.querySelector('canvas.matrix').getContext('2d').getImageData(0, 1, 1, 1).data].slice(0, 3)"
    with browser.page(pages["attribution"], theme="dark") as (page, _):
        dark = page.evaluate(pixel)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        printed = page.evaluate(pixel)
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(pixel) == dark and page.evaluate(paper) == "rgb(21, 23, 28)"
    with browser.page(pages["attribution"], theme="light") as (page, _):
        assert page.evaluate(pixel) == printed != dark


def test_targets_are_large_enough_for_a_finger(browser: Browser, pages: dict) -> None:
    with browser.page(pages["attribution"], width=390) as (page, _):
        low = page.evaluate(
            """() => [...document.querySelectorAll("button:not(.sort), select, input, summary, .chip, .thumb")]
            .filter((e) => e.getClientRects().length && e.getBoundingClientRect().height < 23.5).map((e) => e.outerHTML.slice(0, 90))"""  # noqa: E501
        )
        assert low == []


def test_what_is_wider_than_a_phone_says_so_and_keeps_its_row_names(browser: Browser, tmp_path: Path) -> None:
    names, n = [f"L{i}" for i in range(3)], 24
    grid = views.signed_grid(np.ones((3, n)), names, [str(j) for j in range(n)], "A grid of many columns")
    cells = [[f"row {i}", *["1.25e-05"] * 12] for i in range(3)]
    table = Table("Many columns, 8.7e-07 of them.", ["name", *(f"a heading {j}" for j in range(12))], cells, ["name"])
    parts = [views.Picture(grid, "c", "w"), table, Table("Narrow.", ["a", "b"], [["1", "2"]])]
    text = render("t", "s", [Section("a", ["Down to 8.7e-07, no more."], parts)], {})
    (tmp_path / "x.html").write_text(text, encoding="utf-8")
    where = """(scroller, name) => {
        const from = (e) => e.getBoundingClientRect().left - scroller.getBoundingClientRect().left;
        return [scroller.dataset.more, ...[...scroller.querySelectorAll(name)].map(from)]; }"""
    with browser.page(tmp_path / "x.html", width=390) as (page, seen):
        drawn, wide, narrow = (page.locator("main .scroll:not(.twin *)").nth(i) for i in (0, 1, 2))
        assert narrow.get_attribute("data-more") == ""
        for scroller, name in ((drawn, ".stuck text"), (wide, "th:first-child")):
            more, *before = scroller.evaluate(where, name)
            assert more == "right" and len(before) >= 3
            assert scroller.evaluate("(s) => getComputedStyle(s).maskImage") != "none"
            scroller.evaluate(
                "(s) => new Promise((done) => { s.onscroll = () => setTimeout(done, 50); s.scrollLeft = 200; })"
            )
            more, *after = scroller.evaluate(where, name)
            assert more == "left right" and after == pytest.approx(before, abs=1.5)
            scroller.evaluate(
                "(s) => new Promise((done) => { s.onscroll = () => setTimeout(done, 50); s.scrollLeft = 1e5; })"
            )
            assert scroller.get_attribute("data-more") == "left"
        broken = """() => [...document.querySelectorAll("td, th, .unbroken")].filter((e) => {
            const r = document.createRange(); r.selectNodeContents(e);
            return /e-\\d/.test(e.textContent) && r.getClientRects().length > 1; }).map((e) => e.outerHTML)"""
        assert page.locator(".unbroken").count() == 2 and page.evaluate(broken) == []
        assert seen.errors == [] and seen.violations == []


@pytest.mark.parametrize("name", ["attribution", "ioi", "nasty"])
def test_paper_holds_every_table_whole(browser: Browser, pages: dict, name: str) -> None:
    """A4 with the page's margins is 688 px wide; a page that is wider is made smaller by the browser."""
    with browser.page(pages[name], width=688) as (page, _):
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= 688
        cut = """() => [...document.querySelectorAll("td:not(.text), td.text, tbody th")].filter((e) => {
            const words = e.closest("table.lens") ? [] : e.textContent.split(/\\s+/)
                .filter((w) => /^[a-z]{4,11}$/i.test(w));
            const r = e.getClientRects()[0], size = parseFloat(getComputedStyle(e).fontSize);
            return r && words.some((w) => w.length * size * 0.42 > r.width); }).map((e) => e.outerHTML)"""
        assert page.evaluate(cut) == [], "words are broken in narrow columns"


def test_nothing_moves_for_those_who_want_it_still(browser: Browser, pages: dict) -> None:
    css = views.frame.VIEWS_STYLE.read_text(encoding="utf-8")
    assert "transition" not in css and "animation" not in css
    assert 'still() ? "auto" : "smooth"' in views.frame.SCRIPT.read_text(encoding="utf-8")


# -- in a notebook ----------------------------------------------------------------------------------------------------


def test_a_result_in_a_notebook_is_a_document_of_its_own(browser: Browser, attribution: Study, tmp_path: Path) -> None:
    host = "<!doctype html><title>host</title><style>table { display: none } body { color: red }</style>"
    shown = cutaway.show(attribution.arrays["lens"])._repr_html_()
    (tmp_path / "host.html").write_text(host + "<script>window.secret = 1</script>" + shown, encoding="utf-8")
    with browser.page(tmp_path / "host.html") as (page, seen):
        frame = page.frame_locator("iframe")
        frame.locator("td[data-at='5 5']").first.click()
        assert frame.locator(".panel").first.is_visible(), "the page's script runs in the frame"
        inner = page.frames[1]
        assert inner.evaluate("(() => { try { return parent.secret; } catch { return 'no'; } })()") == "no"
        assert seen.errors == [] and [r for r in seen.requests if not r.startswith(("file:", "about:", "data:"))] == []


# -- pictures for the documentation -----------------------------------------------------------------------------------


@pytest.mark.skipif(not SHOTS, reason="pictures of the documentation are made on request: CUTAWAY_SCREENSHOTS=docs")
def test_pictures_of_the_documentation(browser: Browser, pages: dict, model: cutaway.Model, tmp_path: Path) -> None:
    from cutaway.studies.ioi import Settings, run

    (tmp_path / "ioi.html").write_text(study_page(run(model, Settings(families=12, top=4, rows=4))), encoding="utf-8")
    opened = """(all) => all.forEach((d) => {
        d.open = ["L4", "L4.attn", "L4H1"].includes(d.querySelector(".name").textContent); })"""
    with browser.page(pages["attribution"], 940) as (page, _):
        page.locator("figure.lens td[data-at='4 5']").first.click()
        page.mouse.move(0, 0)
        lens = page.locator("figure.lens").first
        lens.locator(".choice").evaluate("(c) => c.remove()")
        keep(lens, "lens")
        page.keyboard.press("Escape")
        page.locator("figure.splitting").first.locator("div.splitting details").evaluate_all(opened)
        keep(page.locator("div.splitting").first, "splitting")
        keep(page.locator("figure.attention .stage").first, "attention")
    with browser.page(tmp_path / "ioi.html", 1100, "dark") as (page, _):
        pair = page.locator(".pair").nth(1)
        pair.locator("figure:nth-child(n+3)").evaluate_all("(all) => all.forEach((f) => f.remove())")
        keep(pair, "heads-dark")


def keep(part: Any, name: str) -> None:
    """A picture for the documentation, in few colours so that it stays small."""
    import io

    from PIL import Image

    file = HERE.parent / str(SHOTS) / f"{name}.png"
    shot = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    shot.quantize(96).save(file, optimize=True)
    assert file.stat().st_size < 150_000


def test_words_that_say_something_when_pointed_at_can_be_reached_by_keys(browser: Browser, tmp_path: Path) -> None:
    """Any view answers whose elements say what they are: nothing has to be registered."""
    words = node("div", [node("span", t, title=f"{i} {t}: +0.{i}") for i, t in enumerate(["<b>", "x"])])
    picture = views.Picture(words, "Text.", "In words.")
    (tmp_path / "x.html").write_text(render("t", "s", [Section("a", parts=[picture])], {}), encoding="utf-8")
    with browser.page(tmp_path / "x.html") as (page, seen):
        page.locator("[data-mark]").first.focus()
        assert page.locator(".tip").inner_text() == "0 <b>: +0.0"
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip").inner_text() == "1 x: +0.1"
        assert page.locator("details.twin tbody tr").count() == 2 and serious(page) == seen.errors == []


def test_an_array_of_any_layers_is_shown(browser: Browser, tmp_path: Path) -> None:
    data = xr.DataArray(np.linspace(0, 1, 12), dims="layer", coords={"layer": range(12)}, name="p</script>")
    file = cutaway.show(data).save(tmp_path / "x.html")
    with browser.page(file) as (page, seen):
        assert page.locator("circle[data-mark]").count() == 12 and seen.errors == []
