"""Angles and lengths of a vector that something is added to: how far it turns, and how far it had to.

All in float64, and in radians. An angle is 2 atan2(|u - v|, |u + v|) of unit vectors (Kahan 2006, "How futile are
mindless assessments of roundoff", section 12): the arc cosine of a float32 inner product loses half its digits near 0
and is NaN where rounding takes the cosine past 1; this form is accurate from 0 to pi.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def unit(x: Tensor) -> Tensor:
    """`x` at length 1 along its last axis, float64; NaN where it has no length, for then it has no direction."""
    x = x.double()
    return x / x.norm(dim=-1, keepdim=True)


def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle between vectors along the last axis, in radians, 0 to pi; NaN where one of them is 0 or NaN."""
    u, v = unit(u), unit(v)
    return 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))


def angles_between(u: Tensor, v: Tensor) -> Tensor:  # [..., a, d], [..., b, d] -> [..., a, b]
    """The angle of every vector of one set with every one of another, in radians."""
    u, v = unit(u), unit(v)
    exact = "donot_use_mm_for_euclid_dist"  # distances from inner products would lose what the formula saves
    return 2 * torch.atan2(torch.cdist(u, v, compute_mode=exact), torch.cdist(u, -v, compute_mode=exact))


def turns(states: Tensor) -> dict[str, Tensor]:  # [depth, ..., d_model] -> norm: [depth, ...], the rest: [step, ...]
    """What is added between consecutive states, x to x + delta, taken apart.

    Returns:
        `norm` |x|; and of every step `angle` between x and x + delta, `update` |delta|, `radial` <delta, x/|x|>,
        `tangential` the length of the rest of delta, `null` = arctan(|delta| / |x|), the angle of an update of that
        length at right angles to x, and `excess` = angle - null. tan(angle) = tangential / (|x| + radial).
    """
    states = states.double()
    before, after = states[:-1], states[1:]
    delta, along = after - before, unit(before)
    norm, update = states.norm(dim=-1), delta.norm(dim=-1)
    radial = (delta * along).sum(-1)
    turned, null = angle(before, after), torch.atan2(update, norm[:-1])
    return {
        "norm": norm,
        "angle": turned,
        "update": update,
        "radial": radial,
        "tangential": (delta - radial[..., None] * along).norm(dim=-1),
        "null": null,
        "excess": turned - null,
    }


def random_update_angles(
    norm: Array, update: Array, d_model: int, draws: int, seed: int | tuple[int, ...]
) -> Array:  # [draw, ...]
    """Angles by which updates of the given lengths would turn vectors of the given lengths, directions drawn at random.

    Only the part of a direction along the vector matters: g / sqrt(g^2 + c), g standard normal and c chi-squared with
    d_model - 1 degrees of freedom, is that part of a direction uniform on the sphere.
    """
    rng = np.random.default_rng(seed)
    shape = (draws, *np.shape(norm))
    g = rng.standard_normal(shape)
    rest = rng.chisquare(d_model - 1, shape) if d_model > 1 else np.zeros(shape)
    along = g / np.sqrt(g**2 + rest)
    across = np.sqrt(np.maximum(1 - along**2, 0.0))
    return np.asarray(np.arctan2(update * across, norm + update * along))


__all__ = ["angle", "angles_between", "random_update_angles", "turns", "unit"]
