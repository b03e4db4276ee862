"""Streaming mean and covariance against numpy on all rows at once."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import BadInput
from cutaway.geometry.moments import Moments, moments


@pytest.fixture(scope="module")
def pocket():
    return cutaway.load("pocket")


def test_joined_parts_equal_the_whole_even_with_a_large_mean():
    rows = torch.randn(501, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
    parts = [Moments.of(part) for part in rows.split([1, 0, 100, 400])]
    whole = parts[0].joined(parts[1]).joined(parts[2]).joined(parts[3])
    assert whole.n == 501
    np.testing.assert_allclose(whole.mean, rows.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance, np.cov(rows.numpy(), rowvar=False), rtol=1e-7, atol=1e-7)


def test_a_models_moments_leave_out_padding_and_position_0(pocket):
    texts = ["The capital of Poland is", "John gave the book to Mary and", "The"]
    prompts = pocket.prompts(texts)
    found = moments(pocket, prompts, [("mlp_out", 2), ("mlp_act", 4)], batch=8)
    trace = pocket.trace(prompts)
    for (site, layer), here in found.items():
        rows = [trace[site, layer][p, 1 : int(n)] for p, n in enumerate(prompts.lengths)]
        every = torch.cat(rows).double().numpy()
        assert here.n == len(every) == int((prompts.lengths - 1).sum())
        np.testing.assert_allclose(here.mean, every.mean(0), atol=1e-5)
        np.testing.assert_allclose(here.covariance, np.cov(every, rowvar=False), atol=1e-5)


def test_nothing_left_is_said(pocket):
    with pytest.raises(BadInput, match="No token"):
        moments(pocket, cutaway.Prompts(ids=[[5]]), [("mlp_out", 0)])
