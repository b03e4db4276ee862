"""On an accelerator, where there is one, against full forwards with hooks on the CPU.

`CUTAWAY_DEVICE` names another device than "cuda"; "cpu" tries these tests themselves.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
import test_placement
import test_sweep_exactness as exactness
from conftest import measured
from cutaway.engine.paths import engine
from families import FAMILIES, build
from reference import LAYOUTS
from test_pretend_device import outcome, work

DEVICE = os.environ.get("CUTAWAY_DEVICE", "cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="no accelerator (CUTAWAY_DEVICE)")


def there(name: str, attn: str, dtype: torch.dtype = torch.float32) -> cutaway.Model:
    return cutaway.Model(build(name, attn, dtype).to(DEVICE), name=name)


@pytest.mark.parametrize(("name", "attn"), exactness.CASES)
def test_every_site_of_every_family(name: str, attn: str) -> None:
    """Ragged prompts with roles, several metrics: float32 to 1e-5 of the largest |logit|, float64 to 1e-9."""
    model = there(name, attn)
    assert engine(model).path == engine(measured(name, attn)).path
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float64 and (attn != FAMILIES[name].attn[-1] or attn in FAMILIES[name].float32_attn):
            continue
        allowed = 1e-5 if dtype == torch.float32 else exactness.noise_floor(name, attn)
        ours = exactness.swept(name, attn, model if dtype == torch.float32 else there(name, attn, dtype))
        theirs, size = exactness.brute(name, attn, dtype)
        for site, values in ours.items():
            assert np.abs(values - theirs[site]).max() <= allowed * max(size, 1.0), (site, dtype)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2"])
def test_bfloat16_is_no_further_from_float64_than_twice_the_brute_force(name: str) -> None:
    attn = FAMILIES[name].attn[-1]
    low, here = there(name, attn, torch.bfloat16), build(name, attn, torch.bfloat16)
    exact = build(name, "eager", torch.float64)
    exact.load_state_dict({k: v.double() for k, v in here.state_dict().items()})
    ours, brute = [], []
    for site in test_placement.sites(name):
        want = test_placement.by_hand(exact, name, site)
        ours.append(test_placement.swept(low, site) - want)
        brute.append(test_placement.by_hand(here, name, site) - want)
    rms = [float(np.sqrt(np.mean(np.square(np.stack(e))))) for e in (ours, brute)]
    assert 0 < rms[0] <= 2 * rms[1]


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma3", "mixtral"])
def test_all_work_is_done_there(name: str, spread: bool) -> None:
    """Sweeps, readouts, fits, directions, ledgers, controls; the model whole, or dealt out over it and the CPU."""
    attn = FAMILIES[name].attn[-1]
    hf = dealt(name, attn) if spread else build(name, attn).to(DEVICE)
    homes = [p.device for p in hf.parameters()]
    model, here = cutaway.Model(hf), measured(name, attn)
    assert model.fingerprint == here.fingerprint
    for (what, ours), (_, theirs) in zip(work(here), work(model), strict=True):
        want, found = outcome(ours), outcome(theirs)
        if isinstance(want, str):
            assert found == want, what
            continue
        assert np.allclose(want, found, rtol=1e-4, atol=2e-5, equal_nan=True), what
    assert [p.device for p in hf.parameters()] == homes


def dealt(name: str, attn: str) -> nn.Module:
    from accelerate import dispatch_model

    hf, blocks = build(name, attn), LAYOUTS[name].blocks
    body, last = blocks.rsplit(".", 1)
    homes = {f"{body}.{n}": DEVICE for n, _ in hf.get_submodule(body).named_children() if n != last}
    homes |= {LAYOUTS[name].unembed: DEVICE}
    homes |= {f"{blocks}.{i}": "cpu" if i == 1 else DEVICE for i in range(FAMILIES[name].n_layers)}
    return dispatch_model(hf, homes, main_device=DEVICE, force_hooks=True)


@pytest.mark.skipif(DEVICE == "cpu", reason="its memory is not bounded")
def test_where_its_memory_runs_out_the_budget_is_halved() -> None:
    model = there("gpt2", "sdpa")
    ids = torch.randint(5, 95, (64, 24), generator=torch.Generator().manual_seed(0))
    base = cutaway.Prompts(ids=ids, answers=[5] * 64, foils=[8] * 64)
    edits, budget = cutaway.ablate("mlp_out"), 2**18
    want = cutaway.sweep(model, base, edits, budget=1024)
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64e6) / whole)
    try:
        found = cutaway.sweep(model, base, edits, budget=budget)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    budgets = json.loads(found.attrs["budgets"])
    assert budgets[0] == budget > budgets[-1], "it ran out, and went on"
    assert np.abs(found["value"].values - want["value"].values).max() < 1e-5
