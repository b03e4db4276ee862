"""Studies of many prompts hold one part of them: the numbers are those of each prompt alone, and no trace is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import cutaway
import wordy
from cutaway.ledger import ledger
from cutaway.parts import at_once
from cutaway.studies import attribution
from cutaway.studies.ioi.sweeps import METHODS, PARTS, _ledgers, ablation, name_of
from cutaway.tasks.ioi import ioi
from test_memory import Alive

FEW = 20
"""Tokens at once in these tests: two prompts of nine."""


def texts(n: int) -> tuple[str, ...]:
    """Prompts of nine words, and every fourth one of six; each of its own words."""
    rows = [[3 + (7 * i + 5 * k + i * k) % 40 for k in range(6 if i % 4 == 3 else 9)] for i in range(n)]
    return tuple("|".join(f"w{word}" for word in row) for row in rows)


def asked(n: int) -> attribution.Settings:
    answers = [f"w{4 + i % 30}" for i in range(n)]
    return attribution.Settings(texts(n), tuple(answers), ("w2",), top=3)


def size_of(array: xr.DataArray) -> int:
    return array.nbytes + sum(coord.nbytes for coord in array.coords.values() if coord.dtype.kind != "U")


def test_an_attribution_in_parts_is_that_of_each_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = wordy.model(), 5
    monkeypatch.setattr(at_once, "__defaults__", (FEW,))
    study, settings = attribution.run(model, asked(n)), asked(n)
    assert study.ok and study.arrays["by_source"].attrs["prompts"] == n
    for i in (3, 4):  # a short one, and one in the last part
        alone = attribution.run(
            model, replace(settings, prompts=(settings.prompts[i],), answers=(settings.answers[i],))
        )
        assert alone.arrays.keys() == study.arrays.keys()
        for name, want in alone.arrays.items():
            mine = study.arrays[name].isel(prompt=i)
            if name == "by_source":  # other prompts may be longer
                mine = mine.sel(term=want["term"])
            mine = mine.isel({d: slice(k) for d, k in want.sizes.items() if d in ("position", "query", "key")})
            for key in want.data_vars if isinstance(want, xr.Dataset) else [None]:
                got, right = (x.values if key is None else x[key].values for x in (mine, want.isel(prompt=0)))
                same = (got == right).all() if got.dtype.kind in "UOi" else np.allclose(got, right, 0, 1e-4, True)
                assert same, (name, key, i)


def test_a_check_that_fails_in_one_part_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of one prompt's last block are moved, and no others."""
    model, n = wordy.model(), 7
    monkeypatch.setattr(at_once, "__defaults__", (FEW,))
    marked = model.prompts(list(texts(n)))[4].ids[0]
    block = model.hf.transformer.h[1]

    def moved(module: object, args: tuple, out: object) -> object:
        x = out[0] if isinstance(out, tuple) else out
        here = [row for row, ids in enumerate(running[-1]) if ids[: len(marked)].tolist() == marked.tolist()]
        if here and len(running[-1][0]) > len(marked):  # only where tokens were appended
            x = x.clone()
            x[here, 2] += 0.1
        return (x, *out[1:]) if isinstance(out, tuple) else x

    running: list = []
    watch = model.hf.register_forward_pre_hook(
        lambda m, args, kwargs: running.append(kwargs.get("input_ids", args[0] if args else None)), with_kwargs=True
    )
    handle = block.register_forward_hook(moved)
    failed = [check.name for check in attribution.run(model, asked(n)).checks if not check.passed]
    watch.remove()
    handle.remove()
    assert failed == ["later tokens"]


def test_an_attribution_of_more_prompts_adds_its_result_and_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wordy.model()
    monkeypatch.setattr(at_once, "__defaults__", (FEW,))
    attribution.run(model, asked(2))
    peaks, results = [], []
    for n in (4, 12):
        with Alive(model) as alive:
            study = attribution.run(model, asked(n))
        peaks.append(alive.most)
        results.append(sum(size_of(array) for name, array in study.arrays.items() if name.startswith("by_")))
    grown = results[1] - results[0]  # these arrays are the tensors that they were made as
    assert peaks[1] - peaks[0] <= grown
    assert cutaway.Trace.planned(model, model.prompts(list(texts(12)))[4:]) > grown / 2


def test_the_ledgers_of_ablations_share_the_base_run_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the ledger of each ablation alone, of all prompts at once."""
    model = cutaway.load("pocket")
    task = ioi(model, 2)
    heads, families, reference = [(3, 0)], task.clean.families, task.corrupt("abc")
    single = {(m, name_of(h)): ablation(m, h, reference) for m in METHODS for h in heads}
    want = {key: ledger(model, task.clean, edit) for key, edit in single.items()}
    monkeypatch.setattr(at_once, "__defaults__", (2 * task.clean.n_positions,))
    plain: list[int] = []
    trace = cutaway.Model.trace
    monkeypatch.setattr(
        cutaway.Model, "trace", lambda m, prompts, *a, **k: plain.append(len(prompts)) or trace(m, prompts, *a, **k)
    )
    found = _ledgers(model, task, heads, single, 0.95)
    assert max(plain) == 2 and sum(plain) == len(task.clean)  # each once, for three ablations
    for (method, head), table in want.items():
        one = found.sel(how=method, ablated=head)
        for part in PARTS:
            np.testing.assert_allclose(one["value"].sel(part=part), table[part], atol=1e-4)
        np.testing.assert_allclose(one["change"].sel(term=table["term"]), table["change"].mean("prompt"), atol=1e-4)
    assert len(families) == len(found["prompt"]) and found.attrs["completeness_error"] < 1e-5
