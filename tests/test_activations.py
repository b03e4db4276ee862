"""Activation functions in one step: the same function, told from others, and only where it cannot be seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from cutaway.engine.activations import in_one_step, in_slices, kernel_of


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("gelu_new", "gelu, tanh form"), ("gelu_fast", "gelu, tanh form"), ("gelu", "gelu"), ("silu", "silu"),
     ("relu", "relu"), ("quick_gelu", None), ("relu2", None), ("mish", None)],
)  # fmt: skip
def test_which_kernel_a_function_is(name: str, kernel: str | None) -> None:
    assert kernel_of(ACT2FN[name]) == kernel


class Nearly(nn.Module):
    """GELU but for one part in a million."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2))) + 1e-6 * x


class Mixing(nn.Module):
    """Not a function of single numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1)


class Clipped(nn.Module):
    """SiLU up to a bound that few inputs reach."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x).clamp_max(50)


class Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * y


@pytest.mark.parametrize("act", [Nearly(), Mixing(), Two(), Clipped(), nn.ReLU6(inplace=True)])
def test_what_is_no_kernel(act: nn.Module) -> None:
    assert kernel_of(act) is None


def test_half_precision_keeps_the_family_s_own_steps() -> None:
    act = ACT2FN["gelu_new"]
    quick = in_one_step(act.forward, torch.relu)  # a kernel that is another function: seen where it is used
    x = torch.linspace(-3, 3, 64).view(4, 16)
    assert torch.equal(quick(x), torch.relu(x))
    assert torch.equal(quick(x.bfloat16()), act(x.bfloat16()))
    assert torch.equal(quick(x.requires_grad_()), act(x))


def test_slices_have_the_same_bits() -> None:
    act = ACT2FN["gelu_new"]
    x = torch.randn(3, 101, 1024)
    assert torch.equal(in_slices(act.forward)(x), act(x))
