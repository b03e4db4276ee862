"""Head scores against patterns planted by hand and against the attention that transformers itself returns."""

from __future__ import annotations

import pytest
import torch

import cutaway
from cutaway.readout.head_scores import SCORES, head_scores, pattern_scores, repeated_ids, role_attention
from families import FAMILIES, build

PERIOD, START = 7, 1


def planted(back: int) -> torch.Tensor:
    """A head that always looks `back` tokens back, and at the first token where that does not exist."""
    n = START + 2 * PERIOD
    pattern = torch.zeros(1, 1, n, n)
    for t in range(n):
        pattern[0, 0, t, max(t - back, 0)] = 1.0
    return pattern


@pytest.mark.parametrize(("name", "back"), [
    ("previous_token", 1), ("duplicate_token", PERIOD), ("induction", PERIOD - 1),
])  # fmt: skip
def test_a_planted_head_scores_one_on_its_own_score_and_nothing_on_the_others(name, back):
    scores = pattern_scores(planted(back), START, PERIOD)
    assert {k: float(v) for k, v in scores.items()} == {k: float(k == name) for k in SCORES}


def test_uniform_attention_has_the_closed_form():
    n = START + 2 * PERIOD
    pattern = torch.tril(torch.ones(n, n))
    pattern = (pattern / pattern.sum(-1, keepdim=True))[None, None]
    scores = pattern_scores(pattern, START, PERIOD)
    expect = {
        "previous_token": sum(1 / (t + 1) for t in range(START + 1, n)) / (2 * PERIOD - 1),
        "duplicate_token": sum(1 / (t + 1) for t in range(START + PERIOD, n)) / PERIOD,
    }
    expect["induction"] = expect["duplicate_token"]
    assert {k: float(v) for k, v in scores.items()} == pytest.approx(expect, rel=1e-6)


def test_a_pattern_of_another_size_is_refused():
    with pytest.raises(cutaway.BadInput, match="two copies"):
        pattern_scores(planted(1), START + 1, PERIOD)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3", "mistral"])
def test_scores_equal_those_from_the_attention_that_transformers_returns(model_of, family):
    row = FAMILIES[family]
    scores = head_scores(model_of(family, row.attn[-1]), rows=3, period=9, seed=5)
    prompts = repeated_ids(model_of(family), rows=3, period=9, seed=5)
    assert prompts.n_positions == 18
    hf = build(family, "eager")
    with torch.no_grad():
        attentions = hf(prompts.ids, output_attentions=True).attentions
    for name, back, queries in (
        ("previous_token", 1, range(1, 18)),
        ("duplicate_token", 9, range(9, 18)),
        ("induction", 8, range(9, 18)),
    ):
        for i in range(3):
            for layer in range(row.n_layers):
                for head in range(row.n_heads):
                    own = [float(attentions[layer][i, head, t, t - back]) for t in queries]
                    assert float(scores[name][i, layer, head]) == pytest.approx(sum(own) / len(own), abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_losses_of_the_copies_equal_the_models_own(model_of, family):
    model = model_of(family)
    scores = head_scores(model, rows=2, period=6, seed=1)
    prompts = repeated_ids(model, rows=2, period=6, seed=1)
    with torch.no_grad():
        logits = build(family)(prompts.ids).logits
    for i in range(2):
        nll = [float(-logits[i, t - 1].log_softmax(-1)[prompts.ids[i, t]]) for t in range(1, 12)]
        assert float(scores["loss_first"][i]) == pytest.approx(sum(nll[:5]) / 5, rel=1e-5)
        assert float(scores["loss_second"][i]) == pytest.approx(sum(nll[6:]) / 5, rel=1e-5)


def test_ids_repeat_once_are_all_different_and_avoid_special_ids():
    model = cutaway.load("pocket")
    prompts = repeated_ids(model, rows=4, period=20, seed=2)
    assert (prompts.ids[:, 0] == model.tokenizer.bos_token_id).all()
    assert (prompts.ids[:, 1:21] == prompts.ids[:, 21:]).all()
    for row in prompts.ids[:, 1:21].tolist():
        assert len(set(row)) == 20 and not set(row) & set(model.tokenizer.all_special_ids)
    assert repeated_ids(model, rows=1, period=500).n_positions <= model.context
    assert repeated_ids(model, rows=1, period=5, bos=False).n_positions == 10
    assert int(repeated_ids(model, rows=1, period=5, ids=(100, 110)).ids[0, 1:].min()) >= 100
    with pytest.raises(cutaway.BadInput, match="cannot be drawn"):
        repeated_ids(model, period=20, ids=(100, 110))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_role_attention_equals_the_attention_that_transformers_returns(model_of, family):
    ids = torch.randint(3, 90, (3, 10), generator=torch.Generator().manual_seed(4))
    roles = {"A": [1, 2, 3], "B": [5, 7, 4], "END": [9, 9, 9]}
    trace = model_of(family).trace(cutaway.Prompts(ids=ids, roles=roles))
    found = role_attention(trace, [("B", "A"), ("END", "B")])
    with torch.no_grad():
        attentions = build(family, "eager")(ids, output_attentions=True).attentions
    for pair, (query, key) in {"B to A": ("B", "A"), "END to B": ("END", "B")}.items():
        for i in range(3):
            for layer, pattern in enumerate(attentions):
                own = pattern[i, :, roles[query][i], roles[key][i]]
                got = torch.from_numpy(found.sel(pair=pair)[i, layer].values)
                torch.testing.assert_close(got, own.double(), atol=1e-6, rtol=0)


def test_role_attention_respects_ragged_prompts(model_of):
    model = model_of("gpt2")
    long, short = [5, 9, 11, 40, 7, 3], [8, 9, 30, 4]
    both = cutaway.Prompts(ids=[long, short], roles={"A": [1, 1]})
    alone = cutaway.Prompts(ids=[short], roles={"A": [1]})
    a = role_attention(model.trace(both), [("END", "A")]).values[1]
    b = role_attention(model.trace(alone), [("END", "A")]).values[0]
    assert abs(a - b).max() < 1e-6


def test_an_unknown_role_no_pair_and_a_model_without_attention(model_of):
    trace = model_of("gpt2").trace(cutaway.Prompts(ids=[[4, 5, 6]]))
    with pytest.raises(cutaway.BadInput, match="no role 'S2'"):
        role_attention(trace, [("END", "S2")])
    with pytest.raises(cutaway.BadInput, match="no pair"):
        role_attention(trace, [])
    with pytest.raises(cutaway.Refused):
        head_scores(model_of("mamba"))


def test_a_context_that_goes_by_another_name_is_kept_to() -> None:
    """MPT has a table of biases of `max_seq_len` positions."""
    model = cutaway.Model(build("mpt"))
    longest = model.config.max_seq_len
    assert model.context == longest
    model.hf(torch.full((1, longest), 5))
    with pytest.raises(
        cutaway.BadInput, match=f"Prompt 0 has {longest + 1} tokens, more than the context of {longest}"
    ):
        model.trace(cutaway.Prompts(ids=torch.full((1, longest + 1), 5)))
    assert head_scores(model, rows=2, period=longest).attrs["period"] == longest // 2
