"""Prompts: what is accepted, what is refused and in which words; loading; BOS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
from cutaway.tokens import shown, token_text
from families import build, token_ids


@pytest.fixture(scope="module")
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


def test_text_is_tokenised_as_the_tokenizer_does_it(pocket: cutaway.Model) -> None:
    text = "The capital of Poland is"
    prompts = pocket.prompts([text, "Mary and John"], answers=[" Warsaw", " John"], foils=" Paris", families=["a", "a"])
    assert prompts.ids[0, : prompts.lengths[0]].tolist() == pocket.tokenizer.encode(text)
    assert prompts.bos == "added by the tokenizer"
    assert "".join(prompts.tokens[0][1:]) == text
    assert pocket.token_text(int(prompts.answers[0])) == " Warsaw"
    assert prompts.foils.tolist() == [pocket.token_id(" Paris")] * 2
    assert prompts.families == ["a", "a"] and prompts.ragged
    assert prompts.at("END").tolist() == (prompts.lengths - 1).tolist() == prompts.at(-1).tolist()
    bare = pocket.prompts(text, bos=False)
    assert bare.ids[0].tolist() == prompts.ids[0, 1 : prompts.lengths[0]].tolist() and bare.bos == "none"
    assert pocket.prompts(text, bos=True).ids.tolist() == pocket.prompts(text).ids.tolist()


def test_ids_are_used_as_they_are() -> None:
    ids = token_ids(2, 5)
    prompts = cutaway.Prompts(ids=ids, answers=torch.tensor([1, 2]), roles={"S": [1, -2]})
    assert torch.equal(prompts.ids, ids) and prompts.roles["S"].tolist() == [1, 3]
    some = prompts[[1]]
    assert torch.equal(some.ids, ids[1:]) and some.answers.tolist() == [2] and some.roles["S"].tolist() == [3]
    assert prompts.hash() != some.hash() == cutaway.Prompts(ids=ids, answers=[1, 2], roles={"S": [1, -2]})[[1]].hash()
    padded = cutaway.Prompts(ids=ids, lengths=[5, 3])
    assert padded.mask.sum().item() == 8 and padded.ids[1, 3:].eq(0).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: m.prompts(["The cat", ""]), "Prompt 1 is empty"),
        (lambda m: m.prompts([]), "no prompts"),
        (lambda m: m.prompts("The", answers=" Constantinople"), r"the answer ' Constantinople' is \d tokens \(␣"),
        (
            lambda m: m.prompts(["The cat", "The dog"], answers=[" Mary", "Xyzzy"]),
            r"Prompt 1 \('The dog'\): the answer",
        ),
        (lambda m: m.prompts(["a", "b"], answers=[" Mary"] * 3), "2 prompts but 3 answers"),
        (lambda m: m.prompts("a", answers=10**6), "outside the vocabulary"),
        (lambda m: m.prompts("The cat " * 300), "more than the model's context of"),
        (lambda m: m.prompts("The cat", roles={"S": " dog"}), "occurs 0 times"),
        (lambda m: m.prompts("The cat", roles={"S": 40}), "position 40, but the prompt has"),
        (lambda m: m.prompts(["The cat", "A dog"], families=["x"]), "2 prompts but 1 families"),
        (lambda m: cutaway.Prompts(ids=[[1, 2], []]), "Prompt 1 is empty"),
        (lambda m: cutaway.Prompts(ids=[[1, -2]]), "token id -2"),
        (lambda m: cutaway.Prompts(ids=torch.rand(2, 3)), "must be integers"),
        (lambda m: cutaway.Prompts(ids=[["a"]]), "one sequence of integers"),
        (lambda m: m.trace(cutaway.Prompts(ids=[[10**6]])), "outside the model's"),
        (lambda m: m.top(["The cat", "A dog"]), "one prompt"),
        (lambda m: cutaway.load("pocket", dtype="float31"), "not a dtype"),
        (lambda m: cutaway.Model(m.hf).prompts("The"), "no tokenizer"),
    ],
)
def test_bad_input_gets_one_clear_message(pocket: cutaway.Model, make, says: str) -> None:
    with pytest.raises(cutaway.BadInput, match=says) as caught:
        make(pocket)
    assert "\n" not in str(caught.value)


def test_a_role_found_twice_is_an_error(pocket: cutaway.Model) -> None:
    with pytest.raises(cutaway.BadInput, match="occurs 2 times at positions"):
        pocket.prompts("then Mary saw Mary", roles={"S": " Mary"})


def test_the_next_token_table(pocket: cutaway.Model) -> None:
    table = pocket.top("The capital of Poland is", k=3)
    ids = torch.tensor([pocket.tokenizer.encode("The capital of Poland is")])
    with torch.no_grad():
        log_p = pocket.hf(ids).logits[0, -1].log_softmax(-1)
    assert table["token_id"].values.tolist() == log_p.topk(3).indices.tolist()
    assert np.allclose(table["log_probability"], log_p.topk(3).values, atol=1e-5)
    assert table["token"].values[0] == pocket.token_text(int(log_p.argmax()))
    assert {"model", "fingerprint", "dtype", "torch", "prompts_hash"} <= set(table.attrs)


def test_bos_sensitivity_equals_two_plain_forwards(pocket: cutaway.Model) -> None:
    text, answer, foil = "The capital of Poland is", " Warsaw", " Paris"
    got = cutaway.bos_sensitivity(pocket, text, answer, foil)
    ids = pocket.tokenizer.encode(text, add_special_tokens=False)
    a, f = pocket.token_id(answer), pocket.token_id(foil)
    for name, row in (("with", [pocket.tokenizer.bos_token_id, *ids]), ("without", ids)):
        with torch.no_grad():
            logits = pocket.hf(torch.tensor([row])).logits[0, -1].double()
        assert abs(float(got["contrast"].sel(bos=name)[0]) - float(logits[a] - logits[f])) < 1e-4
        assert int(got["answer_rank"].sel(bos=name)[0]) == int((logits > logits[a]).sum())
    assert float(got["kl"][0]) >= 0


def test_load_from_a_folder_in_any_dtype_and_only_safetensors(tmp_path: Path) -> None:
    hf = build("llama")
    hf.save_pretrained(tmp_path / "safe")
    model = cutaway.load(tmp_path / "safe")
    ids = token_ids(1, 5)
    assert model.name == "safe" and model.dtype == torch.float32 and model.tokenizer is None
    hf.set_attn_implementation(model.hf.config._attn_implementation)
    assert torch.equal(model.hf(ids).logits, hf(ids).logits)
    assert cutaway.load(tmp_path / "safe", dtype="bfloat16").dtype == torch.bfloat16
    hf.save_pretrained(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(hf.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(cutaway.BadInput, match="could not be loaded"):
        cutaway.load(tmp_path / "pickled")


def test_tokens_are_never_invisible(pocket: cutaway.Model) -> None:
    assert shown(" a\n\t\u202eb\x1b[31m") == "␣a↵⇥⟨U+202E⟩b⟨U+001B⟩[31m"
    assert shown("") == "∅"
    assert token_text(None, 7) == "#7" and token_text(pocket.tokenizer, 10**7) == "#10000000"
    partial = pocket.tokenizer.encode("é€", add_special_tokens=False)
    assert all(not set(shown(token_text(pocket.tokenizer, i))) & {"\ufffd"} for i in partial)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import cutaway, sys; print(cutaway.__version__, 'torch' in sys.modules, 'xarray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [cutaway.__version__, "False", "False"]
    with pytest.raises(AttributeError, match="has no attribute"):
        cutaway.nonsense
    assert {"Model", "load", "lens", "attribute"} <= set(dir(cutaway))
