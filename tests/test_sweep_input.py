"""What a sweep says of input that does not fit, and metrics that are any function."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import cutaway
from conftest import measured
from families import FAMILIES, token_ids
from reference import brute_force_logits

ANSWERS, FOILS = [5, 6], [8, 9]


def prompts(**more) -> cutaway.Prompts:
    return cutaway.Prompts(ids=token_ids(2, 9), answers=ANSWERS, foils=FOILS, **more)


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        (lambda: cutaway.add("resid_pre", torch.ones(7)), "has 32 numbers; this one has shape .7,"),
        (lambda: cutaway.add("z", torch.ones(32)), "z of layer 0 has 8 numbers"),
        (lambda: cutaway.add("mlp_act", torch.ones(32)), "mlp_act of layer 0 has 48 numbers"),
        (lambda: cutaway.add("resid_pre", "up"), "Vectors are tensors"),
        (lambda: cutaway.add("resid_pre", {"a": torch.ones(2, 2, 32)}), r"of shape \[width\]"),
        (lambda: cutaway.add("resid_pre", torch.full((32,), torch.nan)), "finite"),
        (lambda: cutaway.add("resid_pre", torch.ones(32), scale="big"), "A scale is a number"),
        (lambda: cutaway.add("resid_pre", torch.ones(32), scale={1: 2.0}), "none for layer 0 .given: 1"),
        (lambda: cutaway.add("resid_pre", {1: torch.ones(32)}), "none for layer 0 .given: 1"),
        (lambda: cutaway.project_out("mlp_out", torch.ones(7)), "has 32 numbers"),
        (lambda: cutaway.project_out("mlp_out", torch.ones(32), mean=torch.ones(7)), "The mean of mlp_out"),
        (lambda: cutaway.ablate("z", queries=[1]), "Only a pattern has queries"),
        (lambda: cutaway.ablate("pattern", queries=[1], positions=[2]), "choose one of the two"),
        (lambda: cutaway.ablate("resid_pre", positions=[1.5]), "an index or a role"),
        (lambda: cutaway.ablate("resid_pre", layers=True), "Choose layers by their numbers"),
        (lambda: cutaway.ablate("z", heads=np.array([True, False])), "Choose heads by their numbers"),
        (lambda: cutaway.patch("logits", prompts()), "resid_post of the last layer"),
        (lambda: cutaway.ablate("final_norm"), "final_norm is read, not swept"),
        (lambda: cutaway.ablate("resid_pre", layers=[[]]), "One of the sets of layers"),
        (lambda: cutaway.ablate("z", heads=[[0], []]), "One of the sets of heads"),
        (lambda: cutaway.add("pattern", torch.ones(9)), "Use edit.* for patterns"),
        (lambda: cutaway.project_out("pattern", torch.ones(9)), "Use edit.* for patterns"),
        (lambda: cutaway.add("resid_pre", torch.ones(32), scale=[]), "There are no scales"),
        (lambda: cutaway.perturb("resid_pre", torch.ones(32), seed=[]), "There are no seeds"),
        (lambda: cutaway.ablate("z", resample_from=prompts(), draws=0), "draws is 0"),
        (lambda: cutaway.ablate("z", resample_from=prompts(), mean_of=prompts()), "not both"),
        (lambda: cutaway.edit("z", "double"), "edit takes a function"),
        (lambda: cutaway.patch(None, prompts()), "There is no site None"),
    ],
)
def test_edits_that_do_not_fit(edits: Callable, says: str) -> None:
    with pytest.raises(cutaway.BadInput, match=says):
        cutaway.sweep(measured("gpt2"), prompts(), edits())


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(cutaway.BadInput, match=r"no option 'layer'\. Did you mean 'layers'"):
        cutaway.denoise(measured("gpt2"), prompts(), prompts(), "z", layer=1)


def test_layers_heads_and_reads_as_arrays() -> None:
    model, base = measured("gpt2"), prompts()
    one = cutaway.sweep(model, base, cutaway.ablate("z", layers=0))
    assert cutaway.sweep(model, base, cutaway.ablate("z", layers=0), read=np.int64(-1)).equals(one)
    assert cutaway.sweep(model, base, cutaway.ablate("z"), read=torch.tensor([3, -1]))["read"].values.tolist() == [
        "3",
        "-1",
    ]
    listed = cutaway.sweep(model, base, cutaway.ablate("z", layers=[0, 1], heads=[2]))
    arrays = cutaway.sweep(model, base, cutaway.ablate("z", layers=np.array([0, 1]), heads=torch.tensor([2])))
    assert arrays.identical(listed.assign_attrs(arrays.attrs))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"base": ["some text"]}, "sweep.base=.*takes prompts"),
        ({"reference": prompts()[[0]]}, "2 base prompts but 1 reference"),
        ({"reference": "clean"}, "reference=.*takes prompts"),
        ({"budget": 0}, "at least one must travel"),
        ({"budget": "all"}, "a number of tokens"),
        ({"screen": "some"}, "a share of the work"),
        ({"read": []}, "read is a position"),
        ({"read": None}, "read is a position"),
        ({"read": 1.5}, "read is a position"),
        ({"metric": {}}, "There is no metric"),
        (
            {"base": cutaway.Prompts(ids=token_ids(2, 9), answers=[5, -1], foils=8)},
            "Prompt 1: the answer is token id -1",
        ),
        ({"base": cutaway.Prompts(ids=token_ids(2, 9), answers=5, foils=500)}, "Prompt 0: the foil is token id 500"),
        ({"metric": lambda logits, p: logits}, r"one number a prompt: shape \(2,\) here"),
        ({"metric": lambda logits, p: logits.sum()}, r"It returned shape \(\)"),
        ({"metric": lambda logits, p: None}, "It returned NoneType"),
        ({"metric": lambda logits, p: logits[:, 0], "read": [-2, -1]}, "one a prompt and read"),
    ],
)
def test_arguments_that_do_not_fit(more: dict, says: str) -> None:
    given = {"base": prompts(), "edits": cutaway.ablate("z", layers=0)} | more
    with pytest.raises(cutaway.BadInput, match=says):
        cutaway.sweep(measured("gpt2"), **given)


def test_templates_are_labels_of_prompts() -> None:
    some = prompts(templates=["a", "b"])
    assert some[[1]].templates == ["b"] and some.hash() != prompts(templates=["a", "a"]).hash() != prompts().hash()
    with pytest.raises(cutaway.BadInput, match="2 prompts but 1 templates"):
        prompts(templates=["a"])
    pool = cutaway.Prompts(ids=token_ids(4, 9, seed=7), templates=["a", "b", "a", "a"])
    own = cutaway.sweep(measured("gpt2"), some, cutaway.ablate("z", mean_of=pool, by=("template", "position")))["value"]
    for p, rows in enumerate(([0, 2, 3], [1])):
        alone = cutaway.ablate("z", mean_of=pool[rows], by="position")
        want = cutaway.sweep(measured("gpt2"), some[[p]], alone)["value"]
        assert np.allclose(own[p], want[0], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt_neo"])
def test_a_function_of_several_read_positions(name: str) -> None:
    """It sees the unedited logits where the edit does not reach, and may answer for each read or for all together."""
    row, model, base = FAMILIES[name], measured(name), prompts()
    rows = torch.arange(2)

    def each(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        return logits[..., 3]

    def mixed(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        return logits[:, 0, 3] * logits[:, 1, 4]

    reads = [2, -1]
    edits = cutaway.ablate("mlp_out", positions=[1, 5])
    found = cutaway.sweep(model, base, edits, metric=[each, mixed, "logit"], read=reads)["value"]
    assert found.dims == ("prompt", "layer", "position", "metric", "read")
    for layer in range(model.n_layers):
        for i, at in enumerate((1, 5)):

            def zero(old: torch.Tensor, at: int = at) -> torch.Tensor:
                new = old.clone()
                new[:, at] = 0
                return new

            logits = brute_force_logits(model.hf, row, base.ids, [("mlp_out", layer, zero)])[:, reads]
            here = found.isel(layer=layer, position=i)
            assert np.allclose(here.sel(metric="each"), logits[..., 3], atol=1e-4)
            both = logits[:, 0, 3] * logits[:, 1, 4]
            assert np.allclose(here.sel(metric="mixed"), both[:, None].expand(-1, 2), atol=1e-3)
            assert np.allclose(here.sel(metric="logit"), logits[rows, :, ANSWERS], atol=1e-4)


def test_progress_says_cells_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    cutaway.sweep(measured("gpt2"), prompts(), cutaway.ablate("z"), budget=20, progress=True)
    said = capsys.readouterr()
    assert not said.out and said.err.endswith("12 of 12 cells, 0 s left \n")
    lines = said.err.strip().split("\r")
    assert len(lines) > 2 and all(
        re.fullmatch(r"\d+ of 12 cells, \d+ s left ?", line.strip("\n")) for line in lines if line
    )


def test_progress_counts_cells() -> None:
    """Whatever the groups and chunks; cells that equal the base are not among them."""
    seen: list[tuple[int, int]] = []
    ids = token_ids(6, 9)
    base = cutaway.Prompts(ids=[row[: 9 - i].tolist() for i, row in enumerate(ids)], answers=5, foils=8)
    cutaway.sweep(
        measured("gpt2"), base, cutaway.ablate("z"), budget=20, progress=lambda done, all_: seen.append((done, all_))
    )
    assert seen[-1] == (12, 12) and [d for d, _ in seen] == sorted(d for d, _ in seen)
