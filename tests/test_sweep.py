"""Sweeps against brute force: one full forward a cell, with plain per-family hooks written independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from conftest import measured
from cutaway.engine import gridding, replay
from cutaway.engine.paths import engine
from families import FAMILIES, token_ids
from reference import brute_force_logits, record

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("z", "q", "k", "v", "pattern")
CASES = [(n, a) for n, row in FAMILIES.items() for a in row.attn if row.decomposable and not row.recurrent]
ANSWERS, FOILS = [5, 6], [8, 9]


def pair(differs_at: int = 3, length: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    ids = token_ids(2, length)
    other = ids.clone()
    other[:, differs_at] = (other[:, differs_at] + 7) % 90 + 5
    return ids, other


def contrast(logits: torch.Tensor) -> np.ndarray:
    rows = torch.arange(2)
    return (logits[rows, -1, ANSWERS] - logits[rows, -1, FOILS]).detach().double().numpy()


def put(source: torch.Tensor, index) -> object:
    def edit(old: torch.Tensor) -> torch.Tensor:
        new = old.clone()
        new[index] = source[index]
        return new

    return edit


@pytest.mark.parametrize(("name", "attn"), CASES)
def test_every_site_equals_brute_force(name: str, attn: str) -> None:
    row, model = FAMILIES[name], measured(name, attn)
    ids, other = pair()
    base = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    source = cutaway.Prompts(ids=other)
    seen = record(model.hf, row, other)
    size = float(model.hf(ids, use_cache=False).logits.detach().abs().max())
    for site in (*STREAM, *HEADS, "mlp_act"):
        if ("mlp_act" == site and row.moe) or (site == "resid_mid" and row.parallel):
            with pytest.raises(cutaway.Refused):
                cutaway.sweep(model, base, cutaway.patch(site, source))
            continue
        found = cutaway.sweep(model, base, cutaway.patch(site, source))["value"]
        axis = found.dims[2]
        for layer in range(model.n_layers):
            for j in (3, 6, 8) if axis == "position" else (0, found.sizes[axis] - 1):
                index = np.s_[:, j] if axis == "position" or site == "pattern" else np.s_[:, :, j]
                edit = (site, layer, put(seen[site, layer], index))
                want = contrast(brute_force_logits(model.hf, row, ids, [edit]))
                got = found.isel(layer=layer).sel({axis: j}).values
                assert np.abs(got - want).max() <= 1e-5 * size, (site, layer, axis, j)


@pytest.mark.parametrize(("name", "attn"), CASES)
def test_variants_as_rows_equal_brute_force(name: str, attn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long suffixes that begin alike are rows of their own; here short ones too, of prompts of two lengths."""
    monkeypatch.setattr(replay, "ROWS_FROM", 1)
    row, model = FAMILIES[name], measured(name, attn)
    ids, other = pair()
    rows, sources = [ids[0].tolist(), ids[1, :7].tolist()], [other[0].tolist(), other[1, :7].tolist()]
    base, source = cutaway.Prompts(ids=rows, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=sources)
    for site in HEADS:
        found = cutaway.sweep(model, base, cutaway.patch(site, source))["value"]
        last = found.sizes[found.dims[2]] - 1
        for p, layer in ((0, 0), (1, 1), (0, 1)):
            seen = record(model.hf, row, torch.tensor([sources[p]]))[site, layer]
            index = np.s_[:, last] if site == "pattern" else np.s_[:, :, last]
            logits = brute_force_logits(model.hf, row, torch.tensor([rows[p]]), [(site, layer, put(seen, index))])
            logits = logits.detach().double()[0, -1]
            got = float(found.isel(prompt=p, layer=layer)[last])
            assert abs(got - float(logits[ANSWERS[p]] - logits[FOILS[p]])) <= 1e-5 * float(logits.abs().max())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma3", "bloom", "mixtral", "gpt_neo"])
def test_ragged_prompts_roles_and_every_metric(name: str) -> None:
    """Padding, roles at different positions, several metrics and reads; reference: each prompt alone."""
    row, model = FAMILIES[name], measured(name)
    ids, other = pair()
    rows, sources = [ids[0].tolist(), ids[1, :6].tolist()], [other[0].tolist(), other[1, :6].tolist()]
    roles = {"S": [3, 3], "T": [5, 4]}
    base = cutaway.Prompts(ids=rows, answers=ANSWERS, foils=FOILS, roles=roles)
    source = cutaway.Prompts(ids=sources, roles=roles)
    names = ["logit_diff", "log_prob", "prob", "rank", "kl", "entropy"]
    edits = cutaway.patch("resid_pre", source, positions=["S", "T", "END"])
    found = cutaway.sweep(model, base, edits, metric=names, read=["T", -1])["value"]
    assert set(found.dims) == {"prompt", "layer", "position", "metric", "read"}
    for p in range(2):
        mine = torch.tensor([rows[p]])
        seen = record(model.hf, row, torch.tensor([sources[p]]))
        clean = brute_force_logits(model.hf, row, mine, [])[0]
        for layer in (0, 2):
            for role in ("S", "T", "END"):
                at = {"END": len(rows[p]) - 1}.get(role, roles.get(role, [0, 0])[p])
                edit = ("resid_pre", layer, put(seen["resid_pre", layer], np.s_[:, at]))
                logits = brute_force_logits(model.hf, row, mine, [edit])[0]
                for read, t in (("T", roles["T"][p]), ("-1", len(rows[p]) - 1)):
                    l, c = logits[t].detach().double(), clean[t].detach().double()
                    lp, cp = l.log_softmax(-1), c.log_softmax(-1)
                    a, f = ANSWERS[p], FOILS[p]
                    want = {
                        "logit_diff": l[a] - l[f],
                        "log_prob": lp[a],
                        "prob": lp[a].exp(),
                        "rank": (l > l[a]).sum(),
                        "kl": (cp.exp() * (cp - lp)).sum(),
                        "entropy": -(lp.exp() * lp).sum(),
                    }
                    for metric, value in want.items():
                        got = found.isel(prompt=p).sel(layer=layer, position=role, metric=metric, read=read)
                        assert abs(float(got) - float(value)) < 2e-4, (p, layer, role, read, metric)


def test_dataset_of_the_contract() -> None:
    model = measured("gpt2")
    ids, other = pair()
    clean = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    corrupt = cutaway.Prompts(ids=other, answers=ANSWERS, foils=FOILS)
    found = cutaway.denoise(model, clean, corrupt, "resid_pre")
    assert isinstance(found, xr.Dataset) and found["value"].dims == ("prompt", "layer", "position")
    assert np.allclose(found["base"], contrast(model.hf(other).logits), atol=1e-5)
    assert np.allclose(found["reference"], contrast(model.hf(ids).logits), atol=1e-5)
    assert np.allclose(found["effect"], found["value"] - found["base"])
    share = found["effect"] / (found["reference"] - found["base"])
    assert np.allclose(found["normalized"], share)
    whole = found["normalized"].sel(layer=0, position=3)
    assert np.allclose(whole, 1.0, atol=1e-4)  # layer 0: putting back the one token that differs restores everything
    before = found["value"].sel(position=[0, 1, 2])
    assert (before == found["base"]).all()  # identical until token 3: exactly the base, not computed
    other_way = cutaway.noise(model, clean, corrupt, "z")
    assert other_way["value"].dims == ("prompt", "layer", "head")
    assert np.allclose(other_way["base"], found["reference"], atol=1e-5)
    assert {"model", "fingerprint", "edits", "plan", "path", "prompts_hash"} <= set(found.attrs)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox"])
def test_metrics_at_every_position(name: str) -> None:
    row, model = FAMILIES[name], measured(name)
    ids, other = pair()
    seen = record(model.hf, row, other)
    base = cutaway.Prompts(ids=[ids[0].tolist(), ids[1, :7].tolist()])
    source = cutaway.Prompts(ids=[other[0].tolist(), other[1, :7].tolist()])
    found = cutaway.sweep(model, base, cutaway.patch("mlp_out", source, layers=1), metric="next_token_log_prob")[
        "value"
    ]
    assert found.dims == ("prompt", "position", "read")
    edit = ("mlp_out", 1, put(seen["mlp_out", 1], np.s_[:, 4]))
    log_p = brute_force_logits(model.hf, row, ids, [edit]).detach().log_softmax(-1)
    for p, length in ((0, 9), (1, 7)):
        want = log_p[p, torch.arange(length - 1), ids[p, 1:length]]
        assert np.allclose(found.sel(position=4)[p, : length - 1], want, atol=2e-5)
        assert np.isnan(found.sel(position=4)[p, length - 1 :]).all()


def test_a_function_as_metric_and_several_edits_side_by_side() -> None:
    model = measured("llama")
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)

    def margin(logits: torch.Tensor, prompts: cutaway.Prompts) -> torch.Tensor:
        return logits.max(-1).values - logits[torch.arange(len(prompts)), prompts.answers]

    edits = {"patch": cutaway.patch("z", source), "zero": cutaway.ablate("z")}
    found = cutaway.sweep(model, base, edits, metric={"margin": margin, "ld": "logit_diff"})
    assert found["value"].dims == ("prompt", "edit", "layer", "head", "metric")
    alone = cutaway.sweep(model, base, edits["zero"])["value"]
    assert np.allclose(found["value"].sel(edit="zero", metric="ld"), alone, atol=1e-5)
    row = FAMILIES["llama"]

    def zero(old: torch.Tensor) -> torch.Tensor:
        new = old.clone()
        new[:, :, 2] = 0
        return new

    logits = brute_force_logits(model.hf, row, ids, [("z", 1, zero)])[:, -1].detach()
    want = logits.max(-1).values - logits[torch.arange(2), ANSWERS]
    assert np.allclose(found["value"].sel(edit="zero", metric="margin", layer=1, head=2), want, atol=1e-4)


SITES = st.sampled_from(
    ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "mlp_act"]
)
ONE = st.tuples(
    SITES, st.integers(0, 2), st.sampled_from(["patch", "zero", "double", "add"]), st.integers(0, 8), st.integers(0, 1)
)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "llama", "gemma2", "gpt_neox_sequential", "qwen3", "olmo2", "falcon_new"]),
    parts=st.lists(ONE, min_size=1, max_size=3, unique_by=lambda part: part[:2]),
    attn=st.sampled_from(["eager", "sdpa"]),
)
def test_random_compositions_equal_brute_force(name: str, parts: list, attn: str) -> None:
    row = FAMILIES[name]
    attn = attn if attn in row.attn else row.attn[0]
    model = measured(name, attn)
    if row.parallel:
        parts = [p for p in parts if p[0] != "resid_mid"] or [("z", 0, "zero", 0, 0)]
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    seen = record(model.hf, row, other)
    ours, theirs = [], []
    for site, layer, how, position, head in parts:
        stream = site in STREAM or site == "mlp_act"
        if site == "pattern":
            index, where = np.s_[:, head], {"heads": head}
        elif stream:
            index, where = np.s_[:, position], {"positions": position}
        else:
            index, where = np.s_[:, position, head], {"positions": position, "heads": head}
        width = seen[site, layer].shape[-1]
        vector = torch.randn(width, generator=torch.Generator().manual_seed(3))
        if how == "patch":
            ours.append(cutaway.patch(site, source, layers=layer, **where))
        elif how == "zero":
            ours.append(cutaway.ablate(site, layers=layer, **where))
        elif how == "double" or site == "pattern":
            ours.append(cutaway.edit(site, lambda x: 2 * x, layers=layer, **where))
        else:
            ours.append(cutaway.add(site, vector, layers=layer, **where))

        def edit(old, site=site, layer=layer, how=how, index=index, vector=vector):
            new = old.clone()
            if how == "patch":
                new[index] = seen[site, layer][index]
            elif how == "zero":
                new[index] = 0
            elif how == "double" or site == "pattern":
                new[index] = 2 * old[index]
            else:
                new[index] = old[index] + vector
            return new

        theirs.append((site, layer, edit))
    found = cutaway.sweep(model, base, ours)
    want = brute_force_logits(model.hf, row, ids, theirs)
    size = float(want.abs().max())
    assert np.abs(found["value"].values.reshape(2) - contrast(want)).max() <= 1e-5 * size


def test_projection_mean_and_resample_ablation() -> None:
    row, model = FAMILIES["gpt2"], measured("gpt2")
    ids, other = pair()
    base = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    pool = cutaway.Prompts(ids=torch.cat([other, token_ids(3, 9, seed=5)]))
    seen = record(model.hf, row, pool.ids)
    basis = torch.linalg.qr(torch.randn(model.d_model, 2, generator=torch.Generator().manual_seed(0))).Q.T

    def projected(old: torch.Tensor) -> torch.Tensor:
        return old - (old @ basis.T) @ basis

    found = cutaway.sweep(model, base, cutaway.project_out("mlp_out", basis, positions="all"))["value"]
    for layer in range(3):
        want = contrast(brute_force_logits(model.hf, row, ids, [("mlp_out", layer, projected)]))
        assert np.allclose(found.sel(layer=layer), want, atol=1e-5)
    found = cutaway.sweep(model, base, cutaway.ablate("z", mean_of=pool, by="position"))["value"]
    mean = seen["z", 1].mean(0)

    def averaged(old: torch.Tensor) -> torch.Tensor:
        new = old.clone()
        new[:, :, 3] = mean[:, 3]
        return new

    want = contrast(brute_force_logits(model.hf, row, ids, [("z", 1, averaged)]))
    assert np.allclose(found.sel(layer=1, head=3), want, atol=1e-5)
    drawn = cutaway.sweep(model, base, cutaway.ablate("mlp_out", resample_from=pool, draws=4, positions="all"))["value"]
    assert drawn.dims == ("prompt", "layer", "draw")
    possible = [
        contrast(
            brute_force_logits(model.hf, row, ids, [("mlp_out", 2, freeze(seen["mlp_out", 2][j].expand(2, -1, -1)))])
        )
        for j in range(5)
    ]
    for draw in range(4):
        for p in range(2):
            assert min(abs(float(drawn[p, 2, draw]) - q[p]) for q in possible) < 1e-5


def freeze(value: torch.Tensor):
    return lambda old: value


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_other_precisions_and_inference_mode(name: str, dtype: torch.dtype) -> None:
    row, model = FAMILIES[name], measured(name, "sdpa", dtype)
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    with torch.inference_mode():
        found = cutaway.sweep(model, base, cutaway.patch("resid_pre", source))["value"]
        heads = cutaway.sweep(model, base, cutaway.ablate("z"))["value"]
    seen = record(model.hf, row, other)
    edit = ("resid_pre", 1, put(seen["resid_pre", 1], np.s_[:, 5]))
    want = brute_force_logits(model.hf, row, ids, [edit])
    tolerance = (1e-6 if dtype == torch.float64 else 3e-2) * float(want.abs().max())
    assert np.abs(found.sel(layer=1, position=5) - contrast(want)).max() <= tolerance
    assert np.isfinite(heads).all() and model.hf(ids).logits.dtype == dtype


def test_no_further_from_float64_than_twice_the_brute_force() -> None:
    row = FAMILIES["llama"]
    low, high = measured("llama", "sdpa"), measured("llama", "sdpa", torch.float64)
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    ours = cutaway.sweep(low, base, cutaway.patch("resid_pre", source))["value"]
    errors, brute_errors = [], []
    for layer in range(3):
        for position in range(3, 9):
            both = []
            for model in (low, high):
                seen = record(model.hf, row, other)
                edit = ("resid_pre", layer, put(seen["resid_pre", layer], np.s_[:, position]))
                both.append(contrast(brute_force_logits(model.hf, row, ids, [edit])))
            errors.append(np.abs(ours.sel(layer=layer, position=position).values - both[1]))
            brute_errors.append(np.abs(both[0] - both[1]))
    assert np.sqrt(np.mean(np.square(errors))) <= 2 * np.sqrt(np.mean(np.square(brute_errors))) + 1e-7


def test_models_whose_blocks_cannot_be_packed_say_so() -> None:
    for name in ("gpt_neo", "mamba"):
        ways = engine(measured(name))
        rules, path = ways.rules, ways.path
        assert rules is None and path.startswith("full forwards (")
    ways = engine(measured("gpt2"))
    rules, path = ways.rules, ways.path
    assert rules and path == "waves of packed suffixes"
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    found = cutaway.sweep(measured("mamba"), base, cutaway.patch("resid_pre", source))
    assert found.attrs["path"].startswith("full forwards")


def test_chunking_follows_the_budget_and_changes_little() -> None:
    model = measured("gpt2")
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    edits = cutaway.patch("resid_pre", source)
    whole = cutaway.sweep(model, base, edits)["value"]
    assert np.array_equal(whole, cutaway.sweep(model, base, edits)["value"])  # same plan, same bits
    for budget in (1, 20, 100):
        assert np.allclose(whole, cutaway.sweep(model, base, edits, budget=budget)["value"], atol=1e-5)


def test_out_of_memory_halves_the_budget_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = measured("gpt2")
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    whole = cutaway.sweep(model, base, cutaway.patch("resid_pre", source))["value"]
    whole_run = gridding.run

    def scarce(work, *rest):
        if work.plan.budget > 300:
            raise torch.OutOfMemoryError("out of memory")
        return whole_run(work, *rest)

    monkeypatch.setattr(gridding, "run", scarce)
    found = cutaway.sweep(model, base, cutaway.patch("resid_pre", source))
    assert found.attrs["budgets"] == "[1024, 512, 256]"
    assert np.allclose(found["value"], whole, atol=1e-5)


def test_a_dry_run_returns_the_plan_and_runs_nothing() -> None:
    model = measured("gpt2")
    ids, other = pair(differs_at=5)
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    engine(model)  # a model is probed once, before its first plan
    calls = []
    handle = model.hf.register_forward_pre_hook(lambda *_: calls.append(1))
    plan = cutaway.sweep(model, base, cutaway.patch("resid_pre", source), dry_run=True)
    handle.remove()
    assert not calls
    assert plan.n_cells == 27 and len(plan.variants) == 1 + 2 * 4  # layer 0: one token differs; above: positions 5 to 8
    assert 0 < plan.share < 0.2 and "cells" in plan.describe()
    assert str(plan) == f"Plan: {plan.describe()}"


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        (lambda b: cutaway.patch("resid_pre", b, layers=9), "no layer 9"),
        (lambda b: cutaway.patch("z", b, heads=[7]), "heads 0 to 3"),
        (lambda b: cutaway.patch("resid_prr", b), "Did you mean"),
        (lambda b: cutaway.patch("resid_pre", b[[0]]), "2 base prompts but 1 source"),
        (lambda b: cutaway.patch("resid_pre", cutaway.Prompts(ids=token_ids(2, 7))), "do not correspond"),
        (lambda b: cutaway.patch("resid_pre", b, positions=["S2"]), "no role 'S2'"),
        (lambda b: cutaway.ablate("z", how="mean"), "mean_of"),
        (lambda b: "z", "Edits are made by"),
        (lambda b: cutaway.project_out("mlp_out", torch.ones(2, 32)), "linearly dependent"),
    ],
)
def test_bad_edits_are_explained(edits, says: str) -> None:
    ids, _ = pair()
    base = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    with pytest.raises(cutaway.BadInput, match=says):
        cutaway.sweep(measured("gpt2"), base, edits(base))


def test_missing_answers_and_unknown_metrics_are_explained() -> None:
    ids, other = pair()
    source = cutaway.Prompts(ids=other)
    with pytest.raises(cutaway.BadInput, match="logit_diff needs answers and foils"):
        cutaway.sweep(measured("gpt2"), cutaway.Prompts(ids=ids), cutaway.patch("z", source))
    with pytest.raises(cutaway.BadInput, match="no metric 'logit_dif'"):
        cutaway.sweep(measured("gpt2"), cutaway.Prompts(ids=ids), cutaway.patch("z", source), metric="logit_dif")


def test_the_model_is_left_as_it_was() -> None:
    model = measured("llama")
    ids, other = pair()
    before = model.hf(ids).logits
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    with pytest.raises(ZeroDivisionError):
        cutaway.sweep(model, base, cutaway.edit("z", lambda x: x / (1 // 0)))
    cutaway.sweep(model, base, cutaway.patch("pattern", source))
    assert torch.equal(model.hf(ids).logits, before)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.hf.modules())


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", "mixtral"])
def test_every_activation_of_an_edited_run(name: str, attn: str) -> None:
    row = FAMILIES[name]
    if attn not in row.attn:
        pytest.skip(f"{name} has no {attn}")
    model = measured(name, attn)
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids), cutaway.Prompts(ids=other)
    seen = record(model.hf, row, other)
    for site, index, where in (
        ("resid_pre", np.s_[:, 4], {"positions": 4}),
        ("pattern", np.s_[:, 2], {"heads": 2}),
        ("v", np.s_[:, :, 1], {"heads": 1}),
        ("attn_out", np.s_[:], {"positions": "all"}),
        ("resid_post", np.s_[:, 5], {"positions": 5}),
    ):
        want = record(model.hf, row, ids, [(site, 1, put(seen[site, 1], index))])
        trace = model.trace(base, edits=cutaway.patch(site, source, layers=1, **where))
        for there in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "pattern", "v", "q"):
            for layer in (1, 2):
                got = trace[there, layer]
                assert (got - want[there, layer]).norm() <= 1e-5 * want[there, layer].norm(), (site, there, layer)
        assert (trace.logits - want["logits", None]).abs().max() <= 1e-5 * want["logits", None].abs().max()
    with pytest.raises(cutaway.BadInput, match="a grid of 1"):
        model.trace(base, edits=cutaway.ablate("z"))


def test_attribution_of_an_edited_run_sums_to_its_answer() -> None:
    model = measured("gpt2")
    ids, _other = pair()
    base = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    trace = model.trace(base, edits=cutaway.ablate("z", layers=1, heads=2))
    terms = cutaway.attribute(trace, by="head")
    assert float(np.abs(terms.sel(term="L1H2")).max()) == 0.0
    swept = cutaway.sweep(model, base, cutaway.ablate("z", layers=1, heads=2))["value"]
    assert np.allclose(terms.sum("term"), swept, atol=1e-5)


@pytest.mark.parametrize("site", ["q", "pattern", "v", "k", "z"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "falcon_new"])
def test_one_cell_of_the_last_layer_with_grouped_heads(name: str, site: str) -> None:
    """The last block then runs a single query, which sdpa folds by groups of heads."""
    row, model = FAMILIES[name], measured(name, "sdpa")
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    seen, last = record(model.hf, row, other), model.n_layers - 1
    for head in (0, 1):
        index = np.s_[:, head] if site == "pattern" else np.s_[:, :, head]
        want = contrast(brute_force_logits(model.hf, row, ids, [(site, last, put(seen[site, last], index))]))
        found = cutaway.sweep(model, base, cutaway.patch(site, source, layers=last, heads=head))["value"]
        assert np.allclose(found, want, atol=1e-5), head


def test_a_prompt_of_one_token_with_grouped_heads() -> None:
    model = measured("llama", "sdpa")
    trace, eager = (measured("llama", attn).trace(cutaway.Prompts(ids=[[7]])) for attn in ("sdpa", "eager"))
    for site in ("q", "k", "v", "pattern", "z"):
        assert trace[site].shape == eager[site].shape
        assert torch.allclose(trace[site], eager[site], atol=1e-5)
    assert model.n_heads == 4


def test_ragged_prompts_in_several_groups() -> None:
    """More prompts than one group holds, of many lengths: each as if it were alone."""
    model = measured("gpt2", "sdpa")
    lengths = [9, 4, 6, 7, 5, 8, 9, 5]
    ids = token_ids(8, 9)
    other = ids.clone()
    other[:, 2] = (other[:, 2] + 7) % 90 + 5
    rows = [ids[i, :n].tolist() for i, n in enumerate(lengths)]
    sources = [other[i, :n].tolist() for i, n in enumerate(lengths)]
    base = cutaway.Prompts(ids=rows, answers=5, foils=8)
    edits = cutaway.patch("z", cutaway.Prompts(ids=sources))
    found = cutaway.sweep(model, base, edits, budget=20)["value"]
    screened = cutaway.sweep(model, base, edits, budget=20, screen=0.5)["estimate"]
    assert np.isfinite(screened).all()
    for i in range(8):
        alone = cutaway.sweep(model, base[[i]], cutaway.patch("z", cutaway.Prompts(ids=[sources[i]])))["value"]
        assert np.allclose(found[i], alone[0], atol=1e-5), i
