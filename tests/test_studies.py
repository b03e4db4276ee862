"""Study one against plain hooks and formulas written here, its checks made to fail, and its result folder."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import cutaway
import wordy
from cutaway.altered import Seen
from cutaway.cli import run as command
from cutaway.errors import BadInput, NoRoom
from cutaway.report.shared import study_page
from cutaway.saving import open_result, save_result
from cutaway.studies.attribution import Settings, demo, run
from families import FAMILIES, build
from public_api import promised
from reference import record

PROMPT = "w5|w6|w7|w8|w9|w6"
ASK = Settings((PROMPT,), ("w11",), ("w12",))
SUMS = ["sum by layer", "sum by component", "sum by head", "sum by source"]
FAMILY = ("gpt2", "gpt_neox", "gptj", "llama", "gemma2", "olmo2", "cohere", "granite", "mixtral", "opt", "bloom")

FACTS = {"schema_version": 1, "kind": "test"}


def contributions(model: nn.Module, family: str, ids: torch.Tensor, a: int, b: int) -> dict[str, float]:
    """What each write adds to logit a - logit b at the last position: hooks, float64 and the formula of the norm."""
    row = FAMILIES[family]
    seen = record(model, row, ids)
    state = seen["resid_post", row.n_layers - 1][0, -1].double()
    head = model.get_output_embeddings()
    final = next(m for name, m in reversed(list(model.named_modules())) if "norm" in name or name.endswith("ln_f"))
    gain = final.weight.detach().double() + row.norm_offset
    direction = gain * (head.weight[a] - head.weight[b]).detach().double() * row.logit_scale

    def centre(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean() if row.norm == "layer" else x

    eps = next(getattr(final, k) for k in ("eps", "variance_epsilon") if hasattr(final, k))
    s = (centre(state).square().mean() + eps).sqrt()
    sites = {f"L{k}.{w}": seen[f"{w}_out", k][0, -1] for k in range(row.n_layers) for w in ("attn", "mlp")}
    return {name: float(direction @ centre(y.double()) / s) for name, y in sites.items()}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2", "granite"])
def test_components_equal_hooks_and_the_formula(family: str) -> None:
    study = run(wordy.model(family), ASK)
    got = study.arrays["by_component"].isel(prompt=0)
    hf = build(family)
    want = contributions(hf, family, torch.tensor([[5, 6, 7, 8, 9, 6]]), 11, 12)
    for name, value in want.items():
        assert float(got.sel(term=name)) == pytest.approx(value, rel=1e-4, abs=1e-6), name
    logits = hf(torch.tensor([[5, 6, 7, 8, 9, 6]])).logits[0, -1]
    assert float(got.sum()) == pytest.approx(float(logits[11] - logits[12]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("family", FAMILY)
def test_every_check_passes_on_every_family(family: str) -> None:
    study = run(wordy.model(family), ASK)
    assert study.ok, [check for check in study.checks if not check.passed]
    names = [check.name for check in study.checks]
    layers = FAMILIES[family].n_layers
    assert [n for n in names if n.startswith("residual sum")] == [f"residual sum, L{k}" for k in range(layers)]
    assert [n for n in names if n.startswith("sum by")] == [
        f"sum by {by}" for by in ("layer", "component", "head", "source")
    ]
    assert study.findings[0].startswith(f"All {len(names)} checks passed")


def test_ranks_and_probabilities_are_the_models_own() -> None:
    study = run(wordy.model(), ASK)
    p = build("gpt2")(torch.tensor([[5, 6, 7, 8, 9, 6]])).logits[0, -1].double().softmax(-1)
    table = study.arrays["next_tokens"].isel(prompt=0)
    assert table["token_id"].values.tolist() == p.topk(10).indices.tolist()
    assert table["probability"].values == pytest.approx(p.topk(10).values.tolist(), rel=1e-4)
    for kind, i in (("answer", 11), ("foil", 12)):
        assert int(table[f"{kind}_rank"]) == int((p > p[i]).sum())
        assert float(table[f"{kind}_probability"]) == pytest.approx(float(p[i]), rel=1e-4)


def test_bos_sensitivity_equals_two_plain_forwards() -> None:
    study = run(wordy.model(), ASK)
    ids = [5, 6, 7, 8, 9, 6]
    hf = build("gpt2")
    for name, given in (("with", [0, *ids]), ("without", ids)):
        logits = hf(torch.tensor([given])).logits[0, -1]
        one = study.arrays["bos"].sel(bos=name).isel(prompt=0)
        assert float(one["contrast"]) == pytest.approx(float(logits[11] - logits[12]), rel=1e-4, abs=1e-5)
        assert int(one["answer_rank"]) == int((logits > logits[11]).sum())
    assert any("BOS" in finding for finding in study.findings)


def test_without_a_bos_token_that_part_is_left_out_and_said() -> None:
    study = run(wordy.model(bos=None), ASK)
    assert "bos" not in study.arrays
    assert "no BOS" in study.refused["sensitivity to BOS"]
    assert study.ok


def test_without_answer_and_foil_it_explains_the_first_choice_against_the_mean() -> None:
    study = run(wordy.model(), Settings((PROMPT,)))
    logits = build("gpt2")(torch.tensor([[5, 6, 7, 8, 9, 6]])).logits[0, -1]
    assert int(study.arrays["next_tokens"]["answer_rank"][0]) == 0
    total = float(study.arrays["by_head"].sum())
    assert total == pytest.approx(float(logits.max() - logits.mean()), rel=1e-4)
    assert "centred logit" in " ".join(study.findings)


@pytest.mark.parametrize("second", ["w3|w4|w9|w9|w2|w1", "w3|w4"])
def test_several_prompts_equal_each_alone(second: str) -> None:
    model = wordy.model("llama")
    texts = (PROMPT, second)
    together = run(model, Settings(texts, ("w11", "w12"), ("w14",)))
    assert together.ok
    for i, text in enumerate(texts):
        alone = run(model, Settings((text,), (f"w{11 + i}",), ("w14",)))
        for name in ("by_layer", "by_head"):
            got, want = together.arrays[name].isel(prompt=i), alone.arrays[name].isel(prompt=0)
            np.testing.assert_allclose(got.values, want.values, rtol=2e-4, atol=1e-6)
        assert f"Prompt {i}," in " ".join(together.findings)
    assert re.search(r"first choice in \d of 2 prompts", together.title)
    check = study_page(together)
    assert check.count("<details>") > 2 and "prompt 1" in check


# -- sentences follow from the numbers ---------------------------------------------------------------------------------


def test_the_findings_say_what_the_arrays_hold() -> None:
    study = run(wordy.model(), ASK)
    text = " ".join(study.findings)
    terms = study.arrays["by_component"].isel(prompt=0)
    top = int(np.abs(terms.values).argmax())
    assert f"{terms.term.values[top]} (" in text
    margin = float(study.arrays["next_tokens"]["answer_logit"][0] - study.arrays["next_tokens"]["foil_logit"][0])
    assert (" leads " in study.title) == (margin > 0)
    swapped = run(wordy.model(), dataclasses.replace(ASK, answers=("w12",), foils=("w11",)))
    assert (" leads " in swapped.title) == (margin < 0)
    frozen, true = (float(terms[f"removal_{k}"][top]) for k in ("frozen", "true"))
    assert f"{frozen:+.2f}"[:4] in text and f"{true:+.2f}"[:4] in text


# -- checks that fail --------------------------------------------------------------------------------------------------


def failing(model: cutaway.Model) -> set[str]:
    return {check.name for check in run(model, ASK).checks if not check.passed}


def test_a_wrong_final_norm_is_noticed() -> None:
    model = wordy.model()
    norm = model.anatomy.final_norm
    assert norm is not None and norm.gain is not None
    wrong = dataclasses.replace(norm, gain=norm.gain * 1.01)
    model._measured = dataclasses.replace(model._measured, final_norm=wrong)
    model._known = [(Seen(model.hf), model._measured)]
    found = failing(model)
    assert {"final norm", "norm applied once"} <= found
    assert set(SUMS) <= found


def test_a_wrong_factor_of_a_write_is_noticed() -> None:
    model = wordy.model()
    block = model.anatomy.blocks[1]
    writes = tuple(dataclasses.replace(w, scale=1.01) if w.kind == "mlp" else w for w in block.writes)
    blocks = (model.anatomy.blocks[0], dataclasses.replace(block, writes=writes), *model.anatomy.blocks[2:])
    model._measured = dataclasses.replace(model._measured, blocks=blocks)
    model._known = [(Seen(model.hf), model._measured)]
    found = failing(model)
    assert "residual sum, L1" in found and "residual sum, L0" not in found
    assert "sum by component" in found and "sum by layer" not in found


def test_a_wrong_embedding_factor_is_noticed() -> None:
    model = wordy.model()
    parts = tuple(dataclasses.replace(part, scale=1.01) for part in model.anatomy.embedding)
    model._measured = dataclasses.replace(model._measured, embedding=parts)
    model._known = [(Seen(model.hf), model._measured)]
    assert "embedding" in failing(model)


class Leaky(nn.Module):
    """An attention whose output also looks ahead."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: object, **kwargs: object) -> tuple:
        out, *rest = self.inner(*args, **kwargs)
        return out + 0.01 * out.mean(dim=1, keepdim=True), *rest


def test_a_model_that_looks_ahead_is_noticed_and_the_study_says_so() -> None:
    hf = build("gpt2")
    hf.transformer.h[0].attn = Leaky(hf.transformer.h[0].attn)
    study = run(cutaway.Model(hf, wordy.tokenizer(wordy.words())), ASK)
    failed = [check.name for check in study.checks if not check.passed]
    assert failed == ["later tokens"]
    assert not study.ok
    assert "must not be used" in study.findings[0] and "later tokens" in study.findings[0]


def test_what_the_model_does_not_permit_is_named_and_the_rest_is_done() -> None:
    study = run(wordy.model("mamba"), ASK)
    assert set(study.refused) == {"attribution by head", "attribution by source", "attention"}
    assert "by_component" in study.arrays and study.ok


# -- result folders ----------------------------------------------------------------------------------------------------


def test_the_folder_reads_back_to_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(wordy.folder(tmp_path / "m"))
    args = ["study", "attribution", "-m", model, "-p", PROMPT, "--answer", "w11", "--foil", "w12", "-o"]
    assert command([*args, str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "result.zarr",
        "result.json",
        "report.html",
        "command.txt",
    }
    arrays, facts = open_result(tmp_path / "out")
    want = run(cutaway.load(model), ASK)
    assert facts["findings"] == want.findings and facts["title"] == want.title
    assert facts["kind"] == "study attribution" and facts["ok"] is True
    assert (tmp_path / "out" / "command.txt").read_text() == facts["command"] + "\n"
    assert facts["command"].startswith("cutaway study attribution -m ")
    for name, array in want.arrays.items():
        made = array if isinstance(array, xr.Dataset) else array.to_dataset(name=array.name)
        xr.testing.assert_allclose(arrays[name], array)
        assert type(arrays[name]) is type(array)
        for variable in made.data_vars:
            data = np.asarray(facts["arrays"][name]["data_vars"][variable]["data"])
            if data.dtype.kind in "if":
                np.testing.assert_allclose(data, made[variable].values)
    capsys.readouterr()
    before = (tmp_path / "out" / "result.json").read_bytes()
    assert command([*args, str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    assert command([*args, str(tmp_path / "out"), "--force"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "out"]


def test_force_never_removes_a_folder_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(BadInput, match="other things"):
        save_result(tmp_path / "thesis", {}, FACTS, force=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_result(tmp_path / "r", {"a": xr.Dataset({"x": ("i", [1.0])})}, {**FACTS, "old": True})

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cutaway.saving.write_file", fail)
    for name in ("r", "s"):
        with pytest.raises(NoRoom, match="No space left"):
            save_result(tmp_path / name, {"a": xr.Dataset({"x": ("i", [2.0])})}, FACTS, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    assert open_result(tmp_path / "r")[1]["old"] is True


def test_the_study_as_json_html_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["study", "attribution", "-p", "The capital of Poland is", "--answer", " Warsaw", "--foil", " Berlin"]
    assert command([*args, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema_version"] == 1 and len(facts["checks"]) > 8
    assert command([*args, "-o", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    capsys.readouterr()
    assert command(args) == 0
    said = capsys.readouterr().out
    assert said.startswith(facts["title"]) and "passed" in said


def test_a_failed_check_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hf = build("gpt2")
    hf.transformer.h[0].attn = Leaky(hf.transformer.h[0].attn)
    leaky = cutaway.Model(hf, wordy.tokenizer(wordy.words()))
    monkeypatch.setattr("cutaway.loading.load", lambda *args, **kwargs: leaky)
    assert command(["study", "attribution", "-p", PROMPT]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_the_demo_leads_to_a_report_of_every_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert command(["demo", "-o", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(folder / "index.html")
    links = re.findall(r'href="([^"]+)"', (folder / "index.html").read_text(encoding="utf-8"))
    assert len(links) >= 2 and all((folder / link).is_file() for link in links)
    assert command(["demo", "-o", str(folder)]) == 2
    assert command(["demo", "-o", str(folder), "--force"]) == 0


def test_the_pocket_model_knows_the_demo() -> None:
    study = run(cutaway.load("pocket"), demo())
    assert study.ok
    assert int(study.arrays["next_tokens"]["answer_rank"][0]) == 0


def test_its_arrays_are_those_that_were_promised() -> None:
    promised("attribution", run(wordy.model(), ASK))
