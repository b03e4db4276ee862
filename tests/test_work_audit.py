"""The work that is really done, counted by plain hooks on the model's own modules, is the plan's and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway
from conftest import measured
from cutaway.engine.paths import engine
from families import token_ids


def settled(model: cutaway.Model) -> cutaway.Model:
    """Measured and probed with the hooks that were just put on it, so that these runs are not counted."""
    model.look_again()
    engine(model)
    return model


class Counter:
    """Token rows that pass each block's linear maps and its MLP, by layer."""

    def __init__(self, model: cutaway.Model) -> None:
        self.model, self.handles = model, []
        self.rows: dict[str, list[int]] = {"block": [0] * model.n_layers, "mlp": [0] * model.n_layers}
        for block in model.anatomy.blocks:
            self.handles.append(block.module.register_forward_pre_hook(self.count("block", block.layer)))
            self.handles.append(block.mlp.down.module.register_forward_pre_hook(self.count("mlp", block.layer)))

    def count(self, what: str, layer: int):
        def hook(module: torch.nn.Module, args: tuple) -> None:
            self.rows[what][layer] += args[0].shape[:-1].numel()

        return hook

    def __enter__(self) -> Counter:
        settled(self.model)
        for rows in self.rows.values():
            rows[:] = [0] * len(rows)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("differs_at", [3, 6])
def test_a_residual_sweep_touches_only_what_an_edit_can_reach(name: str, differs_at: int) -> None:
    model = measured(name, "sdpa")
    ids = token_ids(2, 9)
    other = ids.clone()
    other[:, differs_at] = (other[:, differs_at] + 7) % 90 + 5
    base, source = cutaway.Prompts(ids=ids, answers=5, foils=8), cutaway.Prompts(ids=other)
    with Counter(model) as counter:
        cutaway.sweep(model, base, cutaway.patch("resid_pre", source))
    n, last = model.n_layers, model.n_layers - 1
    traces = 2 * 9 + 2 * (9 - differs_at)  # the base, and the source from where it differs
    suffixes = {t: 9 - t for t in range(differs_at, 9)}
    for layer in range(n):
        entered = 2 * (suffixes[differs_at] + layer * sum(suffixes.values()))  # layer 0: only the differing token
        if layer < last:
            assert counter.rows["mlp"][layer] == traces + entered
        else:  # the last block: one read position a variant through the MLP
            variants = 1 + last * len(suffixes)
            assert counter.rows["mlp"][layer] == traces + 2 * variants
            assert counter.rows["block"][layer] == traces + entered + 2 * variants


def test_a_write_that_nothing_reads_in_its_block_costs_no_block() -> None:
    model = measured("gpt2", "sdpa")
    engine(model)
    ids = token_ids(2, 9)
    base = cutaway.Prompts(ids=ids, answers=5, foils=8)
    with Counter(model) as counter:
        cutaway.sweep(model, base, cutaway.ablate("mlp_out", layers=model.n_layers - 1))
    assert counter.rows["block"] == [18] * model.n_layers  # the base run, and no block more


def test_a_logit_difference_never_makes_the_vocabulary() -> None:
    model = measured("gpt2", "sdpa")
    ids = token_ids(2, 9)
    other = ids.clone()
    other[:, 4] = 50
    base, source = cutaway.Prompts(ids=ids, answers=5, foils=8), cutaway.Prompts(ids=other)
    rows = []
    handle = model.hf.lm_head.register_forward_pre_hook(lambda m, a: rows.append(a[0].shape[:-1].numel()))
    settled(model)
    rows.clear()
    cutaway.sweep(model, base, cutaway.patch("z", source))
    handle.remove()
    assert sum(rows) <= 2 * 2 + 2  # the last position of the recorded runs, which transformers computes anyway
    assert np.prod([model.n_layers, model.n_heads]) == 12


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_head_is_entered_behind_its_attention(name: str) -> None:
    model = measured(name, "eager")
    assert engine(model).path == "waves of packed suffixes"
    ids = token_ids(2, 9)
    other = ids.clone()
    other[:, 6] = (other[:, 6] + 7) % 90 + 5
    base, source = cutaway.Prompts(ids=ids, answers=5, foils=8), cutaway.Prompts(ids=other)
    attended = [0] * model.n_layers
    handles = [
        b.attention.out.module.register_forward_pre_hook(lambda m, a, i=b.layer: count(i, a))
        for b in model.anatomy.blocks
    ]

    def count(layer: int, args: tuple) -> None:
        attended[layer] += args[0].shape[:-1].numel()

    with Counter(model) as counter:
        attended[:] = [0] * model.n_layers
        cutaway.sweep(model, base, cutaway.patch("z", source, layers=0))
    for handle in handles:
        handle.remove()
    traces, entered = 2 * 9 + 2 * 3, 2 * 3 * model.n_heads
    assert attended[0] == traces  # the edited block's own attention never runs again
    assert counter.rows["mlp"][0] == traces + entered
    assert attended[1] == traces + entered


def test_a_source_that_begins_like_the_base_is_run_from_where_it_parts() -> None:
    model = measured("llama", "sdpa")
    engine(model)
    ids = token_ids(3, 9)
    other = ids.clone()
    other[0, 5], other[1, 7], other[2, 8] = 11, 12, 13
    base, source = (cutaway.Prompts(ids=i, answers=5, foils=8) for i in (ids, other))
    with Counter(model) as counter:
        found = cutaway.sweep(model, base, cutaway.patch("resid_pre", source, layers=1, positions=-1))
    assert counter.rows["mlp"][0] == 3 * 9 + 3 * 4  # from the first difference of any prompt
    whole = cutaway.sweep(model, source, cutaway.ablate("z", layers=0, heads=0))["base"]
    assert np.allclose(found["reference"], whole, atol=1e-5)
