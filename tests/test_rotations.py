"""Angles between consecutive states: against closed forms, high precision, numpy and plain hooks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as sps
from transformers import AutoModelForCausalLM

import cutaway
from cutaway.errors import BadInput
from cutaway.geometry.angles import angle, angles_between, random_update_angles, turns
from cutaway.geometry.rotations import rotations
from cutaway.geometry.standards import SPACES, standard

TEXTS = ("Yesterday the doctor thanked her near the river.", "Emma saw him.", "In summer, the nurse called them.")


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def hidden_states() -> list[list[np.ndarray]]:
    """[sentence][depth] -> [position, d_model] in float64, by hooks on the blocks of the same weights loaded apart."""
    folder = Path(cutaway.__file__).parent / "pocket"
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for text in TEXTS:
        ids = pocket().prompts(text).ids
        seen: list[torch.Tensor] = []

        def before(module, args, seen=seen):
            seen.append(args[0])

        def after(module, args, output, seen=seen):
            seen.append(output if isinstance(output, torch.Tensor) else output[0])

        handles = [block.register_forward_pre_hook(before) for block in hf.transformer.h]
        handles.append(hf.transformer.h[-1].register_forward_hook(after))
        with torch.no_grad():
            hf(ids)
        for handle in handles:
            handle.remove()
        found.append([x[0].double().numpy() for x in seen])
    return found


def plain_angle(u: np.ndarray, v: np.ndarray) -> float:
    """By another formula: sine from the part of v across u, cosine from the inner product."""
    along = u / np.sqrt(u @ u)
    across = v - (v @ along) * along
    return float(np.arctan2(np.sqrt(across @ across), v @ along))


# -- the formula -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.0, 1e-12, 1e-9, 1e-5, 0.3, np.pi / 2, 3.0, np.pi - 1e-9, np.pi])
def test_angles_are_accurate_from_0_to_pi(true):
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(768, 2)))
    u, v = 17 * q[:, 0], 400 * (np.cos(true) * q[:, 0] + np.sin(true) * q[:, 1])
    assert float(angle(torch.tensor(u), torch.tensor(v))) == pytest.approx(true, abs=3e-15, rel=1e-6)


def test_the_arc_cosine_of_the_source_is_nan_or_wrong_where_ours_is_right():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(200, 1600, generator=generator)
    same = torch.acos((u * u * 3).sum(-1) / (u.norm(dim=-1) * (3 * u).norm(dim=-1)))
    assert same.isnan().any() and (same[~same.isnan()] > 1e-5).any()  # the fault: float32, arc cosine
    assert (angle(u, 3 * u) < 1e-7).all()
    small = u + 1e-5 * torch.randn(200, 1600, generator=generator)
    exact = [plain_angle(a, b) for a, b in zip(u.double().numpy(), small.double().numpy(), strict=True)]
    np.testing.assert_allclose(angle(u, small), exact, rtol=1e-6)


def test_a_vector_of_no_length_has_no_angle():
    assert angle(torch.zeros(3), torch.ones(3)).isnan()


def test_angles_between_sets_are_the_angles_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(4, 9, generator=generator), torch.randn(3, 9, generator=generator)
    found = angles_between(u, v)
    for i in range(4):
        for j in range(3):
            assert float(found[i, j]) == pytest.approx(plain_angle(u[i].double().numpy(), v[j].double().numpy()))
    assert float(angles_between(u, u).diagonal().max()) == 0.0


def test_planted_turns_come_out():
    """In a random plane: turn by a, grow by g."""
    planted = [(0.4, 1.0), (0.0, 2.0), (1.2, 0.5), (2.9, 3.0)]
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 2)))
    at, size, states = 0.7, 5.0, []
    for a, g in [(0.0, 1.0), *planted]:
        at, size = at + a, size * g
        states.append(size * (np.cos(at) * q[:, 0] + np.sin(at) * q[:, 1]))
    found = turns(torch.tensor(np.stack(states)))
    size = 5.0
    for k, (a, g) in enumerate(planted):
        assert float(found["angle"][k]) == pytest.approx(a, abs=1e-12)
        assert float(found["norm"][k]) == pytest.approx(size)
        assert float(found["radial"][k]) == pytest.approx(size * (g * np.cos(a) - 1), abs=1e-12)
        assert float(found["tangential"][k]) == pytest.approx(size * g * np.sin(a), abs=1e-12)
        update = size * np.sqrt(1 + g**2 - 2 * g * np.cos(a))
        assert float(found["update"][k]) == pytest.approx(update, abs=1e-12)
        assert float(found["excess"][k]) == pytest.approx(a - np.arctan(update / size), abs=1e-12)
        size *= g


def test_an_orthogonal_update_has_no_excess_and_growth_alone_does_not_turn():
    x, y = torch.eye(8)[:2] * torch.tensor([[3.0], [4.0]])
    found = turns(torch.stack([x, x + y]))
    assert float(found["excess"]) == pytest.approx(0, abs=1e-12) and float(found["radial"]) == 0
    grown = turns(torch.stack([x, 7 * x]))
    assert float(grown["angle"]) == 0 and float(grown["excess"]) == pytest.approx(-np.arctan(6))


@pytest.mark.parametrize("d", [2, 3, 64])
def test_random_updates_turn_as_drawn_vectors_do(d):
    rng = np.random.default_rng(0)
    norm, update = 2.0, 3.0
    drawn = rng.normal(size=(4000, d))
    drawn *= update / np.linalg.norm(drawn, axis=1, keepdims=True)
    x = np.zeros(d)
    x[0] = norm
    brute = angle(torch.tensor(x).expand(4000, d), torch.tensor(x + drawn)).numpy()
    found = random_update_angles(np.array(norm), np.array(update), d, 4000, 1)
    assert sps.ks_2samp(brute, found).pvalue > 0.01
    assert random_update_angles(np.ones(3), np.ones(3), d, 5, 0).shape == (5, 3)


# -- of a run --------------------------------------------------------------------------------------------------------


def test_rotations_are_those_of_the_plain_models_stream():
    prompts = pocket().prompts(list(TEXTS))
    found = rotations(pocket().trace(prompts))
    assert found.sizes["layer"] == pocket().n_layers and found.sizes["depth"] == pocket().n_layers + 1
    for i, states in enumerate(hidden_states()):
        for p in range(1, int(prompts.lengths[i])):
            one = found.sel(space="raw").isel(prompt=i).sel(position=p)
            own = [plain_angle(states[k][p], states[k + 1][p]) for k in range(pocket().n_layers)]
            np.testing.assert_allclose(one["angle"], own, atol=1e-5)
            np.testing.assert_allclose(one["norm"], [np.linalg.norm(s[p]) for s in states], rtol=1e-5)


def test_the_last_state_is_not_the_one_the_final_norm_made():
    """The source's last angle is between a state and a normalised one, which is another angle."""
    prompts = pocket().prompts(TEXTS[0])
    found = rotations(pocket().trace(prompts), -2)["angle"].sel(space="raw")[0].values
    with torch.no_grad():
        given = pocket().hf(prompts.ids, output_hidden_states=True).hidden_states
    assert len(given) == pocket().n_layers + 1
    theirs = [float(angle(given[k][0, -2], given[k + 1][0, -2])) for k in range(pocket().n_layers)]
    np.testing.assert_allclose(found[:-1], theirs[:-1], atol=1e-5)
    assert abs(found[-1] - theirs[-1]) > 0.05


def test_position_0_and_padding_are_in_nothing_unless_position_0_is_asked_for():
    prompts = pocket().prompts(list(TEXTS))
    found = rotations(pocket().trace(prompts))
    assert found["position"].values.tolist() == list(range(1, prompts.n_positions))
    real = prompts.mask[:, 1:].numpy()
    for name in found.data_vars:
        bad = np.isnan(found[name].transpose("prompt", "position", ...).values).reshape(*real.shape, -1)
        assert (bad.any(-1) == ~real).all() and (bad.all(-1) == ~real).all()
    first = rotations(pocket().trace(prompts), 0)
    assert first["position"].values.tolist() == [0, 0, 0] and np.isfinite(first["angle"]).all()
    with pytest.raises(BadInput, match="position but 0"):
        rotations(pocket().trace(cutaway.Prompts(ids=[[5], [6]])))


def test_units_are_said():
    found = rotations(pocket().trace(TEXTS[1]), -1)
    assert found["angle"].attrs["units"] == "rad" and float(found["angle"].max()) <= np.pi
    assert found["norm"].attrs["units"].startswith("norm")
    assert found.attrs["model"] == "pocket" and found.attrs["at"] == "-1"


def test_spaces_are_those_of_numpy_and_do_not_depend_on_the_batch():
    prompts = pocket().prompts(list(TEXTS))
    rows = [
        np.concatenate([states[k][1:] for states in hidden_states()]) for k in range(pocket().n_layers + 1)
    ]  # [depth][token, d_model], no padding, no position 0
    made = standard(pocket(), prompts)
    small = standard(pocket(), prompts, batch=1)
    assert made.tokens == len(rows[0]) == int((prompts.lengths - 1).sum()) and str(made.tokens) in made.said
    for k, mine in enumerate(rows):
        np.testing.assert_allclose(made.mean[k], mine.mean(0), atol=1e-5)
        np.testing.assert_allclose(made.deviation[k], mine.std(0, ddof=1), atol=1e-5)
        square = np.sort((mine**2).mean(0))[::-1]
        assert float(made.dominance()[k]) == pytest.approx(square[:3].sum() / square.sum(), rel=1e-4)
    np.testing.assert_allclose(small.mean, made.mean, atol=1e-6)
    np.testing.assert_allclose(small.deviation, made.deviation, atol=1e-6)
    found = rotations(pocket().trace(prompts), 4 - 1, standard=made)
    assert found["space"].values.tolist() == list(SPACES)
    for i, states in enumerate(hidden_states()):
        for space in SPACES[1:]:
            seen = [
                (s[3] - r.mean(0)) / (r.std(0, ddof=1) if space == "standardised" else 1)
                for s, r in zip(states, rows, strict=True)
            ]
            own = [plain_angle(seen[k], seen[k + 1]) for k in range(pocket().n_layers)]
            np.testing.assert_allclose(found["angle"].sel(space=space)[i], own, atol=1e-4)


def test_a_rogue_dimension_hides_a_turn_that_standardising_shows():
    rng = np.random.default_rng(0)
    from cutaway.geometry.standards import Standard

    states = rng.normal(size=(2, 500, 16))
    states[..., 0] = 1000 + 50 * rng.normal(size=500)  # the same large value before and after
    rows = torch.tensor(states)
    made = Standard(rows.mean(1), rows.std(1), 500, "all")
    raw, fair = (np.degrees(angle(*made.into(rows, space)).numpy()).mean() for space in ("raw", "standardised"))
    assert raw < 1 and fair > 60 and float(made.dominance(1).min()) > 0.99


def test_a_dimension_that_never_varies_is_0_when_standardised():
    from cutaway.geometry.standards import Standard

    rows = torch.tensor(np.random.default_rng(0).normal(size=(2, 50, 3)))
    rows[..., 1] = 4.0
    made = Standard(rows.mean(1), rows.std(1) * (torch.arange(3) != 1), 50, "all")
    assert (made.into(rows, "standardised")[..., 1] == 0).all()


def test_a_turn_planted_by_an_edit_is_measured_in_the_edited_run():
    """An MLP's write at one token is replaced so that the block turns that token's vector by exactly 0.6 radians."""
    prompts, layer, at, planted = pocket().prompts(TEXTS[0]), 2, 5, 0.6
    before = pocket().trace(prompts)
    x = before["resid_pre", layer][0, at].double()
    rest = before["resid_post", layer][0, at].double() - before["mlp_out", layer][0, at].double()
    across = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    across = across - (across @ x) / (x @ x) * x
    wanted = 2 * x.norm() * (np.cos(planted) * x / x.norm() + np.sin(planted) * across / across.norm())
    write = (wanted - rest).float()
    edits = cutaway.edit("mlp_out", lambda old: torch.zeros_like(old) + write, layers=layer, positions=at)
    found = rotations(pocket().trace(prompts, edits=edits), at)["angle"].sel(space="raw")[0]
    plain = rotations(before, at)["angle"].sel(space="raw")[0]
    assert float(found[layer]) == pytest.approx(planted, abs=1e-5)
    np.testing.assert_allclose(found[:layer], plain[:layer])
    assert abs(float(found[layer] - plain[layer])) > 0.01


@pytest.mark.parametrize(("what", "message"), [
    ({"at": "S1"}, "no role 'S1'"),
    ({"at": 99}, "outside prompt 0"),
    ({"spaces": ["whitened"]}, "no space 'whitened'"),
    ({"spaces": ["centred"]}, "over reference tokens"),
])  # fmt: skip
def test_bad_input_is_one_message(what, message):
    with pytest.raises(BadInput, match=message):
        rotations(pocket().trace(TEXTS[1]), **what)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma2", "opt_post_norm", "mamba"])
def test_other_architectures_by_the_reference(model_of, family):
    """Parallel blocks, post-norms, a normalised stream, no attention at all: states by hand-written hooks."""
    import reference
    from families import build, token_ids

    ids = token_ids(2, 7)
    run = reference.record(build(family), family, ids)
    model = model_of(family)
    found = rotations(model.trace(cutaway.Prompts(ids=ids)))["angle"].sel(space="raw")
    assert found.sizes["layer"] == model.n_layers
    for layer in range(model.n_layers):
        u, v = run["resid_pre", layer], run["resid_post", layer]
        own = [[plain_angle(u[i, p].double().numpy(), v[i, p].double().numpy()) for p in range(1, 7)] for i in range(2)]
        np.testing.assert_allclose(found.sel(layer=layer), own, atol=2e-5)
