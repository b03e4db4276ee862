"""A sweep says which tokens lie at its labels, and every view of it shows them: against the prompts' own tokens."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import cutaway
import wordy
from cutaway.saving import document, open_result, save_result
from cutaway.views import Picture

ROLES = {"A": [1, 2], "A+1": [2, 3]}


@pytest.fixture(scope="module")
def model() -> cutaway.Model:
    return wordy.model("gpt2")


def prompts(model: cutaway.Model, first: int, ragged: bool = False, roles: dict | None = None) -> cutaway.Prompts:
    texts = ["|".join(f"w{first + i + k}" for k in range(4 - (ragged and i))) for i in range(2)]
    return model.prompts(texts, answers=["w5"], foils=["w6"], roles=ROLES if roles is None else roles, bos=False)


def swept(model: cutaway.Model, base: cutaway.Prompts, edits: object) -> xr.Dataset:
    return cutaway.sweep(model, base, edits, progress=False)  # type: ignore[no-any-return, arg-type]


def test_labels_have_the_tokens_of_every_prompt(model: cutaway.Model) -> None:
    base, source = prompts(model, 10), prompts(model, 20, roles={"A": [3, 0], "A+1": [0, 1]})
    found = swept(model, base, cutaway.patch("resid_pre", source, layers=[0]))
    assert found["input_token"].dims == ("prompt", "position")
    assert found["input_token"].values.tolist() == base.tokens
    assert found["source_token"].values.tolist() == source.tokens
    at = swept(model, base, cutaway.patch("v", source, layers=[0], positions=["A", "A+1", -1, [0, "A"]]))
    assert at["position"].values.tolist() == ["A", "A+1", "-1", "0+A"]
    assert at["input_token"].values.tolist() == [["w11", "w12", "w13", "w10+w11"], ["w13", "w14", "w14", "w11+w13"]]
    assert at["source_token"].values.tolist() == [["w23", "w20", "w23", "w20+w23"], ["w21", "w22", "w24", "w21+w21"]]


def test_what_is_not_one_run_has_no_source(model: cutaway.Model) -> None:
    base, one, other = (prompts(model, n, True, {}) for n in (10, 20, 30))
    plain = swept(model, base, cutaway.ablate("mlp_out", layers=[0]))
    assert plain["input_token"].values.tolist() == [base.tokens[0], [*base.tokens[1], ""]]
    assert "source_token" not in plain.coords
    both = {"a": cutaway.patch("resid_pre", one, layers=[0]), "b": cutaway.patch("resid_pre", other, layers=[0])}
    assert "source_token" not in swept(model, base, both).coords
    same = {"a": cutaway.patch("resid_pre", one, layers=[0]), "b": cutaway.patch("resid_post", one, layers=[0])}
    assert swept(model, base, same)["source_token"].values[0].tolist() == one.tokens[0]
    heads = swept(model, base, cutaway.patch("z", one))
    assert not {"input_token", "source_token"} & set(heads.coords)


def test_queries_and_keys_have_their_own(model: cutaway.Model) -> None:
    base, source = prompts(model, 10), prompts(model, 20)
    found = swept(model, base, cutaway.patch("pattern", source, layers=[0], heads=0, queries="each", keys=[0, "A"]))
    assert found["query_input_token"].values.tolist() == base.tokens
    assert found["key_input_token"].values.tolist() == [["w10", "w11"], ["w11", "w13"]]
    assert found["key_source_token"].values.tolist() == [["w20", "w21"], ["w21", "w23"]]
    (picture,) = cutaway.show(found).figures()
    assert cells(picture, "query-token")[:2] == ["w10 ← w20", "w10 ← w20"]
    assert cells(picture, "key-token")[:2] == ["w10 ← w20", "w11 ← w21"]
    assert [t for t in texts(picture) if t.startswith("3")] == ["3 w13"], "rows are named by their tokens"


def test_a_metric_of_every_position_names_the_tokens_it_reads(model: cutaway.Model) -> None:
    base = prompts(model, 10)
    edits = cutaway.ablate("mlp_out", positions="all")
    found = cutaway.sweep(model, base, edits, "next_token_log_prob", progress=False)
    assert found["read_input_token"].values.tolist() == [tokens[:3] for tokens in base.tokens]
    (picture,) = cutaway.show(found).figures()
    assert cells(picture, "read-token")[:3] == base.tokens[0][:3]
    assert any(t.startswith("across: position read; ") for t in texts(picture))


def test_the_example_is_as_long_as_the_grid(model: cutaway.Model) -> None:
    """Of a short prompt some columns would have no token."""
    base = model.prompts(["w1|w2", "w3|w4|w5|w6"], answers=["w5"], foils=["w6"], bos=False)
    (picture,) = cutaway.show(swept(model, base, cutaway.ablate("resid_pre", layers=[0, 1]))).figures()
    assert cells(picture, "position-token")[:4] == ["w3", "w4", "w5", "w6"]
    assert "of prompt 1 of 2 prompts, “w3|w4|w5|w6”; other prompts have others at 0, 1, 2, 3" in picture.caption


def test_many_columns_are_narrow_with_turned_tokens(model: cutaway.Model) -> None:
    base = model.prompts(["|".join(f"w{k}" for k in range(1, 25))], answers=["w5"], foils=["w6"], bos=False)
    (picture,) = cutaway.show(swept(model, base, cutaway.ablate("resid_pre", layers=[0, 1]))).figures()
    assert float(picture.svg.attributes["width"]) < 62 * 24
    turned = [
        n for n in picture.svg.walk() if n.tag == "text" and str(n.attributes.get("transform")).startswith("rotate")
    ]
    said = ["".join(str(c.children[0]) for c in n.children if not isinstance(c, str)).split() for n in turned]
    assert said == [[str(k), f"w{k + 1}"] for k in range(24)]


def cells(picture: Picture, column: str) -> list[str]:
    table = picture.numbers()
    assert table is not None
    at = list(table.columns).index(column)
    return [str(getattr(row[at], "text", row[at])) for row in table.rows]


def texts(picture: Picture) -> list[str]:
    return [str(n.children[0]) for n in picture.svg.walk() if n.tag == "text" and n.children]


def test_a_grid_shows_clean_and_corrupt_tokens(model: cutaway.Model, tmp_path: Path) -> None:
    """On the page, in the numbers, in the plot, and after saving: the same."""
    clean, corrupt = prompts(model, 10), prompts(model, 10)
    corrupt = model.prompts([clean.texts[0].replace("w12", "w30"), clean.texts[1]], ["w5"], ["w6"], bos=False)
    for how, run in (("denoise", cutaway.denoise), ("noise", cutaway.noise)):
        found = run(model, clean, corrupt, "resid_pre", layers=[0, 1], progress=False)
        view = cutaway.show(found)
        (picture,) = view.figures()
        assert f"effect of {how[:-1]}ing resid_pre on logit_diff" in picture.name
        assert cells(picture, "position-token")[:4] == ["w10", "w11", "w12 → w30", "w13"]
        assert [t for t in texts(picture) if re.match("→|w", t)] == ["w10", "w11", "w12", "→ w30", "w13"]
        assert "first of 2 prompts" in picture.caption and "other prompts have others at 0, 1, 2, 3" in picture.caption
        assert ("corrupted “w10|w11|w30|w13”" in picture.caption) == (how == "denoise")
        said = [n for one in picture.svg.walk() if one.tag == "title" for n in one.children]
        assert any(str(t).startswith("L1 2 w12 → w30: ") for t in said)
        save_result(tmp_path / how, {"x": found}, document("x"))
        again = open_result(tmp_path / how)[0]["x"]
        assert str(cutaway.show(again).figures()[0].svg) == str(picture.svg)
        old = found.drop_vars(["input_token", "source_token"])
        assert "w10" not in str(cutaway.show(old).figures()[0].svg), "a result without tokens opens as before"
        pytest.importorskip("matplotlib")
        ticks = [t.get_text() for t in view.plot().get_xticklabels()]
        assert ticks == ["0\nw10", "1\nw11", "2\nw12\n→ w30", "3\nw13"]


def test_one_axis_of_tokens_is_drawn_as_stems_with_tokens(model: cutaway.Model) -> None:
    base, source = prompts(model, 10), prompts(model, 20)
    found = swept(model, base, cutaway.patch("resid_pre", source, layers=1))
    (picture,) = cutaway.show(found).figures()
    assert "effect of patching resid_pre (layer 1) on logit_diff" in picture.name
    assert [t for t in texts(picture) if re.fullmatch(r"\d w.*", t)] == ["0 w10", "1 w11", "2 w12", "3 w13"]
    assert cells(picture, "position") == list("0123") and "← that whose value is put in" in picture.caption
    names = [t.get_text() for t in cutaway.show(found).plot().get_yticklabels()]
    assert names == ["0 w10", "1 w11", "2 w12", "3 w13"]


def test_tokens_count_in_what_a_result_takes(model: cutaway.Model) -> None:
    base, source = prompts(model, 10), prompts(model, 20)
    edits = cutaway.patch("resid_pre", source, layers=[0])
    plan, found = cutaway.sweep(model, base, edits, dry_run=True), swept(model, base, edits)
    held = sum(found[name].nbytes for name in ("value", "effect", "normalized", "input_token", "source_token"))
    assert plan.memory.results >= held > 3 * found["value"].nbytes
    assert np.isfinite(found["value"]).all()
