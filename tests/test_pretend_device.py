"""Every tensor lies where the model lies: all sites and readouts on devices that do not exist (`pretend`), against the
same on the CPU. This is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
import pretend
from cutaway import steering
from cutaway.controls import Material, against
from cutaway.geometry.standards import standard
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
    yield "rotations", lambda: cutaway.rotations(t, standard=standard(m, base)).to_array()
    yield from analyses(m, base, source, t)


def analyses(
    m: cutaway.Model, base: cutaway.Prompts, source: cutaway.Prompts, t: cutaway.Trace
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Fits, directions, controls, readout edits, interventions and attention."""
    roles = cutaway.Prompts(ids=IDS, roles={"START": [0, 1]})
    vector = torch.linspace(-1, 1, m.d_model)
    yield "update", lambda: cutaway.update(m, base, 1).vector
    yield "head's update", lambda: cutaway.update(m, base, 1, "attn_out", head=1).vector
    yield "difference", lambda: cutaway.difference_of_means(m, base, source, 1).vector
    yield "head scores", lambda: cutaway.head_scores(m, rows=3, period=4).to_array()
    yield "patterns", lambda: cutaway.attention_patterns(t)
    yield "role attention", lambda: cutaway.role_attention(m.trace(roles), [("END", "START")])
    yield "over", lambda: m.over(base, lambda t: cutaway.attribute(t), tokens=9)
    yield "stages", lambda: numbers(cutaway.stages(t))
    yield "readout edit", lambda: numbers(cutaway.readout_edit(t, {"v": vector}, [1.0, -2.0]))
    yield "readout flips", lambda: numbers(cutaway.readout_flips(t, {"v": vector, "w": -vector}))
    yield "readout score", lambda: numbers(cutaway.readout_score(t, {"v": vector}))
    yield "before and after", lambda: numbers(cutaway.before_after(t, vector))
    yield "factorial", lambda: cutaway.factorial(m, base, {"v": vector}, [[0], [0, 1]])["value"]
    yield "flips", lambda: numbers(steering.flips(m, base, {"v": vector}, [1], grid=3, rounds=2))
    yield "ladder", lambda: against_controls(m, base, source)
    if m.certificate.refusal(("residual",), 1) is not None:
        return
    spectrum = cutaway.fit_subspaces(m, base, "mlp_out", layers=[1])[1]
    space = spectrum.leading(2)
    yield "fit", lambda: spectrum.eigenvalues
    yield "energy", lambda: numbers(cutaway.energy_by_token(m, base, space))
    for name, edit in {
        "project out": cutaway.project_out("mlp_out", space, layers=1, positions=-1),
        "perturb": cutaway.perturb("mlp_out", space, layers=1, positions=-1),
        "to mean": cutaway.to_mean("mlp_out", space, layers=1, positions=-1),
        "add": cutaway.add("resid_post", vector, layers=1, positions=-2),
        "mean of z": cutaway.ablate("z", mean_of=source, by=("position",), layers=1, heads=0),
    }.items():
        yield name, lambda edit=edit: cutaway.sweep(m, base, edit, "next_token_log_prob")["value"]
        yield f"{name}, traced", lambda edit=edit: m.trace(base, edits=edit).logits.cpu()


def numbers(found: Any, dim: str | None = None) -> Any:
    """What is numeric of a Dataset (and has an axis `dim`), as one flat array."""
    found = (
        found.to_dataset(name="array") if hasattr(found, "to_dataset") and not hasattr(found, "data_vars") else found
    )
    some = [x for x in found.data_vars.values() if x.dtype.kind in "fiub" and (dim is None or dim in x.dims)]
    kept = [np.ravel(np.asarray(x, dtype=float)) for x in some]
    return np.nan_to_num(np.concatenate([[], *kept]), posinf=1e9)


def against_controls(m: cutaway.Model, base: cutaway.Prompts, source: cutaway.Prompts) -> Any:
    direction = cutaway.update(m, base, 1)
    rungs = cutaway.ladder(direction, Material(other=cutaway.update(m, source, 1)), draws=4)
    where = steering.Where((1,), -1, "add", "mlp_out", 1.0)
    return numbers(against(steering.Outcomes(m, base, where), direction, rungs, ["a", "b"]), "prompt")


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


STUDIES = {
    "ioi": {"families": 4, "top": 1, "rows": 2},
    "subspace": {"passages": 3, "fit_passages": 6, "draws": 1, "components": 1, "layers": (2,)},
    "rotation": {"families": 6},
    "attribution": {},
    "vector_arithmetic": {"items": 8, "draws": 20, "flip_draws": 10, "relations": ("capitals",)},
}


@pytest.mark.skipif("CUTAWAY_FUZZ" not in os.environ, reason="minutes: a whole study through Python")
@pytest.mark.parametrize("devices", ["pretend:0", "cpu+pretend:0"])
@pytest.mark.parametrize("name", STUDIES)
def test_a_whole_study_is_done_where_the_model_is(name: str, devices: str) -> None:
    apart(f"study({name!r}, {STUDIES[name]!r}, {devices!r})")


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
        want, found = outcome(ours), outcome(theirs)
        if isinstance(want, str):
            assert found == want, what
            continue
        assert np.allclose(want, found, rtol=1e-5, atol=1e-5, equal_nan=True), what


def outcome(run: Callable[[], object]) -> Any:
    """The numbers, or why the model does not permit them."""
    try:
        return np.asarray(run(), dtype=float)
    except cutaway.Refused as refusal:
        return str(refusal)


def study(name: str, settings: dict[str, Any], devices: str) -> None:
    """A whole study of the bundled model, there and here."""
    pretend.register()
    module = import_module(f"cutaway.studies.{name}")
    here, moved = cutaway.load("pocket"), cutaway.load("pocket")
    blocks, spread = here.anatomy.blocks[0].name.rpartition(".")[0], tuple(devices.split("+"))
    hf = pretend.place(moved.hf) if len(spread) == 1 else pretend.spread(moved.hf, blocks, spread)
    there = cutaway.Model(hf, moved.tokenizer)
    asked = replace(module.demo(), **settings)
    one, two = (module.run(m, asked) for m in (here, there))
    assert one.arrays.keys() == two.arrays.keys() and one.refused == two.refused
    for key, array in one.arrays.items():
        want, found = (numbers(one, "prompt") for one in (array, two.arrays[key]))  # tests and ratios amplify rounding
        assert want.shape == found.shape and np.nanmax(np.abs(want - found), initial=0) <= 1e-4, key
    assert all(check.passed for check in two.checks)


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
