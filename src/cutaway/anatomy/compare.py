"""How two tensors are compared, and how exact a dtype can be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Relative tolerance of an identity by the model's dtype. Some families compute parts in float32 whatever their dtype,
so float64 models are held to the float32 noise of such parts."""


def tolerance(dtype: torch.dtype) -> float:
    return TOLERANCE.get(dtype, 1e-5)


def norm_of(x: Tensor) -> float:
    """Euclidean length of all entries, in float64 on the CPU."""
    return float(torch.linalg.vector_norm(x.detach().to("cpu", torch.float64)))


def relative_error(a: Tensor, b: Tensor, scale: float | None = None) -> float:
    """|a - b| / |b| in the Euclidean norm over all entries (or over `scale`); NaN where a value is not finite."""
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    if a.shape != b.shape:
        return math.inf
    difference = norm_of(a - b)
    scale = norm_of(b) if scale is None else scale
    if not math.isfinite(difference) or not math.isfinite(scale):
        return math.nan
    return 0.0 if difference == 0 else difference / scale if scale > 0 else math.inf


class Distance:
    """`relative_error` of tensors that come piece by piece, none of which is kept."""

    def __init__(self) -> None:
        self._off = self._size = 0.0

    def add(self, a: Tensor, b: Tensor) -> None:
        a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
        self.join((norm_of(a - b), norm_of(b)))

    @property
    def lengths(self) -> tuple[float, float]:
        """|a - b| and |b| over everything added."""
        return self._off, self._size

    def join(self, lengths: Sequence[float]) -> None:
        """Add what another one measured."""
        self._off, self._size = math.hypot(self._off, lengths[0]), math.hypot(self._size, lengths[1])

    @property
    def relative(self) -> float:
        """|a - b| / |b| over everything added; NaN where a value is not finite."""
        if not math.isfinite(self._off) or not math.isfinite(self._size):
            return math.nan
        return 0.0 if self._off == 0 else self._off / self._size if self._size > 0 else math.inf


def scalars(values: Any) -> list[float]:
    """The plain numbers among a dictionary's values: what a family may have been told in its configuration."""
    items: Iterable[Any] = values.values()
    return [float(v) for v in items if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
