"""Results that show themselves: on a terminal, in a notebook, as a page, as plots; and pages made again from files."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr

import cutaway
import wordy
from cutaway import BadInput, plots, views
from cutaway.cli import run as command
from cutaway.figures import split_terms
from cutaway.readout.patterns import attention_patterns
from cutaway.report.shared import study_page
from cutaway.saving import open_result, save_result
from cutaway.showing import HOSTS, TELLS
from cutaway.studies.attribution import Settings, run
from cutaway.studies.study import open_study
from cutaway.views.frame import SCRIPT, STYLE, VIEWS_STYLE
from whole import agree


@pytest.fixture(scope="module")
def trace() -> cutaway.Trace:
    model = wordy.model(nasty=True, bos="<s>")
    texts = ["|".join(wordy.NASTY), "w30|w31|w32"]
    return model.trace(model.prompts(texts, answers=[wordy.NASTY[5]], foils=[wordy.NASTY[1]], families=["a", "b"]))


MAKERS: dict[str, Callable[[Any], Any]] = {
    "lens": lambda t: cutaway.lens(t, top=3, of=[wordy.NASTY[1]]),
    "attribute": lambda t: cutaway.attribute(t, by="head"),
    "cumulative": cutaway.cumulative,
    "top": lambda t: t.model.top(t.prompts[[0]], 30),
    "attention": attention_patterns,
    "sweep": lambda t: cutaway.sweep(t.model, t.prompts, cutaway.ablate("z", how="zero", positions="all")),
    "scores": lambda t: cutaway.head_scores(cutaway.Model(t.model.hf), rows=2, period=5),
    "array": lambda t: cutaway.head_scores(cutaway.Model(t.model.hf), rows=2, period=5)["induction"],
}


# -- every kind, with tokens that try to break out --------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_of_result_shows_itself(trace: cutaway.Trace, name: str, tmp_path: Path) -> None:
    result = MAKERS[name](trace)
    shown = result.cutaway.show()
    text = str(shown)
    assert text.strip() and not re.search("[\x00-\x08\x0b-\x1f\u202e\u2028\u200b]", text)
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == text
    frame = bundle["text/html"]
    before, after = f"<style>{HOSTS}</style>", f"<script>{TELLS}</script>"
    assert frame.startswith(before) and frame.endswith(after), "the same for every result: nothing of it is outside"
    frame = frame.removeprefix(before).removesuffix(after)
    assert frame.startswith('<iframe class="cutaway-view" sandbox="allow-scripts allow-downloads" ')
    assert frame.endswith("></iframe>")
    assert "allow-same-origin" not in frame and frame.count("<") == 2
    document = unescape(re.search('srcdoc="(.*)">', frame, re.DOTALL)[1])  # type: ignore[index]
    shown.save(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == document == shown.html()
    with pytest.raises(BadInput, match="exists"):
        shown.save(tmp_path / "x.html")


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_plots_are_the_same_bytes_every_time(trace: cutaway.Trace, name: str, form: str) -> None:
    pytest.importorskip("matplotlib")
    result = MAKERS[name](trace)
    one, other = (cutaway.show(result).plotted(form) for _ in range(2))
    assert one == other
    assert one.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])


def test_dollar_signs_are_no_mathematics_and_tokens_keep_their_text(trace: cutaway.Trace) -> None:
    pytest.importorskip("matplotlib")
    svg = cutaway.show(MAKERS["lens"](trace)).plotted("svg").decode()
    texts = [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]
    for token in (r"$\frac$", "<b>", "&nbsp;", "]]>"):
        assert any(token in (text or "") for text in texts), token


def test_plots_draw_on_given_axes_and_show_nothing(trace: cutaway.Trace) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    left, right = figure.subplots(1, 2)
    before = {k: v for k, v in __import__("matplotlib").rcParams.items() if k != "backend"}
    assert cutaway.show(MAKERS["attribute"](trace)).plot(left) is left
    assert MAKERS["lens"](trace).cutaway.plot(ax=right, figure=1) is right
    assert len(left.patches) == 15 + 1 and len(right.images) == 1
    assert {k: v for k, v in __import__("matplotlib").rcParams.items() if k != "backend"} == before
    with pytest.raises(BadInput, match="no figure 2"):
        MAKERS["lens"](trace).cutaway.plot(figure=2)


def test_a_plot_has_the_numbers_of_the_result(trace: cutaway.Trace) -> None:
    pytest.importorskip("matplotlib")
    terms = MAKERS["attribute"](trace)
    bars = terms.cutaway.plot(figure=1).patches
    values = terms.values[1]
    kept = np.sort(np.argsort(-np.abs(values))[:14])
    np.testing.assert_allclose([b.get_width() for b in bars[:14]], values[kept], rtol=1e-9)
    assert bars[-1].get_width() == pytest.approx(values.sum())
    pattern = attention_patterns(trace)
    drawn = plots.attention_plot(pattern.values[1, 0, 0, :3, :3], ["a", "b", "c"], "t").images[0].get_array()
    np.testing.assert_allclose(drawn[2], pattern.values[1, 0, 0, 2, :3])


def test_what_has_no_view_is_said() -> None:
    for nothing in (3, xr.DataArray(np.zeros(3), dims="x"), xr.Dataset({"y": ("x", [1.0])})):
        with pytest.raises(BadInput, match="no view"):
            cutaway.show(nothing)
    with pytest.raises(BadInput, match=r"\.html"):
        cutaway.show(xr.DataArray(np.zeros(3), dims="layer")).save("x.gif")


def test_a_sweep_is_summed_up_over_families() -> None:
    model = cutaway.load("pocket")
    from cutaway.tasks.ioi import ioi

    task = ioi(model, 4, 0)
    found = cutaway.sweep(model, task.corrupt("s2"), cutaway.patch("z", source=task.clean))
    picture = cutaway.show(found).shown[0].parts[0]
    assert isinstance(picture, views.Picture)
    rows = picture.numbers().rows  # type: ignore[union-attr]
    over = lambda data: data.groupby("family").mean("prompt").mean("family")  # noqa: E731
    want = (over(found["effect"]) / over(found["reference"] - found["base"])).transpose("layer", "head").values
    np.testing.assert_allclose([row[2].numbers[""] for row in rows], want.ravel(), rtol=1e-6, atol=1e-9)


# -- sums that open ---------------------------------------------------------------------------------------------------


def test_every_term_is_the_sum_of_what_it_opens_into() -> None:
    model = wordy.model("llama")
    prompts = model.prompts("w5|w6|w7|w8|w9|w10|w11|w12|w13|w14|w15|w16", answers=["w8"], foils=["w9"])
    trace = model.trace(prompts)
    arrays = {f"by_{by}": cutaway.attribute(trace, by=by) for by in ("layer", "component", "head", "source")}
    terms = split_terms(arrays, lambda data: data.values[0], prompts.tokens[0])
    assert sum(term.value for term in terms) == pytest.approx(float(arrays["by_layer"].sum()))
    opened = [term for top in terms for _, term in top.walk() if term.parts]
    heads = {(t.places["layer"], t.places["head"]) for t in opened if "head" in t.places}
    assert heads == {(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)}
    for term in opened:
        assert sum(part.value for part in term.parts) == pytest.approx(term.value, abs=1e-6)
    source = arrays["by_source"]
    for term in opened:
        if "head" in term.places:
            assert len(term.parts) == 9 and term.parts[-1].name == "4 smaller sources"
            for part in term.parts[:-1]:
                at = (source["layer"] == term.places["layer"]) & (source["head"] == term.places["head"])
                at &= source["key"] == part.places["position"]
                assert float(source.values[0][at.values].sum()) == pytest.approx(part.value)


# -- attention --------------------------------------------------------------------------------------------------------


def test_patterns_are_those_that_transformers_returns() -> None:
    model = wordy.model("llama")
    prompts = model.prompts(["w5|w6|w7", "w8|w9|w10|w11"])
    found = attention_patterns(model.trace(prompts))
    model.hf.set_attn_implementation("eager")
    for i, n in enumerate([3, 4]):
        want = model.hf(prompts.ids[i : i + 1, :n], output_attentions=True).attentions
        mine = found.values[i][:, :, :n, :n]
        np.testing.assert_allclose(mine, np.stack([w[0].detach().numpy() for w in want]), atol=1e-5)
    assert np.isnan(found.values[0, :, :, 3]).all()
    assert found["input_token"].values.tolist() == [["w5", "w6", "w7", ""], ["w8", "w9", "w10", "w11"]]


def test_attention_for_the_script_reads_back() -> None:
    import base64

    random = np.random.default_rng(0).random((2, 5, 5)) * np.tri(5)
    picture = views.attention(random, ["L0H0", "L0H1"], list("abcde"), "t", "c", [{"layer": 0, "head": 0}] * 2)
    for h, head in enumerate(picture.data["heads"]):
        form, _, text = head["weights"].partition(":")
        assert form == "f8" and (np.frombuffer(base64.b64decode(text), "<f8") == random[h][np.tril_indices(5)]).all()


def test_the_python_of_a_shown_result_makes_its_figure_again() -> None:
    model = cutaway.load("pocket")
    texts = ["The capital of Poland is", "The capital of Peru is"]
    trace = model.trace(model.prompts(texts, answers=[" Warsaw", " Lima"], foils=[" Berlin"]))
    for result, number in (
        (cutaway.lens(trace, top=3, of=[" Warsaw"]), 1),
        (cutaway.attribute(trace, by="head"), 1),
        (attention_patterns(trace), 1),
        (cutaway.cumulative(trace), 0),
        (cutaway.rotations(trace), 0),
    ):
        figure = cutaway.show(result).figures()[number]
        agree(figure.code, figure)
    ids = model.trace(cutaway.Prompts(trace.prompts.ids, tokenizer=model.tokenizer))
    assert cutaway.show(cutaway.lens(ids)).figures()[0].code == "", "prompts given as ids are not in the result"


def test_the_python_of_a_study_makes_its_figures_again() -> None:
    study = run(cutaway.load("pocket"), Settings(("The capital of Poland is",), (" Warsaw",), (" Berlin",)))
    figures = cutaway.show(study).figures()
    own = [one for one in figures if "Settings(" not in one.code]
    assert {one.kind for one in own} == {"lens"}
    for one in (*own, figures[1]):
        agree(one.code, one)


# -- pages made again from files --------------------------------------------------------------------------------------


def test_a_study_is_read_back_and_its_page_made_again(tmp_path: Path) -> None:
    model = wordy.model(nasty=True, bos="<s>")
    done = run(model, Settings(("|".join(wordy.NASTY),), (wordy.NASTY[1],), (wordy.NASTY[2],)))
    done.command = "cutaway study attribution"
    page = study_page(done)
    save_result(tmp_path / "r", done.arrays, done.document(), {"report.html": page})
    again = open_study(tmp_path / "r")
    assert again.findings == done.findings and again.checks == done.checks and again.command == done.command
    assert {k: type(v) for k, v in again.arrays.items()} == {k: type(v) for k, v in done.arrays.items()}
    for name, array in done.arrays.items():
        xr.testing.assert_allclose(again.arrays[name], array)
        assert again.arrays[name].attrs == array.attrs and again.arrays[name].dims == array.dims
    assert cutaway.show(again).html() == study_page(again)
    strip = lambda text: re.sub(r'id="data">.*?</script>', "", text, flags=re.DOTALL)  # noqa: E731
    assert strip(study_page(again)) == strip(page)


def test_report_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "sweep", tmp_path / "x.html"
    assert command(["patch", "--site", "z", "--families", "3", "-o", str(folder)]) == 0
    assert {p.name for p in folder.iterdir()} == {"result.zarr", "result.json", "report.html", "command.txt"}
    assert command(["report", str(folder), "-o", str(file)]) == 0
    again, page = file.read_text(encoding="utf-8"), (folder / "report.html").read_text(encoding="utf-8")
    assert again.split('id="data">')[0] == page.split('id="data">')[0]
    found = open_result(folder)[0]["sweep"]
    values = [float(v) for v in re.findall(r'data-value="([^"]+)"', page)]
    wanted = found["share" if np.isfinite(found["share"]).all() else "effect"].transpose("layer", "head").values
    np.testing.assert_allclose(values[: wanted.size], wanted.ravel(), rtol=1e-6)
    capsys.readouterr()
    assert command(["report", str(folder), "-o", str(file)]) == 2 and "--force" in capsys.readouterr().err
    assert command(["report", str(tmp_path), "-o", "-"]) == 2 and "no result.json" in capsys.readouterr().err
    (folder / "result.json").write_text('{"schema_version": 1, "kind": "study os"}')
    assert command(["report", str(folder), "-o", "-"]) == 2 and "no page" in capsys.readouterr().err


def test_a_sweep_by_position_names_the_tokens(tmp_path: Path) -> None:
    file = tmp_path / "x.html"
    assert command(["patch", "--site", "mlp_out", "--families", "3", "--corruption", "abc", "-o", str(file)]) == 0
    page = file.read_text(encoding="utf-8")
    assert len(re.findall(r'class="token other"[^>]*>→ ␣', page)) >= 2  # names differ between the runs


# -- the script -------------------------------------------------------------------------------------------------------


def test_the_script_makes_elements_and_never_markup() -> None:
    """The rule that keeps tokens text: everything that parses text as markup or code is forbidden."""
    code = re.sub(r"^\s*(//|/?\*).*$", "", SCRIPT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new\s+Function|DOMParser|"
        r"createContextualFragment|setHTML|srcdoc|setTimeout\(\s*['\"`]|javascript:|\bfetch\b|XMLHttpRequest|"
        r"WebSocket|EventSource|sendBeacon|\bimport\b|importScripts|createElement\(\s*['\"]script"
    )
    assert re.findall(forbidden, code) == []
    for bad in ("x.innerHTML = y", "eval(x)", "new Function(x)", "fetch(x)", "setTimeout('x')"):
        assert re.search(forbidden, bad)


def test_script_and_styles_are_small() -> None:
    assert sum(file.stat().st_size for file in (SCRIPT, STYLE, VIEWS_STYLE)) < 120_000


def test_the_script_knows_the_tags_that_views_have() -> None:
    block = re.search(r"const TAGS = new Set\(\((.*?)\)\.split", SCRIPT.read_text(encoding="utf-8"), re.DOTALL)
    assert set("".join(re.findall(r'"([^"]*)"', block[1])).split()) == set(views.nodes.TAGS)  # type: ignore[index]
