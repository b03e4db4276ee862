"""Corner cases of sweeps that went wrong once, each against full forwards with hooks written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from conftest import measured
from cutaway.engine.paths import engine
from families import FAMILIES, build, token_ids
from reference import brute_force_logits, record

ANSWERS, FOILS = [5, 6], [8, 9]
DOWN = {
    "gpt2": "transformer.h.1.mlp.c_proj", "llama": "model.layers.1.mlp.down_proj",
    "gpt_neox": "gpt_neox.layers.1.mlp.dense_4h_to_h",
}  # fmt: skip


def contrast(logits: torch.Tensor) -> np.ndarray:
    rows = torch.arange(2)
    return (logits[rows, -1, ANSWERS].double() - logits[rows, -1, FOILS].double()).detach().numpy()


def base(**more) -> cutaway.Prompts:
    return cutaway.Prompts(ids=token_ids(2, 9), answers=ANSWERS, foils=FOILS, **more)


def zero_at(old: torch.Tensor, at: int) -> torch.Tensor:
    new = old.clone()
    new[:, at] = 0
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", DOWN)
def test_a_write_far_larger_than_the_stream_leaves_nothing_of_its_rounding(name: str, dtype: torch.dtype) -> None:
    """As real models have them; taken out, what stays is as exact as in a full forward."""
    row, exact = FAMILIES[name], build(name, "eager", torch.float64)
    low = build(name, "eager", dtype)
    with torch.no_grad():
        exact.get_submodule(DOWN[name]).weight.mul_(1000 if dtype == torch.float32 else 100)
        low.load_state_dict({k: v.to(dtype) for k, v in exact.state_dict().items()})
        exact.load_state_dict({k: v.double() for k, v in low.state_dict().items()})
    model, prompts = cutaway.Model(low), base()
    ours, brute = [], []
    for site in ("mlp_out", "mlp_act"):
        found = cutaway.sweep(model, prompts, cutaway.ablate(site, layers=1))["value"].values
        for at in (2, 5, 7, 8):
            edits = [(site, 1, partial(zero_at, at=at))]
            truth = contrast(brute_force_logits(exact, row, prompts.ids, edits))
            ours.append(found[:, at] - truth)
            brute.append(contrast(brute_force_logits(low, row, prompts.ids, edits)) - truth)
    assert np.sqrt(np.mean(np.square(ours))) <= 2 * np.sqrt(np.mean(np.square(brute)))


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "llama", "bloom"])
def test_all_heads_taken_out_leave_nothing_for_a_post_norm_to_enlarge(name: str) -> None:
    row, model, exact = FAMILIES[name], measured(name), build(name, "eager", torch.float64)
    exact.load_state_dict({k: v.double() for k, v in model.hf.state_dict().items()})
    prompts, ours, brute = base(), [], []
    found = cutaway.sweep(model, prompts, cutaway.ablate("z", layers=1, heads="all", positions="each"))["value"].values
    for at in (2, 5, 7, 8):
        edits = [("z", 1, partial(zero_at, at=at))]
        truth = contrast(brute_force_logits(exact, row, prompts.ids, edits))
        ours.append(found[:, at] - truth)
        brute.append(contrast(brute_force_logits(model.hf, row, prompts.ids, edits)) - truth)
    assert np.sqrt(np.mean(np.square(ours))) <= 2 * np.sqrt(np.mean(np.square(brute)))


def test_values_of_every_draw_come_from_their_own_role() -> None:
    model, row, pool = measured("gpt2"), FAMILIES["gpt2"], token_ids(6, 9, seed=4)
    here, there = [3, 4], [2, 3, 4, 5, 6, 7]
    prompts = base(roles={"S": here})
    source = cutaway.Prompts(ids=pool, roles={"S": there})
    edits = cutaway.ablate("resid_pre", resample_from=source, draws=5, layers=1, positions="S")
    found = cutaway.sweep(model, prompts, edits)["value"].values
    seen = record(model.hf, row, pool)["resid_pre", 1]
    possible = []
    for j, at in enumerate(there):

        def put(old: torch.Tensor, j: int = j, at: int = at) -> torch.Tensor:
            new = old.clone()
            new[[0, 1], here] = seen[j, at]
            return new

        possible.append(contrast(brute_force_logits(model.hf, row, prompts.ids, [("resid_pre", 1, put)])))
    nearest = np.abs(found[:, None] - np.stack(possible, 1)[:, :, None]).argmin(1)  # [prompt, draw]
    assert np.abs(found - np.take_along_axis(np.stack(possible, 1), nearest, 1)).max() < 1e-5
    assert len(set(nearest.ravel().tolist())) > 2


def test_padding_behind_a_window_reaches_no_real_token() -> None:
    """Its queries see padding only, so their pattern has no softmax."""
    model, row = measured("mistral", "sdpa"), FAMILIES["mistral"]
    rows = [token_ids(1, 9)[0].tolist(), [5, 59]]
    prompts = cutaway.Prompts(ids=rows, answers=ANSWERS, foils=FOILS)
    found = cutaway.sweep(model, prompts, cutaway.edit("pattern", lambda x: 2 * x, layers=0, heads=1))["value"]
    for p in range(2):

        def double(old: torch.Tensor) -> torch.Tensor:
            new = old.clone()
            new[:, 1] *= 2
            return new

        logits = brute_force_logits(model.hf, row, torch.tensor([rows[p]]), [("pattern", 0, double)])[0, -1].detach()
        assert abs(float(found[p]) - float(logits[ANSWERS[p]] - logits[FOILS[p]])) < 1e-5


@pytest.mark.parametrize(
    ("name", "module"), [("gpt2", "transformer.h.1.attn"), ("llama", "model.layers.1.self_attn"),
                         ("gpt_neox", "gpt_neox.layers.1.attention")],
)  # fmt: skip
def test_a_hook_that_a_model_came_with_acts_in_sweeps_too(name: str, module: str) -> None:
    """On a layer between others, so that no look at the first and the last would find it."""
    hf, row = build(name, "eager"), FAMILIES[name]
    hf.get_submodule(module).register_forward_hook(lambda m, args, out: (out[0] * 0.5, *out[1:]))
    model, prompts = cutaway.Model(hf), base()
    assert engine(model).path == "waves of packed suffixes, blocks entered at their start"
    found = cutaway.sweep(
        model, prompts, {s: cutaway.ablate(s, layers=1, positions=4) for s in ("attn_out", "mlp_out")}
    )
    heads = cutaway.sweep(model, prompts, cutaway.ablate("z", layers=1, positions=4, heads="all"))
    values = {site: found["value"].sel(edit=site) for site in ("attn_out", "mlp_out")} | {"z": heads["value"]}
    for site, got in values.items():
        want = contrast(brute_force_logits(hf, row, prompts.ids, [(site, 1, partial(zero_at, at=4))]))
        assert np.abs(got.values - want).max() < 1e-5, site


def hooked(hf: nn.Module) -> None:
    hf.model.layers[1].mlp.register_forward_hook(lambda m, args, out: out * 0.5)


def hooked_before(hf: nn.Module) -> None:
    hf.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda m, args: (args[0] * 0.5,))


def hooked_at_the_end(hf: nn.Module) -> None:
    hf.lm_head.register_forward_hook(lambda m, args, out: out * 0.5)


def exchanged(hf: nn.Module) -> None:
    hf.model.layers[1].mlp.down_proj = copy.deepcopy(hf.model.layers[0].mlp.down_proj)


def another_forward(hf: nn.Module) -> None:
    mlp = hf.model.layers[1].mlp
    mlp.forward = lambda x, own=mlp.forward: own(x) * 0.5


def trained(hf: nn.Module) -> None:
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(1.5)


ALTERED = [("llama", hooked), ("llama", hooked_before), ("llama", hooked_at_the_end), ("llama", exchanged),
           ("llama", another_forward), ("llama", trained), ("gpt2", trained)]  # fmt: skip


@pytest.mark.parametrize(("name", "alter"), ALTERED)
def test_a_model_altered_after_it_was_opened_is_taken_as_it_is_now(
    name: str, alter: Callable[[nn.Module], None]
) -> None:
    hf, row = build(name, "eager"), FAMILIES[name]
    model, prompts = cutaway.Model(hf), base()
    edit = cutaway.ablate("mlp_out", positions=4)
    before = cutaway.sweep(model, prompts, edit)["value"]
    alter(hf)
    own = contrast(hf(prompts.ids).logits)
    found = cutaway.sweep(model, prompts, edit)
    trace = model.trace(prompts)
    assert np.abs(found["base"].values - own).max() < 1e-5 > np.abs(contrast(trace.logits) - own).max()
    with suppress(cutaway.Refused):
        assert np.abs(cutaway.attribute(trace, by="head").sum("term") - own).max() < 1e-5
    for layer in range(row.n_layers):
        want = contrast(brute_force_logits(hf, row, prompts.ids, [("mlp_out", layer, partial(zero_at, at=4))]))
        got = found["value"].sel(layer=layer).values.reshape(-1)
        assert np.abs(got - want).max() < 1e-5 < np.abs(before.sel(layer=layer).values.reshape(-1) - want).max(), layer


def test_attention_switched_in_the_text_configuration_alone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of several media have a configuration for text within theirs."""
    hf = build("llama", "eager")
    text = copy.deepcopy(hf.config)
    monkeypatch.setattr(hf.config, "get_text_config", lambda: text)
    model = cutaway.Model(hf)
    before = model.anatomy
    text._attn_implementation = "sdpa"
    assert model.anatomy is not before and model.anatomy.attn_implementation == "sdpa"


def test_hooks_that_come_and_go_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hf, times = build("llama", "eager"), []
    own = cutaway.model.measure
    monkeypatch.setattr("cutaway.model.measure", lambda *given: times.append(1) or own(*given))
    model, prompts = cutaway.Model(hf), base()
    watch = hf.lm_head.register_forward_hook(lambda m, args, out: None)
    for _ in range(3):
        cutaway.sweep(model, prompts, cutaway.ablate("z"))
    watch.remove()
    for _ in range(3):
        cutaway.sweep(model, prompts, cutaway.ablate("z"))
    assert len(times) == 2


def test_a_divergence_has_a_reference_too() -> None:
    """KL of the source's own answer, beside a metric that has one anyway; a full patch goes all the way."""
    model, row, ids = measured("gpt2"), FAMILIES["gpt2"], token_ids(2, 9)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 7) % 90 + 5
    clean, corrupt = (cutaway.Prompts(ids=i, answers=ANSWERS, foils=FOILS) for i in (ids, other))
    found = cutaway.denoise(model, clean, corrupt, "resid_pre", metric=["logit_diff", "kl"])
    of, to = (brute_force_logits(model.hf, row, i)[:, -1].detach().double().log_softmax(-1) for i in (other, ids))
    want = (of.exp() * (of - to)).sum(-1)
    assert np.allclose(found["reference"].sel(metric="kl"), want, atol=1e-6)
    assert np.allclose(found["base"].sel(metric="kl"), 0)
    assert np.allclose(found["normalized"].sel(layer=0, position=3), 1, atol=1e-4)


def test_a_mean_by_role() -> None:
    model, row, pool = measured("llama"), FAMILIES["llama"], token_ids(4, 9, seed=6)
    here, there = [3, 5], [2, 4, 6, 7]
    prompts, reference = base(roles={"S": here}), cutaway.Prompts(ids=pool, roles={"S": there})
    edits = cutaway.ablate("attn_out", mean_of=reference, by="role", layers=1, positions=["S", "END", 1])
    found = cutaway.sweep(model, prompts, edits)["value"].values
    seen = record(model.hf, row, pool)["attn_out", 1]
    rest = torch.ones(4, 9, dtype=torch.bool)
    rest[torch.arange(4), there], rest[:, 8] = False, False
    means = [seen[torch.arange(4), there].mean(0), seen[:, 8].mean(0), seen[rest].mean(0)]
    for i, (mean, at) in enumerate(zip(means, (here, [8, 8], [1, 1]), strict=True)):

        def put(old: torch.Tensor, mean: torch.Tensor = mean, at: list[int] = at) -> torch.Tensor:
            new = old.clone()
            new[[0, 1], at] = mean
            return new

        want = contrast(brute_force_logits(model.hf, row, prompts.ids, [("attn_out", 1, put)]))
        assert np.abs(found[:, i] - want).max() < 1e-5
