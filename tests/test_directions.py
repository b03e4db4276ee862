"""Directions, `put`, vectors that differ by prompt, and the control ladder, against plain hooks and closed forms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats as sps

import cutaway
import families
from cutaway.controls import (
    NULL,
    Material,
    against,
    covariance_units,
    difference_units,
    empirical_p,
    generator,
    ladder,
    orthogonal_units,
    pair_flip_probability,
    random_units,
    without,
)
from cutaway.directions import activations, as_vectors, head_write
from cutaway.errors import BadInput
from reference import brute_force_logits, record

FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox")


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def tiny(name: str) -> cutaway.Model:
    return cutaway.Model(families.build(name), name=name)


def prompts(n: int = 3) -> cutaway.Prompts:
    return cutaway.Prompts(ids=families.token_ids(n, 7), answers=[3] * n, foils=[5] * n)


# -- taking a direction -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("site", ["mlp_out", "attn_out", "resid_post"])
def test_an_update_is_the_mean_of_what_plain_hooks_see(name, site):
    model, some = tiny(name), prompts()
    seen = record(model.hf, name, some.ids)[site, 1][:, -1]
    found = cutaway.update(model, some, 1, site)
    assert found.how == "mean update"
    torch.testing.assert_close(found.vector, seen.mean(0), rtol=1e-4, atol=1e-5)
    one = cutaway.update(model, some[[1]], 1, site)
    assert one.how == "update"
    torch.testing.assert_close(one.vector, seen[1], rtol=1e-4, atol=1e-5)
    gap = cutaway.difference_of_means(model, some[[0]], some[[1, 2]], 1, site)
    torch.testing.assert_close(gap.vector, seen[0] - seen[1:].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_writes_of_heads_add_up_to_the_attention_write_but_for_biases(name):
    model, some = tiny(name), prompts(4)
    heads = sum(head_write(model, some, 1, h).double() for h in range(model.n_heads))
    whole = activations(model, some, "attn_out", 1).double()
    rest = whole - heads
    torch.testing.assert_close(rest, rest[:1].expand_as(rest), rtol=0, atol=1e-4)  # the same for every prompt: biases


def test_a_direction_comes_back_from_its_file_with_all_it_knows(tmp_path):
    some = pocket().prompts(["The capital of Poland is", "The capital of Peru is"], families=["Poland", "Peru"])
    made = cutaway.update(pocket(), some, 3)
    made.save(tmp_path / "d.safetensors")
    back = cutaway.direction(tmp_path / "d.safetensors", pocket())
    assert torch.equal(back.vector, made.vector)
    assert back.card() == made.card()
    assert back.prompts_hash == some.hash() and back.fingerprint == pocket().fingerprint and back.layer == 3
    with pytest.raises(BadInput, match="exists"):
        made.save(tmp_path / "d.safetensors")


def test_the_prompts_a_direction_came_from_are_left_out_by_ids_and_by_item():
    model = pocket()
    texts = ["The capital of Poland is", "The capital city of Poland is", "The capital of Peru is"]
    some = model.prompts(texts, families=["Poland", "Poland", "Peru"])
    assert cutaway.update(model, some[[0]], 3).independent(some) == [2]
    unnamed = model.prompts(texts)
    assert cutaway.update(model, unnamed[[0]], 3).independent(unnamed) == [1, 2]


def test_what_cannot_be_a_direction_is_refused_by_name(tmp_path):
    model, d = pocket(), pocket().d_model
    with pytest.raises(BadInput, match="not finite"):
        cutaway.direction([float("nan")] * d)
    with pytest.raises(BadInput, match="one vector"):
        cutaway.direction(torch.zeros(2, d))
    with pytest.raises(BadInput, match="width 4"):
        cutaway.direction(torch.ones(4), model)
    foreign = cutaway.update(tiny("gpt2"), prompts(), 1)
    with pytest.raises(BadInput, match="Take it from pocket"):
        foreign.check(model)
    same_width = cutaway.Model(families.build("gpt2", seed=1), name="other")
    with pytest.raises(BadInput, match="another model"):
        foreign.check(same_width)
    some = prompts()
    with pytest.raises(BadInput, match="another model"):
        cutaway.sweep(same_width, some, cutaway.add("mlp_out", foreign, layers=1))
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(BadInput, match="safetensors"):
        cutaway.direction(tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match="cannot be given a norm"):
        cutaway.direction(torch.zeros(d)).scaled_to(1.0)
    with pytest.raises(BadInput, match="d_model"):
        activations(model, model.prompts("The"), "z", 1)


# -- putting it in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("place", [-1, "all"])
def test_put_and_add_of_vectors_that_differ_by_prompt_equal_hooks(name, place):
    model, some = tiny(name), prompts()
    vectors = torch.randn(len(some), model.d_model, generator=torch.Generator().manual_seed(2))
    at = slice(None) if place == "all" else slice(-1, None)

    def put(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, at] = 0.5 * vectors[:, None]
        return x

    def add(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, at] += 0.5 * vectors[:, None]
        return x

    for make, by_hand in ((cutaway.put, put), (cutaway.add, add)):
        edit = make("mlp_out", {"own": vectors}, 0.5, layers=1, positions=place)
        found = cutaway.sweep(model, some, edit, "logit_diff")
        logits = brute_force_logits(model.hf, name, some.ids, [("mlp_out", 1, by_hand)])[:, -1]
        expected = (logits[:, 3] - logits[:, 5]).double().numpy()
        np.testing.assert_allclose(found["value"].values.reshape(-1), expected, atol=1e-4)


def test_putting_back_what_was_there_changes_nothing():
    """The state before plus the write is the state after: adding a write to where it came from says nothing."""
    model, some = pocket(), pocket().prompts(["The capital of Poland is", "The capital of Peru is"])
    some.answers, some.foils = torch.tensor([5, 6]), torch.tensor([7, 8])
    own = activations(model, some, "mlp_out", 3)
    found = cutaway.sweep(model, some, cutaway.put("mlp_out", [own], layers=3, positions=-1))
    np.testing.assert_allclose(found["value"].values.ravel(), found["base"].values, atol=1e-5)
    none = cutaway.sweep(model, some, cutaway.put("mlp_out", torch.zeros(model.d_model), layers=3, positions=-1))
    zero = cutaway.sweep(model, some, cutaway.ablate("mlp_out", layers=3, positions=-1))
    np.testing.assert_allclose(none["value"], zero["value"], atol=1e-6)


def test_a_schedule_is_one_strength_a_layer_and_a_missing_layer_is_an_error():
    model, some = tiny("gpt2"), prompts()
    v = torch.ones(model.d_model)
    grid = cutaway.sweep(model, some, cutaway.add("mlp_out", v, [1.0, {0: 1.0, 1: 3.0}], layers=[0, 1]))
    for layer, strength in ((0, 1.0), (1, 3.0)):
        alone = cutaway.sweep(model, some, cutaway.add("mlp_out", v, strength, layers=layer))
        here = grid["value"].isel(scale=1).sel(layer=layer)
        np.testing.assert_allclose(here.values, alone["value"].values.reshape(here.shape), atol=1e-6)
    with pytest.raises(BadInput, match="none for layer 2"):
        cutaway.sweep(model, some, cutaway.add("mlp_out", v, {0: 1.0}, layers=[0, 2]))
    with pytest.raises(BadInput, match="has 32 numbers"):
        cutaway.sweep(model, some, cutaway.add("mlp_out", torch.ones(3), layers=[0]))
    with pytest.raises(BadInput, match="3 prompts"):
        cutaway.sweep(model, some, cutaway.add("mlp_out", [torch.ones(2, model.d_model)], layers=[0]))
    with pytest.raises(BadInput, match="finite"):
        cutaway.add("mlp_out", [torch.full((model.d_model,), torch.inf)])


# -- controls ---------------------------------------------------------------------------------------------------------


def _material(d: int) -> Material:
    rng = generator(1, "test")
    rows = torch.from_numpy(rng.standard_normal((50, d))) * torch.linspace(0.1, 3, d)
    return Material(
        mean=rows.mean(0), covariance=torch.cov(rows.T), rows=rows, boundary=rows[:4], other=cutaway.direction(rows[1]),
        same=cutaway.direction(rows[2]), readable=rows[5:8],
    )  # fmt: skip


def test_every_control_has_the_vectors_norm_and_the_same_seed_gives_the_same_draws():
    """The fault of the source: a random vector of another length, called a control."""
    d = 24
    v = cutaway.direction(torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 7)
    one, two = (ladder(v, _material(d), draws=40, seed=3) for _ in range(2))
    other = ladder(v, _material(d), draws=40, seed=4)
    assert {"isotropic", "orthogonal", "covariance", "real difference"} == {n for n, c in one.items() if c.kind == NULL}
    for name, control in one.items():
        norms = control.vectors.norm(dim=-1)
        if name == "nothing":
            assert not norms.any()
        else:
            torch.testing.assert_close(norms, torch.full_like(norms, v.norm), rtol=1e-9, atol=0)
        assert torch.equal(control.vectors, two[name].vectors)
        if control.kind == NULL:
            assert not torch.equal(control.vectors, other[name].vectors)
    few = ladder(v, _material(d), draws=40, seed=3, only=["covariance"])
    assert torch.equal(few["covariance"].vectors, one["covariance"].vectors)  # other rungs change no draw
    assert float((one["orthogonal"].vectors @ v.vector).abs().max()) < 1e-9 * v.norm**2
    torch.testing.assert_close(one["minus"].vectors[0], -v.vector)
    left = one["unreadable"].vectors[0]
    assert float((_material(d).readable @ left).abs().max()) < 1e-9 * v.norm
    assert one["mean write"].own_norm == pytest.approx(float(_material(d).mean.norm()))
    assert one["boundary"].vectors.shape == (1, 4, d)


def test_draws_have_the_distribution_they_are_named_after():
    d, n = 12, 40_000
    units = random_units(n, d, generator(0, "a"))
    torch.testing.assert_close(units.mean(0), torch.zeros(d, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(units.T) * d, torch.eye(d, dtype=torch.float64), atol=0.03, rtol=0)
    spread = torch.linspace(1, 4, d, dtype=torch.float64).square()
    drawn = covariance_units(n, torch.diag(spread), generator(0, "b"))
    ratio = (drawn[:, -1] / drawn[:, 0]).square().median() / (spread[-1] / spread[0])
    assert float(ratio) == pytest.approx(1, abs=0.1)  # of the squared ratio of two normals, whose median is 1
    rows = torch.randn(30, d, dtype=torch.float64)
    made = difference_units(200, rows, generator(0, "c"))
    every = (rows[:, None] - rows[None]).flatten(0, 1)
    every = every[every.norm(dim=1) > 0]
    best = (made @ (every / every.norm(dim=1, keepdim=True)).T).amax(1)
    torch.testing.assert_close(best, torch.ones_like(best))
    assert float((orthogonal_units(50, rows[:3], generator(0, "d")) @ rows[:3].T).abs().max()) < 1e-9
    assert float((rows[:3] @ without(rows[4], rows[:3])).abs().max()) < 1e-9


def test_the_ladder_says_what_it_lacks():
    v = cutaway.direction(torch.ones(8))
    assert list(ladder(v)) == ["nothing", "isotropic", "orthogonal", "minus"]
    with pytest.raises(BadInput, match="lacks"):
        ladder(v, only=["covariance"])
    with pytest.raises(BadInput, match="no control"):
        ladder(v, only=["isotropc"])
    with pytest.raises(BadInput, match="is zero"):
        ladder(cutaway.direction(torch.zeros(8)))
    with pytest.raises(BadInput, match="span all"):
        without(torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))


def test_the_closed_form_null_is_what_simulation_gives():
    d, r = 40, 5.0
    v = random_units(200_000, d, generator(0, "null")) * r
    w = torch.zeros(d, dtype=torch.float64)
    w[3] = 2.5
    for margin in (-3.0, 0.0, 0.5, 2.0, 11.0, 13.0):
        share = float((margin + v @ w < 0).double().mean())
        assert float(pair_flip_probability(margin, r, 2.5, d)) == pytest.approx(share, abs=0.005)
    assert float(pair_flip_probability(1.0, 1e6, 2.5, d)) == pytest.approx(0.5, abs=1e-4)  # half, however far
    normal = sps.norm.cdf(-1.0 * np.sqrt(1024) / 48.35)  # Phi(-m sqrt(d) / (r |w|)), the many-dimensional limit
    assert float(pair_flip_probability(1.0, 48.35, 1.0, 1024)) == pytest.approx(normal, abs=1e-3)


def test_p_values_are_never_zero_and_count_ties():
    assert float(empirical_p(5.0, np.zeros(99))) == 0.01
    assert float(empirical_p(0.0, np.zeros(99))) == 1.0
    assert float(empirical_p(-5.0, np.zeros(99), "less")) == 0.01
    assert float(empirical_p(1.0, [2.0, -3.0, np.nan, 0.5], "two")) == 0.75


def test_on_noise_the_ladder_finds_nothing_more_often_than_it_may():
    """2,000 vectors that are random themselves: p <= .05 in a share within the binomial interval, for each null."""
    d, items, runs, draws = 32, 12, 2000, 99
    w = torch.from_numpy(generator(0, "w").standard_normal((items, d)))  # readout directions of the items' pairs
    toward = w.mean(0)  # a readout edit's mean change over items is this times the vector
    covariance = torch.diag(torch.linspace(0.2, 3, d, dtype=torch.float64))
    low, high = sps.binom.interval(0.999, runs, 0.05)
    makers = {
        "isotropic": lambda n, rng: random_units(n, d, rng),
        "covariance": lambda n, rng: covariance_units(n, covariance, rng),
    }
    for name, make in makers.items():
        observed = (make(runs, generator(1, name)) @ toward).numpy()
        null = (make(runs * draws, generator(2, name)) @ toward).numpy().reshape(draws, runs)
        count = int((empirical_p(observed, null) <= 0.05).sum())
        assert low <= count <= high, (name, count)


def test_against_measures_every_arm_with_the_items_as_the_unit():
    d = 10
    w = torch.from_numpy(generator(0, "w").standard_normal((6, d)))
    labels = ["a", "a", "b", "c", "d", "e"]
    v = cutaway.direction(w.mean(0) * 4)

    def measure(vectors):
        change = (w @ vectors.double().T).numpy()
        scored = np.where(np.arange(6)[:, None] < 2, np.nan, change > 0)
        return {"change": change, "success": scored}

    found = against(measure, v, ladder(v, draws=500), labels)
    own = (w @ v.vector.double()).numpy()
    by_item = np.array([own[:2].mean(), *own[2:]])
    one = found.sel(outcome="change", arm="vector")
    assert float(one["mean"]) == pytest.approx(by_item.mean())
    half = sps.t.ppf(0.975, 4) * by_item.std(ddof=1) / np.sqrt(5)
    assert float(one["high"]) == pytest.approx(by_item.mean() + half)
    assert int(found["items"].sel(outcome="success")) == 4
    draws = found["draw_mean"].sel(outcome="change", arm="isotropic").values
    assert (
        float(found["p_greater"].sel(outcome="change", arm="isotropic")) == (1 + (draws >= by_item.mean()).sum()) / 501
    )
    assert np.isnan(found["p_greater"].sel(outcome="change", arm="minus"))
    assert float(found["difference"].sel(outcome="change", arm="minus")) == pytest.approx(2 * by_item.mean())
    with pytest.raises(BadInput, match="two"):
        against(measure, v, {}, ["a"] * 6)


def test_several_directions_become_one_tensor():
    v = cutaway.direction(torch.ones(3))
    assert as_vectors([v, -v]).tolist() == [[1, 1, 1], [-1, -1, -1]]
