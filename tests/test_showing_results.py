"""What the views of edits, stages, flips, scores, factors and ledgers say: against numbers worked out here by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import cutaway
from browsing import WALK, Browser, needs_browser, serious, started
from cutaway import plots
from cutaway.controls import against, ladder
from cutaway.figures.kinds import KINDS, called, shown
from cutaway.ledger import ledger
from cutaway.report.page import Section, render
from cutaway.steering import Outcomes, Where, factorial, flips
from cutaway.views import Picture, Table
from cutaway.wording import fixed, in_grid, percent, signed

CITIES = {"Poland": " Warsaw", "Peru": " Lima", "Italy": " Rome"}
TEXTS = [f"The capital of {country} is" for country in CITIES]


@cache
def model() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def trace() -> cutaway.Trace:
    foils = [f" {country}" for country in CITIES]
    return model().trace(model().prompts(TEXTS, answers=list(CITIES.values()), foils=foils, families=list(CITIES)))


@cache
def vector() -> cutaway.Direction:
    return cutaway.update(model(), trace().prompts, 4)


def _ladder() -> xr.Dataset:
    prompts = trace().prompts
    return against(Outcomes(model(), prompts, Where((2,))), vector(), ladder(vector(), draws=20), prompts.families)


STRENGTHS = [-1.0, 0.5, 2.0]
MADE: dict[str, Callable[[], Any]] = {
    "Before and after": lambda: cutaway.before_after(trace(), vector(), 2.0),
    "Stages": lambda: cutaway.stages(trace()),
    "Readout edit": lambda: cutaway.readout_edit(
        trace(),
        {"<b>": vector(), "minus": -vector().vector},
        STRENGTHS,
        measure=("logit_diff", "kl", "top_token", "rank"),
    ),
    "Flips": lambda: cutaway.readout_flips(trace(), {"<b>": vector(), "minus": -vector().vector}),
    "Score": lambda: cutaway.readout_score(trace(), vector(), STRENGTHS, anywhere=True),
    "BOS sensitivity": lambda: cutaway.bos_sensitivity(model(), TEXTS, list(CITIES.values()), [" Berlin"]),
    "Ledger": lambda: ledger(model(), trace().prompts, cutaway.ablate("z", how="zero", layers=3, heads=1)),
    "Against controls": _ladder,
    "Spectrum": lambda: cutaway.fit_subspaces(model(), trace().prompts, "mlp_out", [2, 4]).to_xarray(),
    "Sweep": lambda: factorial(model(), trace().prompts, {"update": vector()}, [[3], [3, 4]]),
}


@cache
def result(name: str) -> Any:
    return MADE[name]()


def tables(name: str) -> list[Table]:
    return [part for one in shown(result(name)) for part in one.parts if isinstance(part, Table)]


def pictures(name: str) -> list[Picture]:
    return [part for one in shown(result(name)) for part in one.parts if isinstance(part, Picture)]


def column(table: Table | None, name: str) -> list[Any]:
    """The exact numbers of a column, or its texts where it has none."""
    assert table is not None
    cells = [row[list(table.columns).index(name)] for row in table.rows]
    texts = [c if isinstance(c, str) else c.numbers.get("", c.text) for c in cells]
    return [float(t) if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", str(t)) else t for t in texts]


# -- every kind -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_every_result_has_the_view_of_its_kind(name: str) -> None:
    found = result(name)
    assert called(found) == name
    view = cutaway.show(found)
    assert str(view).strip() and "<b>" not in view.html().partition("<body>")[2].partition("<script")[0]
    for one in view.shown:
        for part in one.parts:
            if isinstance(part, Picture):
                numbers = part.numbers()
                assert part.caption and part.words and numbers is not None and numbers.rows
    pytest.importorskip("matplotlib")
    assert cutaway.show(found).plotted("svg") == view.plotted("svg")


def test_steps_of_runs_are_shown_as_those_of_states_are() -> None:
    found = flips(model(), trace().prompts, {"update": vector()}, layers=[3, 4], grid=6, rounds=3)
    assert called(found) == "Flips" and len(shown(found)) == 3


def test_kinds_are_told_apart() -> None:
    """Each result fits the first kind that is meant for it; no two kinds have one name."""
    assert len({name for name, *_ in KINDS}) == len(KINDS)


# -- what they say ----------------------------------------------------------------------------------------------------


def test_marked_rows_are_those_where_the_model_would_say_something_else() -> None:
    m, t = model(), trace()
    for i, table in enumerate(tables("Before and after")):
        own, moved = [], []
        for layer in range(m.n_layers):
            state = t["resid_post", layer][i, -1]
            own.append(int(m.read(state).argmax()))
            moved.append(int(m.read(state + 2 * vector().vector.to(state)).argmax()))
        assert table.changed == [a != b for a, b in zip(own, moved, strict=True)]
        assert [row[3].text for row in table.rows] == [m.token_text(k).replace(" ", "␣") for k in moved]  # type: ignore[union-attr]
    assert any(any(table.changed or ()) for table in tables("Before and after"))


def test_stages_are_those_of_the_ranks() -> None:
    m, t = model(), trace()
    ranks = np.zeros((2, len(TEXTS), m.n_layers))
    for layer in range(m.n_layers):
        logits = m.read(t["resid_post", layer][:, -1])
        for k, ids in enumerate((t.prompts.foils, t.prompts.answers)):
            ranks[k, :, layer] = (logits > logits.gather(1, ids[:, None])).sum(-1)  # type: ignore[index]
    want = np.median(1 / (1 + ranks), axis=1).ravel()
    np.testing.assert_allclose(column(pictures("Stages")[0].numbers(), "value"), want, rtol=1e-6)
    table = tables("Stages")[0]
    top = [np.flatnonzero(ranks[0, i] == 0) for i in range(len(TEXTS))]
    assert column(table, "argument on top") == [int(k[0]) if len(k) else "never" for k in top]


def test_a_map_of_strengths_is_the_mean_change_over_prompts() -> None:
    found = result("Readout edit")
    picture = next(one for one in pictures("Readout edit") if "logit(answer)" in one.name and "<b>" in one.name)
    change = (found["logit_diff"] - found["base_logit_diff"]).sel(vector="<b>").mean("prompt")
    want = change.transpose("layer", "scale").values
    numbers = picture.numbers()
    np.testing.assert_allclose(column(numbers, "value"), want.ravel(), rtol=1e-6)
    assert column(numbers, "scale")[:3] == STRENGTHS
    other = next(one for one in pictures("Readout edit") if "another token on top" in one.name and "<b>" in one.name)
    moved = (found["top_token"] != found["base_top_token"]).sel(vector="<b>").mean("prompt")
    np.testing.assert_allclose(
        column(other.numbers(), "value"), moved.transpose("layer", "scale").values.ravel(), atol=1e-9
    )


def test_flips_are_medians_and_never_is_said() -> None:
    found = result("Flips")
    for name, table in zip(("pair", "change", "target"), tables("Flips"), strict=True):
        middle = np.median(found[name].sel(vector="minus").values, axis=0)
        for row, want in zip(table.rows, middle, strict=True):
            cell = row[2]
            assert not isinstance(cell, str)
            assert (cell.text == "never") == bool(np.isinf(want))
            assert np.isinf(want) or cell.numbers[""] == pytest.approx(want)


def test_scores_are_means_of_the_items_that_count() -> None:
    found = result("Score")
    want = [float(np.nanmean(found["after"].isel(scale=k).values)) for k in range(3)]
    np.testing.assert_allclose(column(tables("Score")[0], "after"), want)
    assert found["scale"].values.tolist() == STRENGTHS, "as they were given, also where only what is subtracted counts"


def test_bos_rows_are_the_models_own_answers() -> None:
    m, table = model(), tables("BOS sensitivity")[0]
    want = []
    for text in TEXTS:
        for bos in (True, False):
            logits = m.hf(m.prompts(text, bos=bos).ids).logits[0, -1]
            want.append(m.token_text(int(logits.argmax())).replace(" ", "␣"))
    assert column(table, "first choice") == want
    assert table.changed == [want[i - i % 2] != want[i - i % 2 + 1] for i in range(len(want))]


def test_factors_are_rows_of_one_grid() -> None:
    grids = pictures("Sweep")
    assert len(grids) == 2, "a grid a metric"
    edit = cutaway.put("mlp_out", vector(), layers=[[3, 4]], positions=-1)
    alone = cutaway.sweep(model(), trace().prompts, edit, "logit_diff", progress=False)
    numbers = grids[0].numbers()
    at = column(numbers, "setting").index("replace · last · L3-4")
    assert column(numbers, "value")[at] == pytest.approx(float(alone["effect"].mean()), abs=1e-5)


def test_a_ledger_is_a_sum_that_equals_the_change() -> None:
    m, prompts = model(), trace().prompts
    edited = m.trace(prompts, edits=cutaway.ablate("z", how="zero", layers=3, heads=1))
    pair = torch.stack([prompts.answers, prompts.foils], 1)  # type: ignore[list-item]
    lead = lambda t: (t.logits_at(-1).gather(1, pair) * torch.tensor([1.0, -1.0])).sum(1).double()  # noqa: E731
    want = float((lead(edited) - lead(trace())).mean())
    for picture in pictures("Ledger"):
        numbers = picture.numbers()
        assert numbers is not None
        assert column(numbers, "term")[-1] == "sum" and column(numbers, "value")[-1] == pytest.approx(want, abs=1e-4)
        assert sum(column(numbers, "value")[:-1]) == pytest.approx(want, abs=1e-4)


def test_spectra_are_those_of_the_rows_and_can_be_kept(tmp_path: Path) -> None:
    """Against numpy's covariance of the recorded activations."""
    fitted = cutaway.fit_subspaces(model(), trace().prompts, "mlp_out", [2, 4])
    rows = trace()["mlp_out", 4][:, 1:].reshape(-1, model().d_model).double().numpy()
    want = np.sort(np.linalg.eigvalsh(np.cov(rows, rowvar=False)))[::-1]
    found = fitted.to_xarray()
    np.testing.assert_allclose(found["eigenvalue"].sel(layer=4).values, want, atol=1e-6 * want[0])
    view = cutaway.show(fitted)
    table, first, second = view.shown[0].parts[0], *pictures_of(view)
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["L2", "L4"]
    shares = want / want.sum()
    np.testing.assert_allclose(column(second.numbers(), "value"), shares[:24], atol=1e-6)
    assert column(table, "90 % in")[1] == 1 + int((shares.cumsum() < 0.9).sum())
    assert column(table, "effective dimensions")[1] == pytest.approx(want.sum() ** 2 / (want**2).sum())
    assert "L4.mlp_out" in second.name and "L2.mlp_out" in first.name
    assert [str(one.svg) for one in cutaway.show(fitted[4]).figures()] == [str(second.svg)]
    cutaway.save_result(tmp_path / "fit", {"spectra": found}, {"kind": "spectra", "schema_version": 1})
    again = cutaway.open_result(tmp_path / "fit")[0]["spectra"]
    assert [str(one.svg) for one in cutaway.show(again).figures()] == [str(first.svg), str(second.svg)]
    drawn = view.plot(figure=1) if pytest.importorskip("matplotlib") else None
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), shares[:24], atol=1e-6)  # type: ignore[union-attr]


def pictures_of(view: Any) -> list[Picture]:
    return view.figures()  # type: ignore[no-any-return]


def test_an_array_has_no_unit_that_it_does_not_say() -> None:
    entropy = cutaway.lens(trace(), top=1)["entropy"]
    (picture,) = cutaway.show(entropy).figures()
    assert picture.name == "entropy" and "logits" not in picture.caption
    assert "across: position" in str(picture.svg) and "␣capital" in str(picture.svg)
    assert "minus" not in str(picture.svg), "nothing in it is below 0"
    assert "nats" in cutaway.show(entropy.assign_attrs(units="nats")).figures()[0].name


def test_plots_name_their_axes_and_write_signs_only_where_there_can_be_a_minus() -> None:
    pytest.importorskip("matplotlib")
    entropy = cutaway.show(cutaway.lens(trace(), top=1)["entropy"]).plot()
    assert entropy.get_xlabel() == "position" and entropy.images[0].get_clim()[0] == 0
    cells = [t.get_text() for t in entropy.texts]
    assert len(cells) == 36 and not any(c.startswith("+") for c in cells)
    strengths = cutaway.show(result("Readout edit")).plot()
    assert strengths.get_xlabel().replace("\n", " ") == "scale; * differs from 0, corrected over this grid"
    chances = cutaway.show(model().top(TEXTS[0])).plot()
    assert not any(t.get_text().startswith("+") for t in chances.texts)


def test_what_is_left_out_is_said() -> None:
    many = model().trace(model().prompts([f"{text} {n}" for text in TEXTS for n in ("a", "the", "not", "in")]))
    view = cutaway.show(cutaway.lens(many, top=1))
    assert "The first 8 of 12 prompts" in view.html() and "The first 8 of 12 prompts" in str(view)


def test_a_sweep_of_one_cell_and_of_one_axis_are_shown() -> None:
    prompts = trace().prompts
    one = cutaway.sweep(model(), prompts, cutaway.ablate("z", how="zero", layers=3, heads=1), progress=False)
    (single,) = [part for part in cutaway.show(one).shown[0].parts if isinstance(part, Table)]
    assert column(single, "change") == one["effect"].values.tolist()
    line = cutaway.sweep(model(), prompts, cutaway.ablate("mlp_out", how="zero", positions="all"), progress=False)
    numbers = cutaway.show(line).figures()[0].numbers()
    means = line["effect"].mean("prompt").values
    np.testing.assert_allclose(column(numbers, "value")[: len(means)], means, rtol=1e-6)


# -- numbers and colours ----------------------------------------------------------------------------------------------


def test_no_zero_has_a_sign() -> None:
    for value in (0.0, -0.0, 1e-9, -1e-9, 0.0049, -0.0049):
        assert fixed(value, 2, True) == fixed(value, 2) == "0.00"
        assert in_grid(value, 1.0) in ("0", "0.00")
    assert signed(0.0) == signed(-0.0) == "0" and percent(-0.0) == "0 %"
    assert fixed(-0.0051, 2) == "-0.01" and fixed(0.0051, 2, True) == "+0.01" and fixed(-12.0, 0) == "-12"
    small = cutaway.views.signed_grid(np.array([[-0.004, 0.004, 3.0]]), ["a"], list("xyz"), "t")
    texts = [str(n.children[0]) for n in small.walk() if n.tag == "text" and n.children]
    assert texts.count("0.00") == 2 and "+3.00" in texts
    assert in_grid(-0.0042, 0.0042) == "-0.0042" and in_grid(2e-5, 3e-5) == "+2e-05"


@pytest.mark.parametrize("name", ["Blues", "RdBu"])
def test_words_can_be_read_on_every_colour_of_a_plot(name: str) -> None:
    """WCAG 2.2: relative luminance as its text defines it, worked out here number by number."""
    pytest.importorskip("matplotlib")

    def luminance(rgb: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in map(float, rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = plots.colours_of(name)(np.r_[np.linspace(0, 1, 256), np.nan])
    inks = plots.ink_on(grounds)
    for ground, ink in zip(grounds, inks, strict=True):
        low, high = sorted((luminance(ground[:3]), {"black": 0.0, "white": 1.0}[str(ink)]))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert set(inks) == {"black", "white"}


def test_plots_write_in_the_ink_of_their_cells() -> None:
    pytest.importorskip("matplotlib")
    values = np.array([[-1.0, 0.0, 0.55, 1.0, np.nan]])
    axes = plots.grid_plot(values, ["a"], list("vwxyz"), "t", "u")
    grounds = axes.images[0].to_rgba(values)[0]
    drawn = {round(t.get_position()[0]): (t.get_text(), t.get_color()) for t in axes.texts}
    assert [drawn[i][1] for i in range(5)] == plots.ink_on(grounds).tolist()
    assert [drawn[i][0] for i in range(5)] == ["-1.00", "0", "+0.55", "+1.00", "—"]


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as chromium:
        yield chromium


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_views_of_results_can_be_used_by_all(browser: Browser, tmp_path: Path, theme: str, width: int) -> None:
    sections = [Section(name, parts=[p for one in shown(result(name)) for p in one.parts]) for name in MADE]
    file = tmp_path / "all.html"
    file.write_text(render("All", "Every kind", sections, {}), encoding="utf-8")
    with browser.page(file, width, theme) as (page, seen):
        assert seen.requests == [file.as_uri()] and seen.errors == [] and seen.violations == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = serious(page)
        assert found == [], "\n".join(found)
        if width == 1280:
            assert page.evaluate(WALK) == []
            box = page.get_by_label("changed rows only").first
            box.check()
            table = page.locator("table", has_text="probability after").first
            marks = [bool(x) for x in tables("Before and after")[0].changed or ()]
            assert table.locator("tbody tr:visible").count() == sum(marks) < len(marks)
