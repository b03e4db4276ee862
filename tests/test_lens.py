"""The lens against plain Hugging Face hidden states, normed once and read by the model's own head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway
from conftest import measured
from cutaway import parts
from families import FAMILIES, token_ids
from reference import record

CASES = [n for n, row in FAMILIES.items() if not row.projected]


def plain_lens(model: cutaway.Model, name: str, ids: torch.Tensor) -> torch.Tensor:  # [layer, prompt, position, vocab]
    row = FAMILIES[name]
    seen = record(model.hf, row, ids)
    layers = [seen["resid_post", layer] for layer in range(model.n_layers)]
    with torch.no_grad():
        y = [model.hf.get_output_embeddings()(model.anatomy.final_norm.module(x)) * _scale(model, name) for x in layers]
    y = torch.stack(y).double()
    cap = model.anatomy.unembedding.cap
    return y if cap is None else cap * torch.tanh(y / cap)


def _scale(model: cutaway.Model, name: str) -> float:
    return FAMILIES[name].logit_scale


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_the_lens(name: str) -> None:
    model, ids = measured(name), token_ids(2, 7)
    want = plain_lens(model, name, ids)
    log_p = want.log_softmax(-1)
    got = cutaway.lens(model.trace(cutaway.Prompts(ids=ids)), top=3, of=[5, 17])
    assert dict(got.sizes) == {"prompt": 2, "layer": model.n_layers, "position": 7, "rank": 3, "of": 2}
    order = ("layer", "prompt", "position")
    assert np.allclose(got["probability"].transpose(*order, "rank"), log_p.exp().topk(3).values, atol=1e-5)
    assert np.allclose(got["logit"].transpose(*order, "rank"), want.topk(3).values, atol=1e-4)
    assert np.allclose(got["entropy"].transpose(*order), -(log_p.exp() * log_p).sum(-1), atol=1e-4)
    last = model.hf(ids, use_cache=False).logits.detach().double().log_softmax(-1)
    kl = (last.exp() * (last - log_p)).sum(-1)
    assert np.allclose(got["kl"].transpose(*order), kl, atol=1e-4)
    assert np.allclose(got["of_log_probability"].transpose(*order, "of"), log_p[..., [5, 17]], atol=1e-4)
    ranks = (want[..., None, :] > want[..., [5, 17], None]).sum(-1)
    assert (np.abs(got["of_rank"].transpose(*order, "of").values - ranks.numpy()) > 0).mean() < 0.02  # ties in rounding
    following = ids[:, 1:]
    for p in range(2):
        for t in range(6):
            assert int(got["next_token_id"][p, t]) == int(following[p, t])
            probability = float(log_p[-1, p, t, following[p, t]].exp())
            assert abs(float(got["next_token_probability"][p, -1, t]) - probability) < 1e-5
    assert (got["next_token_id"][:, -1] == -1).all()


def test_tokens_of_each_prompts_own_are_followed_under_a_name() -> None:
    model, ids = measured("gpt2"), token_ids(3, 7)
    trace = model.trace(cutaway.Prompts(ids=ids, answers=[5, 17, 8], foils=[9, 9, 3]))
    own = {"answer": trace.prompts.answers, "foil": trace.prompts.foils}
    got, log_p = cutaway.lens(trace, of=own), plain_lens(model, "gpt2", ids).log_softmax(-1)
    assert got["of"].values.tolist() == ["answer", "foil"] and got["of_id"].dims == ("prompt", "of")
    for i, pair in enumerate(([5, 9], [17, 9], [8, 3])):
        assert got["of_id"][i].values.tolist() == pair
        assert got["of_token"][i].values.tolist() == [model.token_text(t) for t in pair]
        assert np.allclose(got["of_log_probability"].isel(prompt=i).transpose("layer", "position", "of"),
                           log_p[:, i][..., pair], atol=1e-4)  # fmt: skip
    with pytest.raises(cutaway.BadInput, match=r"of='answer' has 2 tokens, and there are 3 prompts"):
        cutaway.lens(trace, of={"answer": [5, 17]})


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama", "gpt_neox"])
def test_the_last_row_is_the_models_own_output(name: str) -> None:
    model, ids = measured(name), token_ids(2, 7)
    got = cutaway.lens(model.trace(cutaway.Prompts(ids=ids)), top=4)
    own = model.hf(ids, use_cache=False).logits.detach().topk(4)
    assert np.allclose(got["logit"].isel(layer=-1), own.values, atol=1e-5)
    assert (got["token_id"].isel(layer=-1).values == own.indices.numpy()).mean() > 0.98
    assert float(got["kl"].isel(layer=-1).max()) < 1e-6


def test_the_final_norm_is_applied_once_where_transformers_has_applied_it_already() -> None:
    """hidden_states[-1] of transformers is normed; a lens built on it norms twice. Ours must differ from that."""
    model, ids = measured("gpt2"), token_ids(2, 7)
    states = model.hf(ids, output_hidden_states=True).hidden_states
    with torch.no_grad():
        twice = model.hf.lm_head(model.hf.transformer.ln_f(states[-1]))
        once = model.hf.lm_head(states[-1])
    got = cutaway.lens(model.trace(cutaway.Prompts(ids=ids)), top=1)["logit"].isel(layer=-1, rank=0)
    assert np.allclose(got, once.max(-1).values, atol=1e-5)
    assert not np.allclose(got, twice.max(-1).values, atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_cumulative_and_lens_differ_by_the_norms_scale(name: str) -> None:
    model, ids = measured(name), token_ids(3, 7)
    prompts = cutaway.Prompts(ids=ids, answers=[5, 6, 7], foils=[8, 9, 10])
    trace = model.trace(prompts)
    points = cutaway.cumulative(trace)
    norm = model.anatomy.final_norm
    last = trace["resid_post", model.n_layers - 1][:, -1].double()
    rows = torch.arange(3)
    for layer in range(model.n_layers):
        x = trace["resid_pre", layer][:, -1]
        raw = model.read_before_cap(x).detach().double()
        lens = raw[rows, [5, 6, 7]] - raw[rows, [8, 9, 10]] - torch.from_numpy(points["bias"].values)
        ratio = (norm.scale(x.double()) / norm.scale(last))[:, 0]
        assert np.allclose(points.sel(point=f"L{layer}.resid_pre"), (lens * ratio).numpy(), atol=1e-4)
    raw = model.read_before_cap(last.float()).detach().double()
    own = raw[rows, [5, 6, 7]] - raw[rows, [8, 9, 10]]
    assert np.allclose(points.isel(point=-1) + points["bias"], own.numpy(), atol=1e-4)
    steps = cutaway.attribute(trace, by="layer")
    between = points.sel(point="L2.resid_pre") - points.sel(point="L1.resid_pre")
    assert np.allclose(between, steps.sel(term="L1"), atol=1e-5)


def test_padding_is_never_read_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = measured("qwen3"), token_ids(2, 7)
    ragged = cutaway.Prompts(ids=[ids[0].tolist(), ids[1, :4].tolist()])
    whole = cutaway.lens(model.trace(ragged), of=[3])
    monkeypatch.setattr(parts, "LOGITS", model.vocab_size * 2)
    small = cutaway.lens(model.trace(ragged), of=[3])
    for name in ("logit", "entropy", "kl", "of_logit"):
        assert np.allclose(whole[name], small[name], atol=1e-5, equal_nan=True)
        assert np.isnan(whole[name][1, :, 4:]).all()
    assert (whole["token"][1, :, 4:] == "").all() and (whole["token_id"][1, :, 4:] == -1).all()
    assert int(whole["next_token_id"][1, 3]) == -1
    alone = cutaway.lens(model.trace(cutaway.Prompts(ids=ids[1:, :4])))
    assert np.allclose(whole["entropy"][1, :, :4], alone["entropy"][0], atol=1e-5)


def test_top_table_of_the_next_token() -> None:
    model, ids = measured("llama"), token_ids(1, 7)
    table = model.top(ids[0].tolist(), k=4)
    logits = model.hf(ids, use_cache=False).logits[0, -1].detach()
    assert np.allclose(table["logit"], logits.topk(4).values, atol=1e-5)
    assert np.allclose(table["probability"], logits.softmax(-1).topk(4).values, atol=1e-6)
    assert table["token_id"].values.tolist() == logits.topk(4).indices.tolist()


def test_the_lens_reads_only_the_stream() -> None:
    trace = measured("gpt2").trace(cutaway.Prompts(ids=token_ids(1, 7)))
    with pytest.raises(cutaway.BadInput, match="reads the residual stream"):
        cutaway.lens(trace, site="mlp_out")
    with pytest.raises(cutaway.Refused, match="final norm"):
        cutaway.lens(measured("opt_post_norm").trace(cutaway.Prompts(ids=token_ids(1, 7))))
