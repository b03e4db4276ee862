"""Screened sweeps: estimates against central differences, exact cells against the full sweep, and the stated rate."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import cutaway
from conftest import measured
from cutaway.engine.screening import choose, missed
from families import FAMILIES, token_ids
from reference import brute_force_logits, record

ANSWERS, FOILS = [5, 6], [8, 9]
STEP = 5e-3  # of the central differences: some families compute parts in float32, so a smaller one drowns in noise


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    ids = token_ids(2, 9)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 7) % 90 + 5
    return ids, other


def contrast(logits: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(2)
    return logits[rows, -1, ANSWERS] - logits[rows, -1, FOILS]


def slope(moved) -> np.ndarray:
    """The derivative at 0 of `moved(steps)`, by the five-point rule."""
    return (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * STEP)


@pytest.mark.parametrize(("name", "site"), [
    *product(["gpt2", "llama", "gemma2", "gpt_neox"], ["resid_pre", "z", "v", "mlp_act", "attn_out", "pattern"]),
    ("opt_post_norm", "z"),  # its logits are read by running it once more (a step in the stream meets kinks of ReLU)
])  # fmt: skip
def test_estimates_are_gradient_times_difference(name: str, site: str) -> None:
    """Reference: the slope along (source - base) by central differences of brute-force forwards in float64."""
    model, row = measured(name, "eager", torch.float64), FAMILIES[name]
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    found = cutaway.sweep(model, base, cutaway.patch(site, source), screen=0.2)["estimate"]
    old, new = record(model.hf, row, ids), record(model.hf, row, other)
    axis = found.dims[2]
    for layer, j in ((0, 0), (2, 1)) if axis != "position" else ((0, 3), (2, 6)):
        index = np.s_[:, j] if axis == "position" or site == "pattern" else np.s_[:, :, j]

        def moved(sign: int, index=index, layer=layer) -> np.ndarray:
            def edit(value: torch.Tensor) -> torch.Tensor:
                changed = value.clone()
                changed[index] += sign * STEP * (new[site, layer] - old[site, layer])[index]
                return changed

            return contrast(brute_force_logits(model.hf, row, ids, [(site, layer, edit)])).detach().numpy()

        want = slope(moved)
        got = found.sel(layer=layer, **{axis: j}).values
        assert np.allclose(got, want, atol=3e-4 * max(1.0, np.abs(want).max())), (layer, j)


@pytest.mark.parametrize("site", ["q", "k"])
def test_queries_and_keys_pass_through_the_recomputed_softmax(site: str) -> None:
    """Reference: the new pattern by a brute-force run with the edit, times the slope of the pattern."""
    name = "llama"
    model, row = measured(name, "eager", torch.float64), FAMILIES[name]
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    found = cutaway.sweep(model, base, cutaway.patch(site, source, positions="each"), screen=0.2)["estimate"]
    clean, new = record(model.hf, row, ids), record(model.hf, row, other)
    for layer, head, t in ((1, 0, 5), (2, 1, 8)):

        def put(old: torch.Tensor, layer=layer, head=head, t=t) -> torch.Tensor:
            changed = old.clone()
            changed[:, t, head] = new[site, layer][:, t, head]
            return changed

        pattern = record(model.hf, row, ids, [(site, layer, put)])["pattern", layer]
        move = pattern - clean["pattern", layer]

        def moved(sign: int, layer=layer, move=move) -> np.ndarray:
            edit = ("pattern", layer, lambda old: old + sign * STEP * move)
            return contrast(brute_force_logits(model.hf, row, ids, [edit])).detach().numpy()

        want = slope(moved)
        axis = "kv_head" if site == "k" else "head"
        got = found.sel(layer=layer, position=t, **{axis: head}).values
        assert np.allclose(got, want, atol=3e-4 * max(1.0, np.abs(want).max()))


def test_exact_cells_are_the_full_sweeps_and_the_model_is_untouched() -> None:
    model = measured("llama")
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    edits = cutaway.patch("z", source, positions="each")
    full = cutaway.sweep(model, base, edits)
    flags = [p.requires_grad for p in model.hf.parameters()]
    found = cutaway.sweep(model, base, edits, screen=0.1, seed=3)
    exact = found["exact"]
    cannot = (full["value"] == full["base"]).all("prompt")  # before the first difference, and what is never read
    assert bool(exact.where(cannot, True).all()) and 0 < int((exact & ~cannot).sum()) < 0.3 * exact.size
    assert np.allclose(found["value"].where(exact), full["value"].where(exact), atol=1e-5, equal_nan=True)
    left = ~exact
    guess = found["base"] + found["estimate"]
    assert np.allclose(found["value"].where(left), guess.transpose(*found["value"].dims).where(left), equal_nan=True)
    assert [p.requires_grad for p in model.hf.parameters()] == flags
    assert all(p.grad is None for p in model.hf.parameters())
    assert found.attrs["screened_sample"] == round(0.02 * int((~cannot).sum()))
    assert 0 <= found.attrs["screened_missed_rate"] <= found.attrs["screened_missed_rate_at_most"] <= 1


def test_a_screened_plan_says_what_is_estimated() -> None:
    model = measured("gpt2")
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    edits = cutaway.patch("z", source, positions="each")
    whole = cutaway.sweep(model, base, edits, dry_run=True)
    plan = cutaway.sweep(model, base, edits, screen=0.1, dry_run=True)
    assert plan.n_cells == whole.n_cells and len(plan.variants) + plan.estimated == len(whole.variants)
    left = {v.cell for v in whole.variants} - {v.cell for v in plan.variants}
    exact = cutaway.sweep(model, base, edits, screen=0.1)["exact"].values.ravel()
    assert left == set(np.flatnonzero(~exact).tolist())
    assert f"{plan.estimated} are estimated" in plan.describe() and plan.flops < 0.3 * whole.flops


def test_where_nothing_can_differ_everything_is_exact() -> None:
    ids, _ = pair()
    base, same = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=ids.clone())
    found = cutaway.sweep(measured("gpt2"), base, cutaway.patch("z", same), screen=0.1)
    assert bool(found["exact"].all()) and bool((found["value"] == found["base"]).all())


def test_what_is_chosen_costs_the_share_asked_for() -> None:
    rng = np.random.default_rng(5)
    estimates, costs = rng.normal(size=(1000, 3)), rng.uniform(1, 9, 800)
    among = rng.permutation(1000)[:800]
    chosen = choose(estimates, 0.1, seed=1, among=among, costs=costs)
    cost = dict(zip(among.tolist(), costs, strict=True))
    spent = sum(cost[c] for c in chosen.top.tolist())
    assert 0.08 * costs.sum() - 9 < spent <= 0.08 * costs.sum()
    assert len(chosen.sample) == 16 and chosen.n_left == 800 - len(chosen.top)
    assert len({*chosen.cells.tolist()}) == len(chosen.cells) and set(chosen.cells.tolist()) <= set(among.tolist())
    size = np.abs(estimates.mean(1))
    assert min(size[chosen.top]) >= max(size[list(set(among.tolist()) - set(chosen.top.tolist()))])


@pytest.mark.parametrize("above", [0.5, None])
@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_the_stated_limit_covers_the_true_rate(above: float | None, noise: float) -> None:
    """Heavy-tailed effects, poor and useless estimates: the true rate of missed cells is under the limit in 95 %."""
    rng = np.random.default_rng(0)
    covered = []
    for draw in range(400):
        effect = rng.standard_t(3, size=600)
        estimates = (effect + noise * rng.normal(size=600))[:, None]
        chosen = choose(estimates, 0.25, seed=draw)
        assert not set(chosen.top) & set(chosen.sample) and len(chosen.top) == 120 and len(chosen.sample) == 30
        said = missed(effect[chosen.cells], chosen, above)
        left = np.setdiff1d(np.arange(600), chosen.top)
        true = (np.abs(effect[left]) >= said["screened_above"]).mean()
        covered.append(true <= said["screened_missed_rate_at_most"])
    assert sum(covered) >= 366  # nominal 380 of 400; binomial 99.9 % lower limit


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_keys_at_sets_of_positions_move_the_whole_row(name: str) -> None:
    """Reference: the new pattern under a brute-force edit of the keys at several positions, times the slope of the
    pattern. The second family has a sink in its softmax."""
    model, row = measured(name, "eager", torch.float64), FAMILIES[name]
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    edits = cutaway.patch("k", source, positions=[[3, 4, 7], list(range(9))])
    found = cutaway.sweep(model, base, edits, screen=0.2)["estimate"]
    clean, new = record(model.hf, row, ids), record(model.hf, row, other)
    for layer, head, place, at in ((1, 0, 0, [3, 4, 7]), (2, 1, 1, list(range(9)))):

        def put(old: torch.Tensor, layer=layer, head=head, at=at) -> torch.Tensor:
            changed = old.clone()
            changed[:, at, head] = new["k", layer][:, at, head]
            return changed

        move = record(model.hf, row, ids, [("k", layer, put)])["pattern", layer] - clean["pattern", layer]

        def moved(sign: int, layer=layer, move=move) -> np.ndarray:
            edit = ("pattern", layer, lambda old: old + sign * STEP * move)
            return contrast(brute_force_logits(model.hf, row, ids, [edit])).detach().numpy()

        want = slope(moved)
        got = found.isel(position=place).sel(layer=layer, kv_head=head).values
        assert np.allclose(got, want, atol=3e-4 * max(1.0, np.abs(want).max())), (layer, got, want)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"screen": 2.0}, "between 0 and 1"),
        ({"screen": 0.1, "metric": "kl"}, "no slope"),
        ({"screen": 0.1, "metric": {"place": "rank"}}, "place has no slope"),
        ({"screen": 0.1, "metric": lambda logits, prompts: logits.argmax(-1)}, "no slope"),
        ({"screen": 0.1, "metric": ["logit_diff", "log_prob"]}, "one metric"),
    ],
)
def test_what_cannot_be_screened_is_said(more: dict, says: str) -> None:
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    with pytest.raises(cutaway.BadInput, match=says):
        cutaway.sweep(measured("gpt2"), base, cutaway.patch("z", source), **more)
    with pytest.raises(cutaway.Refused, match="Sweep without"):
        cutaway.sweep(measured("gpt_neo"), base, cutaway.patch("z", source), screen=0.1)
