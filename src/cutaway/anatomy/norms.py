"""What kind of norm a module is, found by feeding it vectors whose answer tells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .compare import relative_error, scalars
from .parts import Norm
from .placed import device_of, stored


def _call(module: nn.Module, x: Tensor) -> Tensor:
    """The module's answer to `x` (float64), asked in its own dtype and on its own device."""
    parameter = next(module.parameters(), None)
    given = x.float() if parameter is None else x.to(device_of(module), parameter.dtype)
    return module(given).detach().to("cpu", torch.float64)


def _probe(d_model: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, d_model, generator=generator, dtype=torch.float64) * 2 + 0.7  # a mean far from zero


def _as_given(module: nn.Module, x: Tensor) -> Tensor:
    """`x` as the module will see it: rounded to its dtype."""
    parameter = next(module.parameters(), None)
    return x.to(torch.float32 if parameter is None else parameter.dtype).to(torch.float64)


def measure_norm(module: nn.Module, d_model: int) -> tuple[Norm, float]:
    """The `Norm` that a module computes, and its relative error against the module on vectors of three sizes.

    A module that is no norm gets a large error. Five measurements: the answer to zero is the bias; adding a constant
    changes nothing if the norm centres; the gain is what is left of a large vector; eps is what is missing on a tiny
    one; parameters that equal what was measured are taken in its place, because they are exact.
    """
    x = _as_given(module, _probe(d_model))
    try:
        bias = _call(module, torch.zeros(1, d_model, dtype=torch.float64))[0]
        y = _call(module, x) - bias
        shifted = _call(module, _as_given(module, x + 3.0)) - bias
    except Exception:  # noqa: BLE001 - whatever a module does with bare vectors, it is then no norm
        return Norm(module, False, 0.0, None, None), math.inf
    if y.shape != x.shape:
        return Norm(module, False, 0.0, None, None), math.inf

    centred = relative_error(shifted, y) < 0.05
    bare = Norm(module, centred, 0.0, None, None)
    unit = bare(x)
    gain = (y * unit).sum(0) / unit.square().sum(0)

    level = x / bare.scale(x)  # every row with the same variance, so that one eps explains them all
    tiny = _as_given(module, level * 3e-3)
    target = gain * bare.centre(tiny)
    ratio = ((_call(module, tiny) - bias) * target).sum() / target.square().sum()  # about 1 / s
    variance = bare.centre(tiny).square().mean()
    eps = _nearest_scalar(module, float(1 / ratio.square() - variance))

    weight, offset = _stored(module, gain, ("weight", "scale", "gamma"))
    stored_bias, _ = _stored(module, bias, ("bias", "beta"))
    norm = Norm(
        module=module,
        centred=centred,
        eps=eps,
        gain=None if weight is None and relative_error(gain, torch.ones_like(gain)) < 1e-2 else _or(weight, gain),
        bias=None if float(bias.abs().max()) == 0.0 else _or(stored_bias, bias),
        offset=offset,
    )
    sizes = [x, _as_given(module, x * 1e-1), tiny]
    return norm, max(relative_error(norm(v), _call(module, v)) for v in sizes)


def _or(stored: Tensor | None, measured: Tensor) -> Tensor:
    return measured if stored is None else stored


def _stored(module: nn.Module, measured: Tensor, names: tuple[str, ...]) -> tuple[Tensor | None, float]:
    """The parameter that equals what was measured, and the constant the family adds to it."""
    for name in names:
        parameter = stored(module, name)
        if parameter is not None and parameter.shape == measured.shape:
            value = parameter.detach().to("cpu", torch.float64)
            for offset in (0.0, 1.0):
                if relative_error(value + offset, measured) < 1e-2:
                    return parameter.detach(), offset
    return None, 0.0


def _nearest_scalar(module: nn.Module, measured: float) -> float:
    """The number meant: the module's own that agrees with a measurement, else a round one, else as measured."""
    if measured <= 1e-13:
        return 0.0
    own = [s for s in scalars(vars(module)) if 0 < s < 1e-2]
    for numbers, slack in ((own, 0.2), ([float(f"{measured:.0e}")], 0.02)):
        near = [s for s in numbers if abs(s - measured) <= slack * s]
        if near:
            return min(near, key=lambda s: abs(s - measured))
    return measured
