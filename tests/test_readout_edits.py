"""Readout edits, steps until a flip, stages, scores, before | after: against decoding by hand, and a planted model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import cutaway
import families
import planted_relation as planted
from cutaway.controls import against, generator, ladder, norm_matched, pair_flip_probability, random_units
from cutaway.errors import BadInput
from cutaway.readout.comparison import before_after
from cutaway.readout.editing import MEASURES, readout_edit
from cutaway.readout.flips import crossing, readout_flips
from cutaway.readout.linear import decode
from cutaway.readout.score import readout_score
from cutaway.readout.stages import stages
from cutaway.steering import Outcomes, Where, factorial, flips

FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "olmo2", "phi")


@cache
def tiny(name: str) -> cutaway.Model:
    return cutaway.Model(families.build(name), name=name)


@cache
def plant() -> cutaway.Model:
    return planted.model()


def asked(n: int = 3) -> cutaway.Prompts:
    ids = families.token_ids(n, 6)
    return cutaway.Prompts(ids=ids, answers=[3 + i for i in range(n)], foils=[40 + i for i in range(n)])


def vectors(n: int, d: int, size: float = 3.0) -> torch.Tensor:
    return norm_matched(random_units(n, d, generator(0, "v")), size)


# -- readout edits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_readout_edit_is_the_edited_state_decoded_by_the_models_own_modules(name):
    model, some = tiny(name), asked()
    trace, v = model.trace(some), vectors(4, model.d_model)
    schedule = {n: 0.5 * (n + 1) for n in range(model.n_layers)}
    found = readout_edit(trace, v, [-1.0, 2.0, schedule], positions=[-1, 2], measure=tuple(MEASURES))
    for i in range(len(some)):
        for layer in range(model.n_layers):
            for r, at in enumerate((5, 2)):
                state = trace["resid_post", layer][i, at]
                own = model.read(state).double()
                for k in range(4):
                    for s, scale in enumerate((-1.0, 2.0, schedule[layer])):
                        logits = model.read(state + (scale * v[k]).to(state)).double()
                        cell = found.isel(prompt=i, layer=layer, position=r, vector=k, scale=s)
                        margin = logits[some.answers[i]] - logits[some.foils[i]]
                        assert float(cell["logit_diff"]) == pytest.approx(float(margin), abs=2e-4)
                        assert int(cell["top_token"]) == int(logits.argmax())
                        assert int(cell["rank"]) == int((logits > logits[some.answers[i]]).sum())
                        kl = (own.softmax(-1) * (own.log_softmax(-1) - logits.log_softmax(-1))).sum()
                        assert float(cell["kl"]) == pytest.approx(float(kl), abs=2e-4)
    assert found.attrs["operation"] == "readout edit"


def test_the_final_norm_is_applied_exactly_once_whatever_the_layer():
    """The fault of the source: the last stored state was normed already, and the edit went there all the same."""
    model, some = tiny("gpt2"), asked()
    trace = model.trace(some)
    zero = readout_edit(trace, torch.zeros(model.d_model), measure=("logit_diff", "top_token"))
    own = trace.logits[:, -1]
    by_model = (own.gather(1, some.answers[:, None]) - own.gather(1, some.foils[:, None]))[:, 0]
    np.testing.assert_allclose(zero["logit_diff"].isel(layer=-1), by_model.detach().double(), atol=1e-4)
    assert zero["top_token"].isel(layer=-1).values.tolist() == own.argmax(-1).tolist()
    for site in ("final_norm", "logits"):
        with pytest.raises(BadInput, match="normed already"):
            readout_edit(trace, torch.zeros(model.d_model), site=site)
    torch.testing.assert_close(decode(model, trace["final_norm"], "final_norm"), trace.logits)
    torch.testing.assert_close(decode(model, trace["resid_post", 2], "resid_post"), trace.logits)
    with pytest.raises(BadInput, match="no state"):
        decode(model, trace["mlp_out", 1], "mlp_out")


def test_stored_states_are_not_altered_and_a_second_edit_starts_from_the_first_state():
    """The fault of the source: in-place addition, so that every repetition added once more."""
    model, some = tiny("llama"), asked()
    trace, v = model.trace(some), vectors(1, model.d_model)[0]
    before = trace["resid_post"].clone()
    one = readout_edit(trace, v, [1.0, 5.0])
    two = readout_edit(trace, v, [1.0, 5.0])
    readout_flips(trace, v)
    before_after(trace, v, 5.0)
    assert torch.equal(trace["resid_post"], before)
    np.testing.assert_array_equal(one["logit_diff"], two["logit_diff"])


def test_layer_strength_and_position_are_independent_axes():
    """The fault of the source: one number was both layer and strength."""
    model, some = tiny("gpt2"), asked()
    trace, v = model.trace(some), vectors(1, model.d_model)[0]
    whole = readout_edit(trace, v, [1.0, 2.0, 3.0], positions=[1, 4])
    for layer in range(model.n_layers):
        for scale in (1.0, 2.0, 3.0):
            for read in (1, 4):
                alone = readout_edit(trace, v, scale, layers=layer, positions=read)["logit_diff"].isel(layer=0)
                here = whole["logit_diff"].sel(layer=layer, scale=scale, position=str(read))
                np.testing.assert_allclose(alone, here, rtol=1e-12)


def test_a_readout_edit_does_not_propagate_and_an_intervention_does():
    model, some = tiny("gpt2"), asked()
    v = vectors(1, model.d_model)[0].float()
    trace = model.trace(some)
    readout = readout_edit(trace, v, layers=0)
    ran = cutaway.sweep(model, some, cutaway.add("mlp_out", v, layers=0, positions=-1))
    last = model.n_layers - 1
    same = cutaway.sweep(model, some, cutaway.add("mlp_out", v, layers=last, positions=-1))
    at_last = readout_edit(trace, v, layers=last)["logit_diff"].isel(layer=0)
    np.testing.assert_allclose(same["value"].values.ravel(), at_last, atol=1e-4)  # nothing is left to propagate
    assert float(np.abs(ran["value"].values.ravel() - readout["logit_diff"].values.ravel()).max()) > 0.01
    row = before_after(trace, v, 1.0)
    edited = before_after(trace, after=model.trace(some, edits=cutaway.add("mlp_out", v, layers=0, positions=-1)))
    assert (row.attrs["operation"], edited.attrs["operation"]) == ("readout edit", "intervention")


def test_bad_vectors_measures_and_prompts_are_one_clear_error():
    model, some = tiny("gpt2"), asked()
    trace = model.trace(some)
    with pytest.raises(BadInput, match="width"):
        readout_edit(trace, torch.ones(3))
    with pytest.raises(BadInput, match="3 prompts"):
        readout_edit(trace, [torch.ones(2, model.d_model)])
    with pytest.raises(BadInput, match="not finite"):
        readout_edit(trace, torch.full((model.d_model,), torch.nan))
    with pytest.raises(BadInput, match="no measure"):
        readout_edit(trace, torch.ones(model.d_model), measure=("prob",))
    with pytest.raises(BadInput, match="schedule"):
        readout_edit(trace, torch.ones(model.d_model), {0: 1.0})
    bare = model.trace(cutaway.Prompts(ids=some.ids))
    for call in (readout_edit, readout_flips):
        with pytest.raises(BadInput, match="answers and foils"):
            call(bare, torch.ones(model.d_model))
    with pytest.raises(BadInput, match="argument"):
        stages(bare)
    with pytest.raises(BadInput, match="either"):
        before_after(trace)


# -- how far until it flips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_until_a_flip_are_those_of_a_fine_grid(name):
    model, some = tiny(name), asked(2)
    trace, v = model.trace(some), vectors(6, model.d_model)
    found = readout_flips(trace, v, limit=4.0)
    fine = torch.linspace(0, 4, 2001, dtype=torch.float64)
    for i in range(len(some)):
        for layer in range(model.n_layers):
            state = trace["resid_post", layer][i, -1]
            leads = bool(found["answer_leads"][i, layer])
            target, other = (some.foils[i], some.answers[i]) if leads else (some.answers[i], some.foils[i])
            for k in range(len(v)):
                logits = model.read(state + (fine[:, None] * v[k]).to(state)).double()
                top = logits.argmax(-1)
                by_hand = {
                    "pair": logits[:, target] > logits[:, other], "change": top != top[0], "target": top == target,
                }  # fmt: skip
                for measure, true in by_hand.items():
                    step = float(found[measure][i, layer, k])
                    at = np.flatnonzero(true.numpy())
                    if len(at):
                        assert step == pytest.approx(float(fine[at[0]]), abs=0.0041), (measure, layer, k)
                    else:
                        assert step > 4 - 0.0041


def test_a_crossing_is_a_root_and_the_first_one():
    generator_ = torch.Generator().manual_seed(0)
    p, q, c = (torch.randn(500, generator=generator_, dtype=torch.float64) for _ in range(3))
    q0 = torch.rand(500, generator=generator_, dtype=torch.float64) + 0.5
    q2 = torch.rand(500, generator=generator_, dtype=torch.float64) + 0.1
    q1 = torch.randn(500, generator=generator_, dtype=torch.float64).clamp(-1, 1) * (q0 * q2).sqrt()
    c[:50] = 0
    found = crossing(p, q, c, q0, q1, q2)
    fine = torch.linspace(0, 50, 100_001, dtype=torch.float64)
    for i in range(500):
        f = p[i] + q[i] * fine + c[i] * (q0[i] + q1[i] * fine + q2[i] * fine.square()).sqrt()
        turns = np.flatnonzero(np.diff(np.sign(f.numpy())))
        if len(turns):
            assert float(found[i]) == pytest.approx(float(fine[turns[0]]), abs=6e-4)
        else:
            assert float(found[i]) > 49.9


def test_random_vectors_flip_the_pair_as_often_as_the_closed_form_says_and_the_vocabulary_far_less():
    """Without biases the null is exact; a long random vector pulls in unrelated tokens."""
    model, some = tiny("llama"), asked(1)
    trace, d = model.trace(some), model.d_model
    size = float(trace["resid_post", 1][0, -1].norm())
    v = vectors(4000, d, size)
    found = readout_flips(trace, v, layers=1, limit=30.0, measure=("pair", "target"))
    margin, w = float(found["margin"][0, 0]), float(found["readout_norm"][0, 0])
    for step in (0.5, 1.0, 3.0, 30.0):
        share = float((found["pair"][0, 0] <= step).mean())
        assert share == pytest.approx(float(pair_flip_probability(abs(margin), step * size, w, d)), abs=0.03)
    assert float((found["target"][0, 0] <= 30.0).mean()) < 0.2 < float((found["pair"][0, 0] <= 30.0).mean())


# -- a model whose answers are known ----------------------------------------------------------------------------------


def test_the_planted_switch_layer_and_stages_are_found():
    found = stages(plant().trace(planted.prompts()))
    assert (found["formation"] == 0).all()
    for name in ("saturation", "crossing"):
        assert (found[name] == planted.SWITCH).all()
    assert (found["switch"] == planted.SWITCH).all()
    x = found[["argument_reciprocal_rank", "answer_reciprocal_rank"]].mean("prompt")
    assert x["argument_reciprocal_rank"].values.tolist() == [1.0, 1.0, 0.5, 0.5, 0.5]  # the X
    assert x["answer_reciprocal_rank"].values.tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]


def test_the_planted_direction_is_found_and_scores_one_and_chance_does_not():
    model, some = plant(), planted.prompts()
    v = cutaway.update(model, some[[0, 1]], planted.SWITCH)
    assert float(torch.cosine_similarity(v.vector, planted.relation(), dim=0)) > 0.999
    rest = some[v.independent(some)]
    assert len(rest) == planted.ITEMS - 2
    trace = model.trace(rest)
    for reading in ("top", "pair"):
        one = readout_score(trace, v, 1.0, reading)
        assert (one["before"] == 1).all() and (one["after"] == 1).all() and (one["score"] == 1).all()
        assert (one["n_before"] == planted.SWITCH).all() and (one["n_after"] == planted.LAYERS - planted.SWITCH).all()
        assert (readout_score(trace, -v, 1.0, reading)["score"] == 0).all()

    def score(some: torch.Tensor) -> dict[str, np.ndarray]:
        return {"score": readout_score(trace, some, 1.0, "top")["score"].values}

    found = against(score, v, ladder(v, draws=400), rest.families)
    assert (
        float(found["p_greater"].sel(outcome="score", arm="isotropic")) < 0.02
    )  # a few of 400 come near it in 32 dims
    assert float(found["mean"].sel(outcome="score", arm="isotropic")) < 0.15


def test_a_score_counts_no_item_that_never_switches():
    model = plant()
    some = planted.prompts([0, 1, 2])
    some.answers = torch.tensor([planted.answer(0), planted.answer(1), planted.answer(7)])  # the third never says it
    found = readout_score(model.trace(some), planted.relation() * 2)
    assert found["switch"].values.tolist() == [planted.SWITCH, planted.SWITCH, -1]
    assert np.isfinite(found["score"].values).tolist() == [True, True, False]
    assert found["n_before"].values.tolist() == [2, 2, 0]


def test_steps_along_the_planted_direction_are_known_and_the_intervention_needs_the_same():
    """From argument to answer it takes a = 1/2 of 2 b r (to r = 0), on top of the vocabulary or of the pair."""
    model, some = plant(), planted.prompts()
    v = 2 * planted.B * planted.relation()
    found = readout_flips(model.trace(some), {"v": v, "minus": -v})
    early, late = found.sel(layer=0), found.sel(layer=planted.LAYERS - 1)
    for measure in ("pair", "change", "target"):
        np.testing.assert_allclose(early[measure].sel(vector="v"), 0.5, atol=0.02)
        np.testing.assert_allclose(late[measure].sel(vector="minus"), 0.5, atol=0.02)
    assert np.isinf(early["pair"].sel(vector="minus")).all() and np.isinf(late["pair"].sel(vector="v")).all()
    turned = some[list(range(len(some)))]
    turned.answers, turned.foils = some.foils, some.answers
    ran = flips(model, turned, {"minus": -v, "v": v}, [0, planted.SWITCH, planted.LAYERS - 1], rounds=8)
    for measure in ("pair", "change", "target"):
        np.testing.assert_allclose(ran[measure].sel(vector="minus"), 0.5, atol=0.02)
    assert np.isinf(ran["target"].sel(vector="v")).all()


def test_interventions_on_the_planted_model_do_what_its_weights_say():
    """Its MLP replaced by nothing: the argument stays. Replaced by its own write: the answer. The factors are apart."""
    model, some = plant(), planted.prompts()
    v, at = 2 * planted.B * planted.relation(), planted.SWITCH
    found = factorial(model, some, {"nothing": torch.zeros_like(v), "v": v, "minus": -v}, [[at], [at, at + 1]])
    success = (found["value"].sel(metric="rank") == 0).mean("prompt")
    for place in ("last", "all"):
        cell = success.sel(place=place, layers=str(at))
        assert float(cell.sel(mode="replace", vector="nothing")) == 0
        assert float(cell.sel(mode="replace", vector="v")) == 1
        assert float(cell.sel(mode="add", vector="nothing")) == 1
        assert float(cell.sel(mode="add", vector="minus")) <= 1
        assert float(success.sel(place=place, layers=f"{at}-{at + 1}", mode="add", vector="v")) == 1
    turned = some[list(range(len(some)))]
    turned.answers, turned.foils = some.foils, some.answers
    v_ = cutaway.direction(v)
    out = against(Outcomes(model, turned, Where((at,), scale=-1.0)), v_, ladder(v_, draws=200), turned.families)
    assert float(out["mean"].sel(outcome="success", arm="vector")) == 1
    assert float(out["p_greater"].sel(outcome="success", arm="isotropic")) == 1 / 201
    z = float(out["mean"].sel(outcome="null units", arm="vector"))
    assert z == pytest.approx(np.sqrt(planted.WIDTH), rel=0.15)  # sqrt(d) |cos|, and the vector lies along w


# -- before | after ---------------------------------------------------------------------------------------------------


def test_before_and_after_are_rows_that_can_be_compared_and_counted():
    model, some = plant(), planted.prompts([0, 1])
    trace = model.trace(some)
    found = before_after(trace, 2 * planted.B * planted.relation(), 1.0, top=3)
    ids = found["token_id"].sel(side="before").isel(rank=0).values
    assert (ids[:, : planted.SWITCH] == some.foils.numpy()[:, None]).all()
    after = found["token_id"].sel(side="after").isel(rank=0).values
    assert (after == some.answers.numpy()[:, None]).all()
    changed = np.arange(planted.LAYERS) < planted.SWITCH
    assert (found["changed"].values == changed).all() and found["n_changed"].values.tolist() == [planted.SWITCH] * 2
    for layer in range(planted.LAYERS):
        p = model.read(trace["resid_post", layer][:, -1]).double().softmax(-1).topk(3)
        here = found.sel(side="before", layer=layer)
        np.testing.assert_allclose(here["probability"], p.values.detach(), atol=1e-6)
        assert here["token_id"].values.tolist() == p.indices.tolist()
    with pytest.raises(BadInput, match="other prompts"):
        before_after(trace, after=model.trace(planted.prompts([2, 3])))
    with pytest.raises(BadInput, match="one strength"):
        before_after(trace, planted.relation(), [1.0, 2.0])
