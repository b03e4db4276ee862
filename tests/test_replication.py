"""Published figures: the comparison, with figures computed here by plain Hugging Face code and processed weights."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import cutaway
from cutaway.cli import run
from cutaway.loading import load
from cutaway.replication import PUBLICATIONS, Figure, Outcome, Publication, compare
from cutaway.replication.attribution import attribution_figures

PROMPT, ANSWER, OTHERS = "The capital of Poland is", " Warsaw", (" Berlin", " the", " Paris")
POCKET = str(Path(cutaway.__file__).parent / "pocket")


@cache
@torch.no_grad()
def by_hand() -> dict[str, float]:
    """The notebook's quantities on the pocket model, with its weights processed as TransformerLens processes them.

    Gain and bias of the final norm go into the unembedding, which is then centred over its input and over the
    vocabulary; the stream is centred over its width; and the final norm has nothing left but the division.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float64)
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt").input_ids
    states = []
    norm = model.transformer.ln_f
    norm.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    attended = []
    model.transformer.h[-1].attn.register_forward_hook(lambda module, args, out: attended.append(out[0]))
    out = model(ids, output_hidden_states=True)
    stream = [*out.hidden_states[:-1], states[0]]  # the last of hidden_states has passed the final norm
    stream = [x[0, -1] - x[0, -1].mean() for x in stream]

    W_U = norm.weight[:, None] * model.lm_head.weight.T
    b_U = norm.bias @ model.lm_head.weight.T
    W_U = W_U - W_U.mean(0, keepdim=True)
    W_U, b_U = W_U - W_U.mean(1, keepdim=True), b_U - b_U.mean()
    s = (stream[-1].square().mean() + norm.eps).sqrt()
    logits = stream[-1] / s @ W_U + b_U
    p = logits.softmax(-1)

    def token(text: str) -> int:
        (found,) = tokenizer(text, add_special_tokens=False).input_ids
        return found

    t = token(ANSWER)
    me = "␣Warsaw"
    n = len(stream) - 1
    attn = attended[0][0, -1]
    figures = {
        "tokens of the prompt": float(ids.shape[1]),
        f"rank({me})": float((logits > logits[t]).sum()),
        f"centred logit({me})": float(logits[t]),
        f"centred bias of {me}": float(b_U[t]),
        "1/s": float(1 / s),
        f"p({me})": float(p[t]),
    }
    for text in OTHERS:
        name = text.replace(" ", "␣")
        figures[f"p({name})"] = float(p[token(text)])
        figures[f"logit({name}) - logit({me})"] = float(logits[token(text)] - logits[t])
    for k in range(n):
        figures[f"<{me}, L{k}>"] = float(W_U[:, t] @ (stream[k + 1] - stream[k]))
    figures[f"<{me}, L{n - 1}.attn>"] = float(W_U[:, t] @ (attn - attn.mean()))
    figures[f"<{me}, L{n - 1}.mlp>"] = figures[f"<{me}, L{n - 1}>"] - figures[f"<{me}, L{n - 1}.attn>"]
    return figures


def published() -> tuple[Figure, ...]:
    return tuple(Figure(name, value, 2e-4) for name, value in by_hand().items())


def measured() -> dict[str, float]:
    return attribution_figures(load("pocket"), PROMPT, ANSWER, OTHERS)


def test_figures_computed_independently_are_replicated() -> None:
    outcomes = compare(published(), measured())
    assert len(outcomes) >= 20
    assert [o.figure.name for o in outcomes if not o.passed] == []


def test_the_published_names_are_those_that_are_measured() -> None:
    """Every form of name in the table is one that is measured: a misspelt one would only ever fail."""
    others = {"␣the", "␣London", "␣Dublin", "␣New", "␣B", "␣England", "␣a", "␣Belfast", "␣Paris"}
    forms = {name.replace("␣Warsaw", "X") for name in measured()}
    for figure in PUBLICATIONS["symbolic-attribution"].figures:
        name = figure.name.replace("␣Ireland", "X")
        for other in others:
            name = name.replace(f"({other})", "(␣Paris)")
        assert name in forms, figure.name


def test_the_published_table_is_consistent_with_itself() -> None:
    """Its parts add up, so no figure was copied wrongly: terms to the logit, L5 to its two writes, p to logits."""
    value = {f.name: f.value for f in PUBLICATIONS["symbolic-attribution"].figures}
    me = "␣Ireland"
    attn, mlp = value[f"<{me}, L5.attn>"], value[f"<{me}, L5.mlp>"]
    assert attn + mlp == pytest.approx(value[f"<{me}, L5>"], abs=1e-4)
    embed = 0.13472  # the notebook does not print it
    total = (embed + sum(value[f"<{me}, L{k}>"] for k in range(6))) * value["1/s"] + value[f"centred bias of {me}"]
    assert total == pytest.approx(value[f"centred logit({me})"], abs=1e-3)
    for name in ("␣the", "␣England", "␣Paris"):
        ratio = math.exp(value[f"logit({name}) - logit({me})"])
        assert value[f"p({name})"] / value[f"p({me})"] == pytest.approx(ratio, rel=0.015)


def test_every_figure_can_fail() -> None:
    found = measured()
    for name in by_hand():
        wrong = [dataclasses.replace(f, value=f.value + 1.01e-3) if f.name == name else f for f in published()]
        assert [o.figure.name for o in compare(wrong, found) if not o.passed] == [name]


def test_what_was_not_measured_fails() -> None:
    (outcome,) = compare([Figure("x", 0.0, 1.0)], {})
    assert math.isnan(outcome.measured) and not outcome.passed
    assert not Outcome(Figure("x", math.nan, 1.0), 0.0).passed


def pocket_publication(figures: tuple[Figure, ...]) -> Publication:
    return Publication(
        "pocket", "this test", "pocket", figures, lambda m: attribution_figures(m, PROMPT, ANSWER, OTHERS)
    )


def test_the_command_says_pass_or_fail_per_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PUBLICATIONS, "pocket", pocket_publication(published()))
    assert run(["replicate", "pocket"]) == 0
    said = capsys.readouterr().out
    n = len(published())
    assert said.count(" pass") == n and f"{n} of {n} figures replicated." in said
    wrong = (dataclasses.replace(published()[0], value=99.0), *published()[1:])
    monkeypatch.setitem(PUBLICATIONS, "pocket", pocket_publication(wrong))
    assert run(["replicate", "pocket", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [f["passed"] for f in document["publications"][0]["figures"]].count(False) == 1


@pytest.mark.parametrize("extra", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_offline_it_says_so_and_exits_2(extra: dict[str, str], tmp_path: Path) -> None:
    env = {**os.environ, "HF_HOME": str(tmp_path), **extra}
    command = [sys.executable, "-m", "cutaway", "replicate"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Nothing was compared" in done.stderr
    assert ("offline" if "HF_ENDPOINT" in extra else "HF_HUB_OFFLINE") in done.stderr
