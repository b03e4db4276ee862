"""NaN and infinity are found and named (site, layer, position, prompt, weight), never averaged away."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import cutaway
import faults
from families import build

NAN, INF = float("nan"), float("inf")


def model(poison: str = "", value: float = NAN, row: int | None = None) -> cutaway.Model:
    """A wide model of its own, one number (or row) of a weight poisoned after it was measured."""
    torch.manual_seed(0)
    made = faults.wide_model.__wrapped__(inner=96, width=32)
    if poison:
        with torch.no_grad():
            weight = made.hf.get_parameter(f"transformer.{poison}")
            if row is None:
                weight.view(-1)[0] = value
            else:
                weight[row] = value
    return made


@pytest.fixture
def prompts() -> tuple[cutaway.Prompts, cutaway.Prompts]:
    return faults.prompts()


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("h.1.mlp.c_fc.weight", "L1.mlp_pre"),
        ("h.2.mlp.c_proj.weight", "L2.mlp_out"),
        ("h.0.attn.c_proj.weight", "L0.attn_out"),
        ("h.1.attn.c_attn.weight", "L1.q"),
    ],
)
def test_a_poisoned_weight_is_named(weight: str, place: str, prompts: tuple) -> None:
    clean, corrupt = prompts
    said = rf"Prompt 0 .*: NaN first appears in {re.escape(place)} at position 0\..*transformer\.{weight} \(1 of "
    for run in (
        lambda m: cutaway.noise(m, clean, corrupt, "resid_pre"),
        lambda m: cutaway.sweep(m, clean, cutaway.ablate("z"), metric="rank"),
        lambda m: m.trace(clean),
    ):
        with pytest.raises(cutaway.BadInput, match=said):
            run(model(weight))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("budget", [9, 1024])
def test_the_one_prompt_is_named(prompts: tuple, value: float, budget: int) -> None:
    """Its number counts all prompts, whatever the groups; token and position are where a poisoned row is looked up."""
    clean, corrupt = prompts
    seen = clean.ids[:4]
    token = next(int(t) for t in clean.ids[4, 3:] if t not in seen and t not in corrupt.ids[:4])
    at = int((clean.ids[4] == token).nonzero()[0])
    kind = "NaN" if value != value else "infinity"
    with pytest.raises(cutaway.BadInput, match=rf"Prompt 4 .*: {kind} first appears in embed at position {at}\."):
        cutaway.noise(model("wte.weight", value, token), clean, corrupt, "resid_pre", budget=budget)


def test_the_source_and_the_reference_count_too(prompts: tuple) -> None:
    clean, corrupt = prompts
    token = next(int(t) for t in corrupt.ids[1] if t not in clean.ids)
    bad = model("wte.weight", NAN, token)
    with pytest.raises(cutaway.BadInput, match=r"Source prompt 1 .*: NaN first appears in embed at position 2"):
        cutaway.noise(bad, clean, corrupt, "z")
    with pytest.raises(cutaway.BadInput, match=r"Reference prompt 1 .*: NaN first appears in embed at position 2"):
        cutaway.sweep(bad, clean, cutaway.ablate("z", mean_of=corrupt))
    with pytest.raises(cutaway.BadInput, match=r"Reference prompt 1 .*: NaN first appears in embed"):
        cutaway.sweep(bad, clean, cutaway.ablate("z"), reference=corrupt)


def spoiled(x: torch.Tensor) -> torch.Tensor:
    new = x.clone()
    new[:, 4] = INF
    return new


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neo"])
@pytest.mark.parametrize("metric", ["logit_diff", "rank", "kl"])
def test_an_edit_that_spoils_a_run_is_named_with_its_cell(name: str, metric: str) -> None:
    m = cutaway.Model(build(name), name=name)
    some = cutaway.Prompts(ids=[[5, 6, 7, 8, 9, 11, 12], [9, 8, 7, 6, 5]], answers=5, foils=8)
    edits = {
        kind: cutaway.edit("mlp_out", f, positions="all") for kind, f in (("fine", lambda x: -x), ("bad", spoiled))
    }
    place, cell = r"first appears in L(\d)\.mlp_out at position 4\.", r"Cell: edit bad, layer \1\."
    said = rf"Prompt 0 .*{place}.*look at what the edit puts there\. {cell}"
    with pytest.raises(cutaway.BadInput, match=said):
        cutaway.sweep(m, some, edits, metric=metric)
    with pytest.raises(cutaway.BadInput, match=r"Prompt 0 .*infinity first appears in L1\.mlp_out at position 4"):
        m.trace(some, edits=cutaway.edit("mlp_out", spoiled, layers=1, positions="all"))


def test_what_an_edit_cannot_reach_does_not_count() -> None:
    """A spoiled position after the one that is read."""
    some = cutaway.Prompts(ids=[[5, 6, 7, 8, 9, 11, 12]], answers=5, foils=8)
    found = cutaway.sweep(model(), some, cutaway.edit("mlp_out", spoiled), read=3)
    assert bool(found["value"].notnull().all())


def test_an_overflow_of_half_precision_is_called_one(prompts: tuple) -> None:
    clean, _ = prompts
    made = faults.wide_model.__wrapped__(inner=96, width=32)
    half = cutaway.Model(made.hf.half(), name="half")
    token = int(clean.ids[0, 3])
    with torch.no_grad():
        half.hf.transformer.wte.weight[token] = 6e4
        half.hf.transformer.wpe.weight[3] = 6e4
    with pytest.raises(cutaway.BadInput, match=r"infinity first .* embed at position 3\..*float16 overflows.*65504"):
        half.trace(clean)


def test_a_metric_may_answer_nan(prompts: tuple) -> None:
    """It is the user's own number; nothing in the runs is wrong."""

    def odd(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        return torch.full((len(some),), NAN)

    found = cutaway.sweep(model(), prompts[0], cutaway.ablate("z"), metric=odd)
    assert bool(found["value"].isnull().all())


@pytest.mark.parametrize("make", [lambda hf: hf, lambda hf: hf.half()])
def test_a_model_that_only_makes_nan_is_refused_with_the_weight(make: Callable) -> None:
    hf = make(faults.wide_model.__wrapped__(inner=96, width=32).hf)
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.bias[3] = NAN
    with pytest.raises(cutaway.Refused, match=r"not finite: transformer\.h\.1\.mlp\.c_fc\.bias \(1 of 96 numbers\)"):
        cutaway.Model(hf)
