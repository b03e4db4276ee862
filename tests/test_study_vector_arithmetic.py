"""The study of vector arithmetic: on the pocket model, on other architectures, as a page and as a command."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

import cutaway
from browsing import needs_browser, proved
from cutaway.cli import run as command
from cutaway.controls import NULL, RUNGS, against, ladder
from cutaway.directions import activations
from cutaway.errors import BadInput
from cutaway.report.shared import study_page
from cutaway.saving import open_result, save_result
from cutaway.steering import Outcomes
from cutaway.studies import STUDIES
from cutaway.studies.study import Study
from cutaway.studies.vector_arithmetic import Settings, demo, run
from cutaway.studies.vector_arithmetic.items import RELATIONS, relation
from cutaway.studies.vector_arithmetic.vectors import choose
from cutaway.tasks.words import (
    CAPITAL_QUESTIONS,
    CAPITAL_STATEMENTS,
    CAPITALS,
    OBJECTS,
    PAST_FRAMES,
    PAST_TENSE,
    PLACES,
    UPPER_FRAMES,
    UPPER_WORDS,
    upper,
)
from public_api import promised
from whole import is_whole

SMALL = Settings(items=14, draws=40, flip_draws=10)


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def study() -> Study:
    return run(pocket(), SMALL)


# -- items ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELATIONS)
def test_each_item_is_asked_once_and_its_own_token_is_what_the_answer_competes_with(name):
    one = relation(pocket(), name, 12)
    function = {"capitals": CAPITALS.__getitem__, "upper_casing": upper, "past_tense": PAST_TENSE.__getitem__}[name]
    assert len(set(one.items)) == len(one) and one.prompts.families == list(one.items)
    for i, item in enumerate(one.items):
        assert item in one.prompts.texts[i] and one.elsewhere.texts[i].count(item) == 2
        assert function(item) not in one.elsewhere.texts[i]
        for prompts in (one.prompts, one.elsewhere):
            assert pocket().token_text(int(prompts.answers[i])) == f" {function(item)}"
            assert pocket().token_text(int(prompts.foils[i])) == f" {item}"
    fit, test = one.halves(0.5, 0)
    assert not set(fit.items) & set(test.items) and len(fit) + len(test) == len(one)


# -- on the pocket model ----------------------------------------------------------------------------------------------


def test_the_study_holds_together():
    done = study()
    assert done.ok, [c for c in done.checks if not c.passed]
    assert not done.refused
    for context in ("elsewhere", "asked"):
        table = done.arrays[f"intervention_{context}"]
        assert list(table["arm"].values) == ["vector", *RUNGS]
        nulls = [a for a in table["arm"].values if str(table["kind"].sel(arm=a).values) == NULL]
        assert (table["n_draws"].sel(arm=nulls) == 40).all()
        assert np.isfinite(table["p_greater"].sel(arm=nulls, outcome="logit change")).all()
        assert table.attrs["operation"] == "intervention"
        assert done.arrays[f"readout_{context}"].attrs["operation"] == "readout edit"
    assert all(len(sentence) > 20 for sentence in done.findings)


def test_what_it_says_of_the_vector_is_what_plain_hooks_on_the_whole_model_give():
    """The headline figure, from the weights: adding the mean write, with a hook, where nobody asked."""
    done = study()
    fit, test = relation(pocket(), "capitals", SMALL.items, SMALL.seed).halves(SMALL.share, SMALL.seed)
    table = done.arrays["choice"]
    layer = int(json.loads(done.run_card["direction"])["layer"])
    strength = float(done.arrays["intervention_elsewhere"].attrs["strength"])
    assert float(table["success"].sel(layer=layer, scale=strength)) == float(table["success"].max())
    hf = pocket().hf
    v = activations(pocket(), fit.prompts, "mlp_out", layer).mean(0)

    def hook(module, args, output):
        output = output.clone()
        output[:, -1] += strength * v
        return output

    wins = []
    for i in range(len(test)):
        ids = test.elsewhere.ids[i : i + 1, : int(test.elsewhere.lengths[i])]
        handle = hf.transformer.h[layer].mlp.register_forward_hook(hook)
        with torch.no_grad():
            top = int(hf(ids).logits[0, -1].argmax())
        handle.remove()
        wins.append(top == int(test.elsewhere.answers[i]))
    found = done.arrays["intervention_elsewhere"].sel(outcome="success", arm="vector")
    np.testing.assert_allclose(found["value"].values, wins)
    assert float(found["mean"]) == pytest.approx(np.mean(wins))


def test_the_pocket_model_has_no_argument_stage_where_it_is_asked_and_the_study_says_so():
    data = study().arrays["stages"]
    asked = data.isel(prompt=np.flatnonzero(data["context"] == "asked"))
    assert (asked["formation"] == -1).all() and (asked["switch"].sel(reading="top") == -1).all()
    elsewhere = data.isel(prompt=np.flatnonzero(data["context"] == "elsewhere"))
    assert (elsewhere["formation"] >= 0).all()
    assert any("no stage of argument formation" in sentence for sentence in study().findings)
    assert np.isnan(study().arrays["readout_asked"]["mean"].sel(outcome="top: score")).all()  # counted, not scored


def test_the_null_of_the_pair_is_the_closed_form_and_the_boundary_is_nearest():
    data = study().arrays["flip_curves"]
    share = data["share"].sel(arm="isotropic", measure="pair")
    assert float(np.abs(share - data["null"]).max()) < 0.2  # ten draws an item
    assert float(np.abs(share - data["null"]).mean()) < 0.03
    middle = data["median"].sel(measure="target").isel(layer=-1)
    assert (middle.sel(arm="boundary") <= middle.min("arm")).all()
    assert (data["share"].diff("step") >= 0).all()


def test_the_chosen_layer_and_strength_are_not_chosen_on_the_tested_items():
    one = relation(pocket(), "capitals", 12)
    fit, test = one.halves(0.5, 0)
    swapped = relation(pocket(), "capitals", 12)
    swapped.elsewhere.answers[:] = 0  # what is asked of the tested items cannot matter
    chosen, other = (choose(pocket(), fit, "mlp_out", (1.0, 4.0)) for _ in range(2))
    assert chosen.where == other.where
    assert chosen.direction.independent(test.prompts) == list(range(len(test)))
    assert chosen.direction.independent(fit.prompts) == []


def test_the_same_seed_gives_the_same_draws_and_without_another_relation_a_rung_is_left_out():
    few = Settings(items=10, relations=("capitals",), draws=12, flip_draws=10)
    one, name = run(pocket(), few), "intervention_elsewhere"
    assert "another relation" not in one.arrays[name]["arm"].values  # there is none to take it from
    assert study_page(one)
    fit, test = relation(pocket(), "capitals", few.items, few.seed).halves(few.share, few.seed)
    chosen = choose(pocket(), fit, few.site, few.strengths)
    outcomes = Outcomes(pocket(), test.elsewhere, chosen.where)
    for seed, equal in ((0, True), (1, False)):
        rungs = ladder(chosen.direction, draws=12, seed=seed, only=["isotropic"])
        again = against(outcomes, chosen.direction, rungs, test.items)["draw_mean"].sel(arm="isotropic")
        first = one.arrays[name]["draw_mean"].sel(arm="isotropic")
        assert np.allclose(again.sel(outcome="logit change"), first.sel(outcome="logit change"), atol=1e-4) == equal


# -- other architectures ----------------------------------------------------------------------------------------------


def _tokenizer() -> PreTrainedTokenizerFast:
    frames = [*CAPITAL_STATEMENTS.values(), *CAPITAL_QUESTIONS.values(), *PAST_FRAMES.values(), *UPPER_FRAMES.values()]
    text = " ".join(frames).replace("{argument}", " ")
    split = pre_tokenizers.Whitespace().pre_tokenize_str(text)
    words = [w for w, _ in split] + [*CAPITALS, *CAPITALS.values(), *PAST_TENSE, *PAST_TENSE.values(), *UPPER_WORDS]
    words += [*map(upper, UPPER_WORDS), *OBJECTS, *PLACES, "in"]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(["[UNK]", *words]))}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


_COMMON = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": lambda n: LlamaConfig(vocab_size=n, **_GROUPED),
    "gpt_neox": lambda n: GPTNeoXConfig(vocab_size=n, **_COMMON),  # attention and MLP in parallel, LayerNorm
    "gemma2": lambda n: Gemma2Config(vocab_size=n, **_GROUPED),  # post-norms, soft-cap
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_other_architectures_get_the_whole_study_and_a_random_model_gets_no_finding(name):
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIGS[name](len(tokenizer)), attn_implementation="eager").eval()
    done = run(
        cutaway.Model(hf, tokenizer, name=name),
        Settings(
            items=8, relations=("capitals", "past_tense"), draws=20, flip_draws=10, strengths=(1.0, 4.0), held_out=False
        ),
    )
    assert done.ok, [c for c in done.checks if not c.passed]
    table = done.arrays["intervention_elsewhere"].sel(outcome="success")
    assert float(table["mean"].sel(arm="vector")) < 0.5
    assert study_page(done)


# -- page, file, command ----------------------------------------------------------------------------------------------


def test_the_page_shows_every_part_and_the_result_comes_back(tmp_path):
    page = study_page(study())
    for heading in ("Stages", "Interventions against controls", "Readout edits", "Layer and strength",
                    "How far until it flips", "Replace or add", "Specificity", "Before | after"):  # fmt: skip
        assert heading in page
    assert 'data-changed="yes"' in page and "covariance" in page and page.count("<script") == 2
    save_result(tmp_path / "out", study().arrays, study().document())
    arrays, facts = open_result(tmp_path / "out")
    assert facts["title"] == study().title and set(arrays) == set(study().arrays)
    np.testing.assert_allclose(arrays["map"]["change"], study().arrays["map"]["change"])


def test_the_study_is_in_the_demo_with_smaller_settings():
    assert "vector-arithmetic" in STUDIES
    assert demo().draws < Settings().draws == 1000


def test_the_command_writes_a_folder_saves_the_vector_and_takes_it_again(tmp_path, capsys):
    few = ["--items", "10", "--draws", "12", "--flip-draws", "10"]
    out, vector = tmp_path / "out", tmp_path / "v.safetensors"
    assert command(["study", "vector-arithmetic", *few, "-o", str(out), "--save-vector", str(vector)]) == 0
    assert (out / "report.html").is_file() and "vector-arithmetic" in (out / "command.txt").read_text()
    said = capsys.readouterr()
    assert said.out.startswith("Added at L") and "wrote" in said.err
    saved = cutaway.direction(vector, pocket())
    assert saved.how == "mean update" and saved.norm > 0
    assert command(["study", "vector-arithmetic", *few, "--vector", str(vector), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    again, first = facts["arrays"]["intervention_elsewhere"], open_result(out)[0]["intervention_elsewhere"]
    np.testing.assert_allclose(
        np.array(again["data_vars"]["mean"]["data"], float)[0, 0], float(first["mean"][0, 0]), rtol=1e-5
    )
    assert command(["study", "vector-arithmetic", *few, "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err


def test_bad_settings_are_one_clear_message(capsys):
    with pytest.raises(BadInput, match="no relation"):
        run(pocket(), Settings(relation="capital"))
    assert command(["study", "vector-arithmetic", "--layer", "9", "--items", "10"]) == 2
    assert "no layer 9" in capsys.readouterr().err
    assert command(["study", "vector-arithmetic", "--vector", "nowhere.safetensors", "--items", "10"]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err


def test_its_arrays_are_those_that_were_promised() -> None:
    promised("vector-arithmetic", study())


def test_every_picture_is_whole():
    is_whole(study())


@pytest.mark.browser
@needs_browser
def test_the_page_in_a_browser(tmp_path):
    proved(study_page(study()), tmp_path)
