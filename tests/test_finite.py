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


# -- what reads single states, single positions, or nothing at all ----------------------------------------------------


def planted(prompts: cutaway.Prompts, row: int) -> cutaway.Model:
    """NaN in the embedding of a token that only one of the prompts has, at its last position."""
    others = {int(t) for i, ids in enumerate(prompts.ids) for t in ids if i != row}
    end = int(prompts.lengths[row]) - 1
    token = int(prompts.ids[row, end])
    assert token not in others
    made = model()
    made.hf.lm_head.weight = torch.nn.Parameter(made.hf.lm_head.weight.detach().clone())
    with torch.no_grad():
        made.hf.transformer.wte.weight[token] = NAN
    return made


def longer(n: int = 6) -> cutaway.Prompts:
    """Prompts whose last tokens are their own, with text and a role."""
    ids = torch.arange(9)[None] % 3 + 1
    ids = ids.repeat(n, 1)
    ids[:, -1] = torch.arange(n) + 100
    return cutaway.Prompts(ids=ids, answers=5, foils=8)


@pytest.mark.parametrize(
    "work",
    [
        lambda m, p: cutaway.update(m, p, 1),
        lambda m, p: cutaway.update(m, p, 1, "attn_out", head=2),
        lambda m, p: cutaway.difference_of_means(m, p, p, 1),
        lambda m, p: cutaway.fit_subspaces(m, p, "mlp_out", layers=[0]),
        lambda m, p: m.over(p, cutaway.attribute, tokens=9),
        lambda m, p: m.over(p, lambda t: cutaway.readout_edit(t, torch.ones(32)), tokens=18),
        lambda m, p: cutaway.sweep(m, p, cutaway.ablate("z"), budget=9),
    ],
)
def test_a_prompt_is_counted_among_all_however_the_work_is_parted(
    work: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway import parts

    monkeypatch.setattr(parts.at_once, "__defaults__", (9,))
    prompts = longer()
    with pytest.raises(cutaway.BadInput, match=r"Prompt 4 .*: NaN first appears in embed at position 8\."):
        work(planted(prompts, 4), prompts)


def test_texts_are_counted_among_all_by_bos_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    import wordy
    from cutaway import parts

    one = wordy.model()
    one.hf.lm_head.weight = torch.nn.Parameter(one.hf.lm_head.weight.detach().clone())
    monkeypatch.setattr(parts.at_once, "__defaults__", (3,))
    with torch.no_grad():
        one.hf.transformer.wte.weight[7] = NAN
    with pytest.raises(cutaway.BadInput, match=r"Prompt 3 .*: NaN first appears in embed at position"):
        cutaway.bos_sensitivity(one, ["w1|w2", "w2|w3", "w3|w4", "w4|w7"])


def test_several_sets_are_counted_as_one() -> None:
    prompts = longer()
    with pytest.raises(cutaway.BadInput, match=r"Prompt 4 .*: NaN first appears in embed at position 8\."):
        cutaway.fit_subspaces(planted(prompts, 4), [prompts[:3], prompts[3:]], "mlp_out", layers=[0])


def test_what_a_later_part_swallows_is_still_named() -> None:
    """Infinity at one site that the rest of the block makes finite again."""
    prompts, one = longer(), model()

    class Swallows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.relu(x)

    one.hf.transformer.h[1].mlp.act = Swallows()
    made = cutaway.Model(one.hf)
    with torch.no_grad():
        one.hf.transformer.h[1].mlp.c_fc.bias[3] = -INF
    with pytest.raises(
        cutaway.BadInput, match=r"Prompt 0 .*: infinity first appears in L1\.mlp_pre at position 0\..*c_fc"
    ):
        cutaway.fit_subspaces(made, prompts, "mlp_pre", layers=[1])
    assert sum(s.n_tokens for s in cutaway.fit_subspaces(made, prompts, "mlp_out", layers=[1]).values()) == 48


READOUTS = {
    "edit": lambda t, v: cutaway.readout_edit(t, v),
    "rank": lambda t, v: cutaway.readout_edit(t, v, measure=["rank", "kl"]),
    "flips": lambda t, v: cutaway.readout_flips(t, v),
    "stages": lambda t, v: cutaway.stages(t),
    "score": lambda t, v: cutaway.readout_score(t, v),
    "before_after": lambda t, v: cutaway.before_after(t, v),
}


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_name_a_bad_column_of_the_unembedding(name: str, prompts: tuple) -> None:
    """Which no trace reads, and which is not of a token that is asked for."""
    untied = faults.wide_model.__wrapped__(inner=96, width=32).hf
    untied.lm_head = torch.nn.Linear(32, 211, bias=False)
    one = cutaway.Model(untied)
    trace = one.trace(prompts[0])
    with torch.no_grad():
        untied.lm_head.weight[77, 3] = NAN
    with pytest.raises(cutaway.BadInput, match=r"NaN.*lm_head\.weight \(1 of"):
        READOUTS[name](trace, torch.ones(32))


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_name_prompt_layer_and_site_of_a_bad_state(name: str, prompts: tuple) -> None:
    """One that no run left behind its last block: a stored state that somebody altered."""
    trace = model().trace(prompts[0])
    trace._stream[2][3, int(prompts[0].lengths[3]) - 1, 2] = INF
    with pytest.raises(cutaway.BadInput, match=r"Prompt 3 .*, L1\.resid_post: there is infinity in the state"):
        READOUTS[name](trace, torch.ones(32))


@pytest.mark.parametrize("name", ["edit", "rank", "before_after"])
@pytest.mark.parametrize("strength", [1e30, 1e200, NAN, INF])
def test_strengths_that_overflow_are_not_read(name: str, strength: float, prompts: tuple) -> None:
    trace = model().trace(prompts[0])
    with pytest.raises(cutaway.BadInput, match=r"logits overflow|finite number|in the state that is read"):
        {
            "edit": lambda: cutaway.readout_edit(trace, 1e10 * torch.ones(32).cumsum(0), strength),
            "rank": lambda: cutaway.readout_edit(trace, 1e10 * torch.ones(32).cumsum(0), strength, measure=["rank"]),
            "before_after": lambda: cutaway.before_after(trace, 1e10 * torch.ones(32).cumsum(0), strength),
        }[name]()


def test_readout_directions_of_bad_columns_are_refused() -> None:
    with pytest.raises(cutaway.BadInput, match=r"There is NaN in the readout directions .*transformer\.wte\.weight"):
        model("wte.weight", NAN, 9).directions([5, 9])


@pytest.mark.parametrize(("weight", "place"), [("h.1.mlp.c_fc.weight", "L1.mlp_pre"), ("ln_f.weight", "final_norm")])
def test_the_table_of_one_prompt_names_where_it_began(weight: str, place: str, prompts: tuple) -> None:
    with pytest.raises(cutaway.BadInput, match=rf"Prompt 0 .*: NaN first appears in {re.escape(place)}.*{weight}"):
        model(weight).top(prompts[0][0])


def test_a_cell_that_overflows_behind_the_last_block_is_named(prompts: tuple) -> None:
    """The stream it leaves is finite: only reading it is not."""
    clean, _ = prompts
    hf, signs = faults.wide_model.__wrapped__(inner=96, width=32).hf.half(), torch.sign(torch.arange(32) - 15.5)
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.detach().clone())
    with torch.no_grad():
        hf.transformer.ln_f.weight.fill_(1.0)
        hf.transformer.ln_f.bias.zero_()
        hf.lm_head.weight[77] = 2150 * signs  # 32 times that is more than float16 holds
    half = cutaway.Model(hf)

    def large(x: torch.Tensor) -> torch.Tensor:
        return x * 0 + 100 * signs.to(x)

    edits = {
        "none": cutaway.edit("resid_post", lambda x: x, layers=2, positions=-1),
        "large": cutaway.edit("resid_post", large, layers=2, positions=-1),
    }
    with pytest.raises(
        cutaway.BadInput, match=r"(infinity|NaN) first appears in (logits|final_norm).*Cell: edit large\."
    ):
        cutaway.sweep(half, clean, edits, metric="kl")
