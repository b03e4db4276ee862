"""The promise: the same manifest on the same machine gives the same bits; otherwise equal within 1e-5 of the largest
|logit|. On a model that is wide enough (2,048) for products to round differently with their number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import faults


def values(**more) -> np.ndarray:
    return faults.work(metric="logit_diff", **more)["value"].values


@pytest.fixture(scope="module")
def size() -> float:
    clean, _ = faults.prompts()
    with torch.no_grad():
        return float(faults.wide_model().hf(clean.ids).logits.abs().max())


def test_the_same_manifest_gives_the_same_bits(tmp_path: Path) -> None:
    with faults.small_shards():
        one, two, three = faults.work(), faults.work(), faults.work(tmp_path / "store")
        for path in faults.shards(tmp_path / "store")[::2]:
            path.unlink()
        resumed = faults.work(tmp_path / "store")
    assert all(faults.same_bits(one, other) for other in (two, three, resumed))


@pytest.mark.parametrize("budget", [9, 40, 200])
def test_another_budget_is_within_rounding(budget: int, size: float) -> None:
    one, two = values(budget=1024), values(budget=budget)
    assert np.abs(one - two).max() <= 1e-5 * size


def test_another_number_of_threads_is_within_rounding(size: float) -> None:
    one = values()
    torch.set_num_threads(2)
    try:
        two = values()
    finally:
        torch.set_num_threads(1)
    assert np.abs(one - two).max() <= 1e-5 * size
