"""The fingerprint of a model: every bit of every weight counts, wherever and however it is kept."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from conftest import measured
from cutaway import fingerprints
from cutaway.fingerprints import Fingerprints, digest
from families import build


def test_equal_weights_have_one_fingerprint_and_one_changed_bit_has_another() -> None:
    hf = build("gpt2")
    model = cutaway.Model(hf)
    before = model.fingerprint
    assert before == cutaway.Model(build("gpt2")).weights_hash() == measured("gpt2").fingerprint
    rng = np.random.default_rng(0)
    seen = {before}
    for p in hf.parameters():
        bits = p.detach().reshape(-1).view(torch.int32)
        at, bit = int(rng.integers(len(bits))), int(rng.integers(31))
        bits[at] ^= 1 << bit
        seen.add(model.fingerprint)
        bits[at] ^= 1 << bit
    assert len(seen) == 1 + len(list(hf.parameters())) and model.fingerprint == before


@pytest.mark.parametrize("change", ["swap", "negate", "row"])
def test_changes_that_leave_sums_and_samples_alone(change: str) -> None:
    big = torch.randn(300, 400)
    other = big.clone()
    if change == "swap":
        other[7, 3], other[8, 4] = big[8, 4], big[7, 3]
    elif change == "negate":
        other[7, [3, 5]] *= -1
    else:
        other[[7, 8]] = other[[8, 7]]
    assert digest(big) != digest(other)


def test_a_digest_is_sha256_of_dtype_shape_and_bytes() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert digest(x) == hashlib.sha256(b"torch.float32 (2, 3)" + x.numpy().tobytes()).digest()
    assert digest(x.T.contiguous().T) == digest(x)  # whatever its layout in memory


KINDS = [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", [*KINDS, torch.complex64])
def test_any_dtype(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(3, 4).to(dtype)
    other = x.clone()
    other[2, 3] = 0
    assert digest(x) == digest(x.clone()) != digest(other)
    assert digest(x) != digest(x.reshape(4, 3)) and len({digest(x), digest(x.view(-1)), digest(x[:0])}) == 3


def test_quantised_and_sparse_tensors() -> None:
    x = torch.randn(4, 5)
    made = [torch.quantize_per_tensor(x, s, 0, torch.qint8) for s in (0.1, 0.2)]
    rows = torch.quantize_per_channel(x, torch.full((4,), 0.1), torch.zeros(4), 0, torch.qint8)
    sparse = [torch.eye(3).to_sparse() * k for k in (1, 2)]
    assert len({digest(t) for t in (*made, rows, *sparse)}) == 5 and digest(made[0]) == digest(made[0].clone())


def test_quantised_layers_that_keep_weights_in_buffers() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(8, 8, dtype=torch.int8))
            self.register_buffer("position", torch.arange(4), persistent=False)

    layer, found = Packed(), Fingerprints()
    before = found.of(layer)
    layer.position += 1  # what a model computes for itself
    assert found.of(layer) == before
    layer.weight[3, 3] = 2
    assert found.of(layer) != before


def test_dynamically_quantised_layers_and_weights_that_were_untied() -> None:
    made = []
    for change in (0.0, 1.0):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(8, 8))
        layer[0].weight.data[3, 3] += change
        made.append(Fingerprints().of(torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, torch.qint8)))
    assert made[0] != made[1]
    hf = build("gpt2")  # declares its unembedding to be its embedding
    tied = Fingerprints().of(hf)
    hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach().clone())
    assert Fingerprints().of(hf) == tied
    hf.lm_head.weight.data[5, 5] += 1
    assert Fingerprints().of(hf) != tied


def test_nothing_is_read_twice_and_no_change_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.Size] = []
    monkeypatch.setattr(fingerprints, "digest", lambda t: read.append(t.shape) or digest(t))
    model = cutaway.Model(build("llama"))
    before = model.fingerprint
    assert model.fingerprint == before and len(read) == len(list(model.hf.parameters()))
    read.clear()
    layer = model.hf.model.layers[0].mlp
    with torch.no_grad():
        layer.up_proj.weight[0, 0] += 1
    after = model.fingerprint
    assert after != before and read == [layer.up_proj.weight.shape]
    layer.up_proj.weight = nn.Parameter(layer.up_proj.weight.detach().clone() - 1)  # another tensor
    assert len({model.fingerprint, after, before}) == 3
    assert copy.deepcopy(model).fingerprint == model.fingerprint
    now = model.fingerprint
    layer.up_proj.weight.data[0, 0] += 1  # PyTorch does not count this
    assert model.weights_hash() != now and model.fingerprint == model.weights_hash()
