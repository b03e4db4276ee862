"""Many prompts, long ones and large vocabularies: what is there at once is bounded, and numbers stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cutaway
import cutaway.model
import cutaway.trace
from conftest import measured
from cutaway import directions, parts
from cutaway.engine.memory import KEPT
from cutaway.engine.paths import engine
from cutaway.geometry.moments import moments
from cutaway.parts import in_parts, out_of_memory
from cutaway.readout import direction
from families import build, token_ids

FEW = 20
"""Tokens at once in these tests: two prompts of nine."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets so small that a handful of prompts are many."""
    monkeypatch.setattr(parts, "TOKENS", FEW)
    monkeypatch.setattr(parts.at_once, "__defaults__", (FEW,))
    monkeypatch.setattr(parts, "LOGITS", 300)
    monkeypatch.setattr(direction, "CHUNK", 300)


def ragged(n: int = 7) -> cutaway.Prompts:
    ids = token_ids(n, 9)
    return cutaway.Prompts(ids=[row[: 9 - i % 4].tolist() for i, row in enumerate(ids)], answers=5, foils=8)


@contextmanager
def rows_through(module: nn.Module) -> Iterator[list[int]]:
    """How many tokens pass a module in each of its calls, seen by a plain hook."""
    seen: list[int] = []

    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        x = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        seen.append(x.numel() // x.shape[-1])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma2", "gpt_neox"])
def test_a_trace_in_parts_is_the_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one plain trace a prompt."""
    model, prompts = measured(name), ragged()
    monkeypatch.setattr(parts.at_once, "__defaults__", (FEW,))
    trace = model.trace(prompts, sites=["L1.z"])
    assert len(trace._passes) > 2
    for site in ("resid_post", "z", "mlp_act", "pattern", "v", "logits"):
        whole = trace[site] if site == "logits" else trace[site, 1]
        for i in range(len(prompts)):
            n = int(prompts.lengths[i])
            one = model.trace(cutaway.Prompts(ids=prompts.ids[i : i + 1, :n]))
            want = (one[site] if site == "logits" else one[site, 1])[0]
            got = whole[i, :, :n, :n] if site == "pattern" else whole[i, :n]
            assert torch.allclose(got, want, atol=2e-5 * float(want.abs().max())), (site, i)
            if n < 9:
                assert bool(torch.isnan(whole[i][..., n:, :] if site == "pattern" else whole[i, n:]).all()), site
    at = trace.rows("pattern", 1, prompts.at(-1))
    assert at.shape == (7, model.n_heads, 9) and torch.allclose(at.sum(-1), torch.ones(7, model.n_heads))


def test_an_edited_trace_in_parts_makes_the_edit_of_each_prompt(small: None) -> None:
    model, prompts = measured("gpt2"), ragged()
    source = cutaway.Prompts(ids=[[*row[1:n].tolist(), 3] for row, n in zip(prompts.ids, prompts.lengths, strict=True)])
    edit = cutaway.patch("z", source, layers=0, heads=1, positions=-1)
    trace = model.trace(prompts, edits=edit)
    found = model.over(prompts, lambda t: cutaway.attribute(t, by="layer"), edits=edit, tokens=FEW)
    for i in range(len(prompts)):
        alone = cutaway.patch("z", source[i], layers=0, heads=1, positions=-1)
        one = model.trace(prompts[i], edits=alone)
        n = int(prompts.lengths[i])
        assert torch.allclose(trace["resid_post", 2][i, :n], one["resid_post", 2][0], atol=1e-5)
        assert torch.allclose(trace["z", 0][i, :n], one["z", 0][0], atol=1e-5)
        assert np.allclose(found[i], cutaway.attribute(one, by="layer")[0], atol=1e-4)


ANALYSES: list[Callable[[cutaway.Trace], object]] = [
    lambda t: cutaway.attribute(t, by="source"),
    lambda t: cutaway.attribute(t, by="neuron"),
    lambda t: cutaway.lens(t, top=2, of=[4]),
    cutaway.stages,
    cutaway.attention_patterns,
    lambda t: cutaway.role_attention(t, [("END", "END")]),
    lambda t: cutaway.readout_edit(t, torch.ones(t.model.d_model)),
    lambda t: cutaway.before_after(t, torch.ones(t.model.d_model)),
]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_over_any_number_of_prompts_equals_one_trace(
    analysis: Callable[[cutaway.Trace], object], request: pytest.FixtureRequest
) -> None:
    model, prompts = measured("gpt2"), ragged()
    whole = analysis(model.trace(prompts))
    request.getfixturevalue("small")
    with rows_through(model.anatomy.blocks[0].module) as tokens, rows_through(model.hf.lm_head) as read:
        found = model.over(prompts, analysis, tokens=FEW)
    assert max(tokens) <= FEW and max(read, default=0) <= max(1, 300 // model.vocab_size)
    assert found.sizes == whole.sizes and found.attrs["prompts_hash"] == whole.attrs["prompts_hash"]
    assert list(found["prompt"].values) == list(range(7))
    for name in found.data_vars if hasattr(found, "data_vars") else [None]:
        a, b = (x if name is None else x[name] for x in (found, whole))
        same = np.array_equal(a, b) if a.dtype.kind in "UObi" else np.allclose(a, b, atol=2e-5, equal_nan=True)
        assert same, name


def test_the_unembedding_is_not_run_for_what_nobody_asked_for(small: None) -> None:
    model = measured("gpt2")
    prompts = ragged()
    with rows_through(model.hf.lm_head) as read:
        trace = model.trace(prompts)
        trace["z", 1]
        assert not read
        trace.logits_at(-1)
        cutaway.head_scores(model, rows=3, period=4)
        assert max(read) <= max(1, 300 // model.vocab_size)


def test_fits_hold_one_part_and_equal_plain_sums(small: None) -> None:
    """Means and covariances against the rows of a hook, summed by NumPy."""
    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(7, 9))
    kept: list[Tensor] = []
    handle = model.hf.transformer.h[1].mlp.register_forward_hook(lambda m, a, out: kept.append(out.detach()))
    model.hf(prompts.ids)
    handle.remove()
    want = kept[0].double().numpy()
    with rows_through(model.anatomy.blocks[0].module) as tokens:
        found = moments(model, prompts, [("mlp_out", 1)], batch=FEW)["mlp_out", 1]
        mean = directions.update(model, prompts, 1).vector
        between = directions.difference_of_means(model, prompts[:4], prompts[4:], 1, "mlp_out").vector
    assert max(tokens) <= FEW
    rows = want[:, 1:].reshape(-1, want.shape[-1])
    assert np.allclose(found.mean, rows.mean(0), atol=1e-6)
    assert np.allclose(found.covariance, np.cov(rows.T), atol=1e-6)
    assert np.allclose(mean, want[:, -1].mean(0), atol=1e-6)
    assert np.allclose(between, want[:4, -1].mean(0) - want[4:, -1].mean(0), atol=1e-6)


def test_a_metric_of_every_position_reads_some_at_a_time(small: None) -> None:
    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(2, 9))
    edit = cutaway.ablate("mlp_out", layers=[0], positions=[0, 3])
    with rows_through(model.hf.lm_head) as read:
        model.look_again()
        engine(model)  # neither is part of the sweep
        read.clear()
        found = cutaway.sweep(model, prompts, edit, "next_token_kl")["value"]
    assert max(read) <= max(1, 300 // model.vocab_size)
    plain = model.hf(prompts.ids).logits.detach().double().log_softmax(-1)
    for i, at in enumerate((0, 3)):

        def zero(_: nn.Module, args: tuple, out: Tensor, at: int = at) -> Tensor:
            return torch.cat([out[:, :at], out[:, at : at + 1] * 0, out[:, at + 1 :]], dim=1)

        handle = model.hf.transformer.h[0].mlp.register_forward_hook(zero)
        edited = model.hf(prompts.ids).logits.detach().double().log_softmax(-1)
        handle.remove()
        want = (plain.exp() * (plain - edited)).sum(-1)[:, :-1]
        got = found.transpose("prompt", "layer", "position", "read").values[:, 0, i]
        assert np.allclose(got, want, atol=1e-5)


def test_a_trace_says_what_it_would_hold_and_refuses_above_its_limit() -> None:
    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(6, 9))
    stream = 6 * 9 * (model.n_layers + 1) * model.d_model * 4
    trace = model.trace(prompts, limit=stream + 100)
    assert trace.holds == stream == sum(x.numel() * 4 for x in trace._stream)
    with pytest.raises(cutaway.BadInput, match=r"and its pattern would hold .* model\.over"):
        trace["pattern"]
    calls: list[int] = []
    handle = model.hf.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(cutaway.BadInput, match="6 prompts x 9 tokens would hold"):
        model.trace(prompts, limit=stream - 1)
    handle.remove()
    assert not calls
    roomy = model.trace(prompts, sites=["z"])
    assert roomy.holds == stream + sum(roomy["z"][n].numel() * 4 for n in range(model.n_layers))


# -- when memory runs out ---------------------------------------------------------------------------------------------


class Scarce:
    """A module's forward that fits only so many tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: nn.Module, most: int) -> None:
        self.most, self.failed, self.plenty, forward = most, 0, False, module.forward

        def scarce(*args: object, **kwargs: object) -> object:
            x = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
            if not self.plenty and x.numel() // x.shape[-1] > self.most:
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(*args, **kwargs)

        monkeypatch.setitem(vars(module), "forward", scarce)

    def met(self, model: cutaway.Model) -> Scarce:
        """Measured and probed while there is plenty, as a model is before its memory runs out."""
        self.plenty = True
        model.look_again()
        engine(model)
        self.plenty = False
        return self


TASKS: dict[str, Callable[[cutaway.Model, cutaway.Prompts], object]] = {
    "trace": lambda m, p: m.trace(p)["resid_post"],
    "lens": lambda m, p: cutaway.lens(m.trace(p), top=1)["logit"],
    "attribution": lambda m, p: cutaway.attribute(m.trace(p), by="source"),
    "fit": lambda m, p: cutaway.fit_subspaces(m, p, "mlp_out", layers=[0])[0].eigenvalues,
    "direction": lambda m, p: cutaway.update(m, p, 1).vector,
    "head scores": lambda m, p: cutaway.head_scores(m, rows=6, period=5)["induction"],
    "mean ablation": lambda m, p: cutaway.sweep(m, p[:1], cutaway.ablate("z", mean_of=p, layers=[0]), progress=False)[
        "value"
    ],
    "screening": lambda m, p: cutaway.sweep(m, p, cutaway.patch("z", turned(p)), screen=0.9, progress=False)[
        "estimate"
    ],
    "sweep": lambda m, p: cutaway.sweep(m, p, cutaway.patch("z", turned(p)), progress=False)["value"],
    "steering": lambda m, p: cutaway.factorial(m, p, {"v": torch.ones(m.d_model)}, [[0]])["value"],
}


def turned(prompts: cutaway.Prompts) -> cutaway.Prompts:
    return cutaway.Prompts(ids=(prompts.ids + 1) % 50)


@pytest.mark.parametrize("task", TASKS)
def test_out_of_memory_halves_the_part_and_goes_on(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = measured("gpt2")
    prompts = cutaway.Prompts(ids=token_ids(6, 9), answers=5, foils=8)
    want = np.asarray(TASKS[task](model, prompts))
    scarce = Scarce(monkeypatch, model.hf.transformer.h[0], 30).met(model)
    found = np.asarray(TASKS[task](model, prompts))
    assert scarce.failed
    assert np.allclose(found, want, atol=2e-5, equal_nan=True)


def test_what_one_call_of_a_block_cannot_hold_is_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that fitted while it ran, and whose block does not fit when it is called again."""
    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(6, 9))
    want, trace = model.trace(prompts)["pattern", 1], model.trace(prompts)
    scarce = Scarce(monkeypatch, model.hf.transformer.h[1], 30)
    assert torch.allclose(trace["pattern", 1], want, atol=1e-6) and scarce.failed


def test_sites_of_a_smaller_part_are_as_long_as_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held and what is run again, in parts whose longest prompt is shorter than that of all."""
    model, ids = measured("gpt2"), token_ids(6, 9).tolist()
    prompts = cutaway.Prompts(ids=[row[:n] for row, n in zip(ids, (4, 5, 4, 9, 8, 7), strict=True)])
    want, trace = model.trace(prompts), model.trace(prompts)
    scarce = Scarce(monkeypatch, model.hf.transformer.h[1], 30)
    for some, found in trace.each(1, ["resid_pre", "z"]):
        length = int(prompts.lengths[some].max())
        assert found["resid_pre"].shape[1] == found["z"].shape[1] == length
        real = prompts.mask[some, :length]
        assert torch.allclose(found["resid_pre"][real], want["resid_pre", 1][some, :length][real], atol=1e-6)
        assert torch.allclose(found["z"][real], want["z", 1][some, :length][real], atol=1e-6)
    assert scarce.failed


def test_one_prompt_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = measured("gpt2")
    Scarce(monkeypatch, model.hf.transformer.h[0], 5)
    with pytest.raises(torch.OutOfMemoryError):
        model.trace(cutaway.Prompts(ids=token_ids(6, 9)))


def test_parts_halve_for_what_is_left_and_repeat_nothing() -> None:
    calls: list[list[int]] = []

    def work(some: list[int]) -> int:
        calls.append(some)
        if len(some) > 3 and some[0] >= 4:
            raise MemoryError
        return sum(some)

    made = list(in_parts(10, 4, work))
    assert made == [([0, 1, 2, 3], 6), ([4, 5], 9), ([6, 7], 13), ([8, 9], 17)]
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7], [8, 9]]


def test_other_errors_about_memory_are_not_out_of_memory() -> None:
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not out_of_memory(ValueError("out of memory"))


def test_a_grid_does_not_keep_its_arrays_once_a_layer() -> None:
    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(4, 9))
    cells = cutaway.patch("resid_post", turned(prompts)).compile(model, prompts).cells
    assert len(cells) == 9 * model.n_layers
    assert len({id(change.changed) for cell in cells for change in cell}) == 9


# -- what the result of a sweep takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["logit_diff", "next_token_log_prob", ["logit_diff", "rank"]])
def test_a_sweep_whose_result_is_too_large_is_refused_before_anything_runs(metric: object) -> None:
    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(6, 9), answers=5, foils=8)
    edits = cutaway.patch("z", turned(prompts))
    calls: list[int] = []
    handle = model.hf.transformer.h[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.look_again()
    engine(model)
    plan = cutaway.sweep(model, prompts, edits, metric, dry_run=True)
    calls.clear()
    with pytest.raises(
        cutaway.BadInput, match=r"12 cells x 6 prompts would take about .* more than its limit of 1 kB\. "
    ):
        cutaway.sweep(model, prompts, edits, metric, limit=1000)
    with pytest.raises(cutaway.BadInput, match="raise limit="):
        cutaway.denoise(model, prompts, turned(prompts), "resid_pre", metric, limit=1000)
    assert not calls
    found = cutaway.sweep(model, prompts, edits, metric, limit=plan.memory.results)
    handle.remove()
    arrays = sum(found[name].nbytes for name in ("value", "effect", "normalized") if name in found)
    assert calls and plan.memory.results >= arrays + 12 * 400


def test_a_grid_that_nobody_can_plan_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from cutaway.edits import cells

    model, prompts = measured("gpt2"), cutaway.Prompts(ids=token_ids(2, 9), answers=5, foils=8)
    one = cutaway.ablate("mlp_act", neurons=[0, 1, 2], positions="each")
    monkeypatch.setattr(cells, "_Changes", None)
    monkeypatch.setattr(cells, "CELLS", 3 * 9 * model.n_layers - 1)
    with pytest.raises(cutaway.BadInput, match=r"This grid has 81 cells, and one sweep takes 80 at most"):
        cutaway.sweep(model, prompts, one)
    monkeypatch.undo()
    monkeypatch.setattr(cells, "CELLS", 100)
    with pytest.raises(cutaway.BadInput, match="This grid has 6,561 cells"):
        cutaway.sweep(model, prompts, one & one)


def test_the_prefix_that_rows_copy_is_planned() -> None:
    """Variants as rows of their own hold the recorded prefix once each; behind each other they share it."""
    model = measured("gpt2")
    ids = token_ids(1, 64)
    base = cutaway.Prompts(ids=ids, answers=5, foils=8)
    plans = [
        cutaway.sweep(
            model, base, cutaway.ablate("mlp_out", layers=[0, 1], positions=[p] * 8), budget=1024, dry_run=True
        )
        for p in (20, 40)
    ]
    sizes = engine(model).shape.sizes
    rows = 1024 // (64 - 20)  # that fit a chunk of the first; the second's are too short to be rows
    assert plans[0].memory.wave - plans[1].memory.wave > sizes.number * 2 * (rows - 1) * 20 * sizes.keys_values


class Alive(TorchDispatchMode):
    """`most`: bytes of the tensors made inside that were alive at once, at their most; each storage counts once."""

    def __init__(self, model: cutaway.Model) -> None:
        super().__init__()
        self.weights = {p.untyped_storage()._cdata for p in (*model.hf.parameters(), *model.hf.buffers())}
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        made = func(*args, **(kwargs or {}))  # type: ignore[operator]
        self.known = {key: one for key, one in self.known.items() if not one[0].expired()}
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and (storage := x.untyped_storage())._cdata not in self.weights:
                self.known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self.known.values()))
        return made


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("site", ["pattern", "q", "k", "z", "mlp_out", "resid_pre", "mean"])
def test_no_more_tensors_are_alive_than_were_planned(site: str, attention: str) -> None:
    """Against every storage that PyTorch makes; the plan's allowance for the allocator is left out."""
    model = cutaway.Model(build("gpt2", attention))
    base = cutaway.Prompts(ids=token_ids(2, 60), answers=5, foils=8)
    where = {"heads": 0} if site in ("pattern", "q", "k", "z") else {"positions": [0, 30]}
    edits = (
        cutaway.ablate("mlp_out", mean_of=cutaway.Prompts(ids=token_ids(40, 60)), layers=[0], positions=-1)
        if site == "mean"
        else cutaway.patch(site, turned(base), layers=1, **where)
    )
    plan = cutaway.sweep(model, base, edits, dry_run=True)
    with Alive(model) as alive:
        cutaway.sweep(model, base, edits, progress=False)
    assert alive.most <= (plan.memory.recorded + plan.memory.wave) / KEPT
