"""Every tensor lies where the model lies: all sites and readouts on devices that do not exist (`pretend`), against the
same on the CPU. This is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
import pretend
from cutaway.ledger import ledger
from families import ATTENTION, FAMILIES, build, token_ids
from reference import LAYOUTS

SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "mlp_pre",
    "mlp_act",
    "z",
    "q",
    "k",
    "v",
    "pattern",
)
IDS = token_ids(2, 9)
OTHER = IDS.clone()
OTHER[:, 3] = (OTHER[:, 3] + 7) % 90 + 5


CASES = [("gpt2", "pretend:0"), ("llama", "cpu+pretend:0")]
if "CUTAWAY_FUZZ" in os.environ:  # all families, whole and in two
    CASES = [(name, places) for name in ATTENTION for places in ("pretend:0", "cpu+pretend:0", "pretend:1+pretend:0")]


def work(m: cutaway.Model) -> Iterator[tuple[str, Callable[[], object]]]:
    base = cutaway.Prompts(ids=IDS, answers=[5, 6], foils=[8, 9])
    source = cutaway.Prompts(ids=OTHER, answers=[5, 6], foils=[8, 9])
    ragged = cutaway.Prompts(ids=[IDS[0].tolist(), IDS[1, :6].tolist()], answers=[5, 6], foils=[8, 9])
    t = m.trace(base)
    yield "logits", lambda: t.logits.cpu()
    for by in ("head", "neuron", "source"):
        yield by, lambda by=by: cutaway.attribute(t, by=by)
    yield "lens", lambda: cutaway.lens(m.trace(ragged), of=[7])["of_logit"]
    yield "cumulative", lambda: cutaway.cumulative(t)
    for site in SITES:
        if m.anatomy.blocks[0].parallel and site == "resid_mid":
            continue
        yield site, lambda site=site: cutaway.sweep(m, base, cutaway.patch(site, source))["value"]
    metrics = ["kl", "rank", "log_prob", "entropy"]
    yield (
        "metrics",
        lambda: cutaway.sweep(m, ragged, cutaway.ablate("mlp_out", mean_of=source), metric=metrics)["value"],
    )
    for site in ("z", "q", "resid_pre"):
        yield (
            f"screened {site}",
            lambda site=site: cutaway.sweep(m, base, cutaway.patch(site, source), screen=0.5)["estimate"],
        )
    yield "directions", lambda: m.directions([5], [6]).cpu()
    yield "OV", lambda: m.OV(1, 1).detach().cpu()
    yield "ledger", lambda: ledger(m, base, cutaway.ablate("z", layers=1, heads=1)).to_array()
    yield "rotations", lambda: cutaway.rotations(t).to_array()


def placed(name: str, devices: str) -> nn.Module:
    hf = build(name, FAMILIES[name].attn[-1])
    pretend.register()
    spread = devices.split("+")
    return pretend.place(hf) if len(spread) == 1 else pretend.spread(hf, LAYOUTS[name].blocks, tuple(spread))


def apart(call: str) -> None:
    """Run a function of this file in a process of its own: devices are registered before its first backward pass, and
    nowhere else."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_pretend_device as here; here.{call}"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("name", "devices"), CASES)
def test_all_work_is_done_where_the_model_is(name: str, devices: str) -> None:
    apart(f"compare({name!r}, {devices!r})")


def test_the_pretended_device_notices_a_misplaced_tensor() -> None:
    apart("notices()")


def compare(name: str, devices: str) -> None:
    pretend.register()
    here = cutaway.Model(build(name, FAMILIES[name].attn[-1]))
    there = cutaway.Model(placed(name, devices))
    assert [i.holds for i in there.certificate.identities] == [i.holds for i in here.certificate.identities]
    assert there.fingerprint == here.fingerprint
    for (what, ours), (_, theirs) in zip(work(here), work(there), strict=True):
        if what.startswith("screened") and "pretend:1" in devices:
            continue  # PyTorch's backward pass knows one pretended device only
        want, found = np.asarray(ours(), dtype=float), np.asarray(theirs(), dtype=float)
        assert np.nanmax(np.abs(want - found)) <= 1e-5 and np.array_equal(np.isnan(want), np.isnan(found)), what


def notices() -> None:
    pretend.register()
    here, there = torch.ones(3), torch.ones(3).to("pretend:0")
    for wrong in (lambda: here + there, lambda: here[there.long()], lambda: there + here.to("pretend:1")):
        with pytest.raises(pretend.Misplaced):
            wrong()
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()
    assert (there + torch.tensor(1.0)).device == there.device and there[torch.tensor([0])].device == there.device
    hf = pretend.place(build("llama"))
    with pytest.raises(pretend.Misplaced):
        hf(IDS)
