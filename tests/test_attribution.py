"""Attribution against the model's own answers: plain Hugging Face forwards, with parts taken out by plain hooks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import cutaway
from conftest import measured
from families import FAMILIES, build, token_ids
from reference import brute_force_logits, record

ANSWERS, FOILS = [5, 6, 7], [8, 9, 10]
ROWS = torch.arange(3)
BY = ("layer", "component", "head", "neuron", "source")
CASES = [(n, a) for n, row in FAMILIES.items() for a in row.attn if row.decomposable or row.recurrent]
PLAIN = [n for n, row in FAMILIES.items() if row.decomposable and not row.post_norms and not row.moe]


def prompts(**more) -> cutaway.Prompts:
    return cutaway.Prompts(ids=token_ids(3, 9), answers=ANSWERS, foils=FOILS, **more)


def own(logits: torch.Tensor, toward: str) -> np.ndarray:
    logits = logits.detach().double()
    answer, foil = logits[ROWS, ANSWERS], logits[ROWS, FOILS]
    return {
        "contrast": answer - foil,
        "centred": answer - logits.mean(-1),
        "log_prob": logits.log_softmax(-1)[ROWS, ANSWERS],
        "logit": answer,
    }[toward].numpy()


@pytest.mark.parametrize(("name", "attn"), CASES)
def test_the_sum_is_the_models_own_answer(name: str, attn: str) -> None:
    model, row = measured(name, attn), FAMILIES[name]
    trace = model.trace(prompts())
    logits = model.hf(token_ids(3, 9), use_cache=False).logits[:, -1]
    for by in BY:
        for toward in ("contrast", "centred", "log_prob", "logit"):
            try:
                terms = cutaway.attribute(trace, by=by, toward=toward)
            except cutaway.Refused:
                assert row.recurrent or (row.moe and by == "neuron")
                continue
            assert terms.attrs["completeness_error"] <= 1e-6
            size = np.abs(terms.values).sum(1).max()
            assert np.abs(terms.sum("term").values - own(logits, toward)).max() <= 2e-6 * size
            assert np.allclose(terms["total"], own(logits, toward), atol=1e-4)
            assert len(set(terms["term"].values)) == terms.sizes["term"]


@pytest.mark.parametrize("name", [n for n, row in FAMILIES.items() if row.decomposable])
def test_removing_a_component_equals_the_models_own_norm_and_unembedding(name: str) -> None:
    """removal_true: feed x - y_k, with y_k from independent hooks, to the model's own final norm and head."""
    model, row = measured(name), FAMILIES[name]
    ids = token_ids(3, 9)
    seen = record(model.hf, row, ids)
    terms = cutaway.attribute(model.trace(prompts()), by="component")
    x = seen["resid_post", row.n_layers - 1][:, -1]

    def read(x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            y = model.hf.get_output_embeddings()(model.anatomy.final_norm.module(x)) * row.logit_scale
        return own(y, "contrast")

    for layer in range(row.n_layers):
        for kind in ("attn", "mlp"):
            y = seen[f"{kind}_out", layer][:, -1]
            want = read(x - y) - read(x)
            got = terms.sel(term=f"L{layer}.{kind}")["removal_true"].values
            assert np.allclose(got, want, atol=2e-5 * max(1.0, np.abs(want).max())), (layer, kind)
            half = read(x - 1e-3 * y) - read(x)  # the frozen-norm effect is linear; the true one is not
            assert not np.allclose(got, half * 1e3, rtol=1e-6)


def freeze(value: torch.Tensor):
    return lambda old: value


@pytest.mark.parametrize("name", PLAIN)
def test_heads_sources_and_neurons_equal_taking_them_out_with_hooks(name: str) -> None:
    """In the last layer, with the other branch held, a removed part reaches the final norm and nothing else."""
    model, row = measured(name), FAMILIES[name]
    if row.softcap:
        pytest.skip("the contrast before a soft-cap is not an output")
    ids, last = token_ids(3, 9), row.n_layers - 1
    seen = record(model.hf, row, ids)
    base = own(brute_force_logits(model.hf, row, ids, [])[:, -1], "contrast")
    held = ("mlp_out", last, freeze(seen["mlp_out", last]))
    trace = model.trace(prompts())

    def zero(index):
        def edit(old):
            new = old.clone()
            new[index] = 0
            return new

        return edit

    sources = cutaway.attribute(trace, by="source", within=f"L{last}.attn")
    heads = cutaway.attribute(trace, by="head")
    for head in (0, row.n_heads - 1):
        run = brute_force_logits(model.hf, row, ids, [("z", last, zero(np.s_[:, -1, head])), held])
        want = own(run[:, -1], "contrast") - base
        got = heads.sel(term=f"L{last}H{head}")["removal_true"].values
        assert np.allclose(got, want, atol=3e-5 * max(1.0, np.abs(want).max()))
        for key in (0, 7):
            cut = ("pattern", last, zero(np.s_[:, head, -1, key]))
            want = own(brute_force_logits(model.hf, row, ids, [cut, held])[:, -1], "contrast") - base
            got = sources.sel(term=f"L{last}H{head}<-{key}")["removal_true"].values
            assert np.allclose(got, want, atol=3e-5 * max(1.0, np.abs(want).max())), (head, key)
    if row.d_mlp is not None:
        neurons = cutaway.attribute(trace, by="neuron")
        held = ("attn_out", last, freeze(seen["attn_out", last]))
        for n in (0, row.d_mlp // 2):
            run = brute_force_logits(model.hf, row, ids, [("mlp_act", last, zero(np.s_[:, -1, n])), held])
            want = own(run[:, -1], "contrast") - base
            got = neurons.sel(term=f"L{last}.n{n}")["removal_true"].values
            assert np.allclose(got, want, atol=3e-5 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", "olmo2", "granite", "cohere", "mixtral"])
def test_splitting_a_term_gives_that_term(name: str) -> None:
    model = measured(name)
    trace = model.trace(prompts())
    layers, components = cutaway.attribute(trace, by="layer"), cutaway.attribute(trace, by="component")
    heads = cutaway.attribute(trace, by="head")
    for term, whole in (("L1", layers), ("L1.attn", components), ("L2H1", heads)):
        parts = cutaway.split(trace, term)
        assert parts.attrs["completeness_error"] <= 1e-6
        assert np.allclose(parts.sum("term"), whole.sel(term=term), atol=1e-5)
    if not FAMILIES[name].moe:
        assert np.allclose(cutaway.split(trace, "L1.mlp").sum("term"), components.sel(term="L1.mlp"), atol=1e-5)


def test_read_at_any_position_and_role_with_padding() -> None:
    model = measured("llama", "sdpa")
    ids = token_ids(2, 9)
    ragged = cutaway.Prompts(
        ids=[ids[0].tolist(), ids[1, :5].tolist()], answers=[5, 6], foils=[8, 9], roles={"S": [3, 2]}
    )
    terms = cutaway.attribute(model.trace(ragged), by="source", read="S")
    for i, (length, at) in enumerate(((9, 3), (5, 2))):
        logits = model.hf(ids[i : i + 1, :length], use_cache=False).logits[0, at].detach()
        want = float(logits[[5, 6][i]] - logits[[8, 9][i]])
        assert abs(float(terms[i].sum()) - want) < 1e-4
        later = terms[i].where((terms["key"] > at), drop=True)
        assert float(np.abs(later).max()) == 0.0
    several = cutaway.attribute(model.trace(ragged), by="head", read=["S", -1])
    assert several.dims == ("read", "prompt", "term")
    assert np.allclose(several.sel(read="S").sum("term"), terms.sum("term"), atol=1e-4)


def test_log_probability_leaves_minus_the_entropy() -> None:
    """sum_v (1[v=t] - p_v) logit_v = log p_t + H(p): the remainder of its linear part is -H in closed form."""
    model = measured("gpt2")
    terms = cutaway.attribute(model.trace(prompts()), toward="log_prob")
    log_p = model.hf(token_ids(3, 9)).logits[:, -1].detach().double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    assert np.allclose(terms.sel(term="remainder"), -entropy.numpy(), atol=1e-5)


def test_planted_model_whose_layers_write_nothing() -> None:
    """With every write zero, the embeddings and the biases are all there is, and the numbers are a closed form."""
    from families import build

    hf = build("gpt2")
    with torch.no_grad():
        for block in hf.transformer.h:
            for linear in (block.attn.c_proj, block.mlp.c_proj):
                linear.weight.zero_()
                linear.bias.zero_()
    model = cutaway.Model(hf)
    terms = cutaway.attribute(model.trace(prompts()), by="component")
    gpt, ids = hf.transformer, token_ids(3, 9)
    x = (gpt.wte.weight[ids[:, -1]] + gpt.wpe.weight[8]).detach().double()
    w = (hf.lm_head.weight[ANSWERS] - hf.lm_head.weight[FOILS]).detach().double()
    gain, s = gpt.ln_f.weight.detach().double(), (x.var(-1, unbiased=False) + gpt.ln_f.eps).sqrt()
    for name, y in (("embed", gpt.wte.weight[ids[:, -1]]), ("pos_embed", gpt.wpe.weight[8].expand(3, -1))):
        y = y.detach().double()
        want = ((w * gain) * (y - y.mean(-1, keepdim=True))).sum(-1) / s
        assert np.allclose(terms.sel(term=name), want.numpy(), atol=1e-6)
    norm_bias = (w * gpt.ln_f.bias.detach().double()).sum(-1)
    assert np.allclose(terms.sel(term="norm_bias"), norm_bias.numpy(), atol=1e-6)
    written = terms.isel(term=[k in ("attn", "mlp") for k in terms["kind"].values])
    assert float(np.abs(written).max()) == 0.0


def test_a_soft_cap_is_a_term_of_its_own() -> None:
    model = measured("gemma2")
    terms = cutaway.attribute(model.trace(prompts()))
    logits = model.hf(token_ids(3, 9), use_cache=False).logits[:, -1].detach().double()
    cap = FAMILIES["gemma2"].softcap
    before = cap * torch.atanh(logits / cap)
    want = own(logits, "contrast") - own(before, "contrast")
    assert np.allclose(terms.sel(term="softcap"), want, atol=1e-3)
    assert np.allclose(terms.drop_sel(term="softcap").sum("term"), own(before, "contrast"), atol=1e-3)


def test_annotated_sum_in_text_and_latex() -> None:
    model = measured("gpt2")
    terms = cutaway.attribute(model.trace(prompts()), by="component")
    text = cutaway.annotate(terms)
    lines = {line.split(" =")[0].strip(): line for line in text.splitlines()}
    assert f"{float(terms.sel(term='L1.attn')[0]):+.4f}" in lines["<#5 - #8, attn L1>"]
    assert (
        f"{float(terms[0].sum()):+.4f}" in lines["sum"] and f"{float(terms[0]['total']):+.4f}" in lines["model's own"]
    )
    assert "1/s = " in text and "<#6 - #9, attn L1>" in cutaway.annotate(terms, prompt=1)
    latex = cutaway.annotate(terms, format="latex", top=2)
    assert latex.count(r"\bigl\langle") == 2 and r"\#5" in latex and "smaller terms" in latex
    with pytest.raises(cutaway.BadInput, match="no prompt 9"):
        cutaway.annotate(terms, prompt=9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"by": "heads"}, "Did you mean 'head'"),
        ({"toward": "logits"}, "toward must be one of"),
        ({"within": "L9"}, "layers 0 to 2"),
        ({"by": "source", "within": "L1H9"}, "4 heads"),
        ({"by": "neuron", "within": "L1.attn"}, "splits by head or source"),
        ({"read": "S1"}, "no role"),
    ],
)
def test_bad_requests_are_explained(call: dict, says: str) -> None:
    with pytest.raises(cutaway.BadInput, match=says):
        cutaway.attribute(measured("gpt2").trace(prompts()), **call)


def test_missing_answers_and_refusals_name_the_reason() -> None:
    trace = measured("gpt2").trace(cutaway.Prompts(ids=token_ids(3, 9)))
    with pytest.raises(cutaway.BadInput, match="needs answers"):
        cutaway.attribute(trace)
    with pytest.raises(cutaway.BadInput, match="toward='centred'"):
        cutaway.attribute(measured("gpt2").trace(cutaway.Prompts(ids=token_ids(3, 9), answers=5)), toward="contrast")
    with pytest.raises(cutaway.Refused, match="experts have their own neurons"):
        cutaway.attribute(measured("mixtral").trace(prompts()), by="neuron")
    with pytest.raises(cutaway.Refused, match="final norm"):
        cutaway.attribute(measured("opt_post_norm").trace(prompts()), by="layer")


def test_raw_inner_products_and_the_norms_scale_are_columns() -> None:
    terms = cutaway.attribute(measured("gpt2").trace(prompts()))
    stream = terms.where(~np.isnan(terms["dot"]).any("prompt"), drop=True)
    assert np.allclose(stream["dot"] * stream["inv_norm"], stream, atol=1e-9)
    assert math.isclose(float(terms[0, 0]), -float(terms[0, 0]["removal_frozen"]))


def test_vocabulary_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cutaway.readout import direction

    trace = measured("gemma2").trace(prompts())
    for toward in direction.TOWARD:
        whole = cutaway.attribute(trace, by="head", toward=toward)
        monkeypatch.setattr(direction, "CHUNK", 1)
        one_by_one = cutaway.attribute(trace, by="head", toward=toward)
        monkeypatch.undo()
        assert np.allclose(whole, one_by_one, atol=1e-5)


@pytest.mark.parametrize("by", ["component", "head", "neuron", "source"])
def test_a_sum_that_does_not_hold_on_these_prompts_is_refused(by: str) -> None:
    """A model that was certified, and that then began to add what no part of it wrote."""
    model = cutaway.Model(build("gpt2"))
    prompts = cutaway.Prompts(ids=token_ids(2, 6), answers=5, foils=8)
    assert cutaway.attribute(model.trace(prompts), by).attrs["completeness_error"] < 1e-6
    extra = torch.randn(32, generator=torch.Generator().manual_seed(0))
    handle = model.hf.transformer.h[0].register_forward_hook(lambda m, a, out: out + extra)
    with pytest.raises(
        cutaway.Refused,
        match=rf"Attribution by {by} is refused: .*miss .* by \d\.\de-0\d .*1e-05 is allowed in float32",
    ):
        cutaway.attribute(model.trace(prompts), by)
    handle.remove()


def test_a_run_whose_stream_was_edited_has_no_sum_and_says_so() -> None:
    model = cutaway.Model(build("gpt2"))
    prompts = cutaway.Prompts(ids=token_ids(2, 6), answers=5, foils=8)
    stream = model.trace(prompts, edits=cutaway.add("resid_post", torch.randn(32), layers=0, positions="all"))
    with pytest.raises(cutaway.Refused, match="edit of this run changes the stream"):
        cutaway.attribute(stream)
    write = model.trace(prompts, edits=cutaway.add("mlp_out", torch.randn(32), layers=0, positions="all"))
    assert cutaway.attribute(write).attrs["completeness_error"] < 1e-6
