"""Random vectors, reproducible and of a given norm: what controls are made of, for directions and subspaces alike."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput


def generator(seed: int, name: str = "") -> np.random.Generator:
    """A stream of random numbers of its own for each name, so that adding a control changes no other one's draws."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def gaussian(n: int, width: int, rng: np.random.Generator) -> Tensor:  # [n, width], float64
    return torch.from_numpy(rng.standard_normal((n, width)))


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., width] with norm 1, in float64.

    Raises:
        BadInput: one of them is zero or not finite.
    """
    vectors = vectors.double()
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    if not bool(torch.isfinite(norms).all()) or bool((norms == 0).any()):
        raise BadInput("A vector that is zero or not finite has no direction, so it cannot be given a norm.")
    return vectors / norms


def norm_matched(vectors: Tensor, norm: float) -> Tensor:
    """The same directions [..., width] with that norm, in float64."""
    return unit(vectors) * norm


def random_units(n: int, width: int, rng: np.random.Generator) -> Tensor:  # [n, width]
    """Unit vectors, uniform on the sphere."""
    return unit(gaussian(n, width, rng))


def orthogonal_units(n: int, to: Tensor, rng: np.random.Generator) -> Tensor:  # [n, width]
    """Unit vectors, uniform among those orthogonal to one vector [width] or to the rows of several."""
    rows = torch.atleast_2d(to.double())
    basis = torch.linalg.qr(rows.T).Q  # [width, rank]
    if basis.shape[1] >= basis.shape[0]:
        raise BadInput(f"Nothing is orthogonal to {basis.shape[1]} vectors of width {basis.shape[0]}.")
    drawn = gaussian(n, rows.shape[1], rng)
    drawn = drawn - (drawn @ basis) @ basis.T
    return unit(drawn - (drawn @ basis) @ basis.T)  # twice, so that rounding leaves nothing


def covariance_units(n: int, covariance: Tensor, rng: np.random.Generator) -> Tensor:  # [n, width]
    """Unit vectors along Gaussian draws with that covariance [width, width]: they favour what activations favour.

    Raises:
        BadInput: the covariance is zero or not finite.
    """
    covariance = covariance.double()
    if not bool(torch.isfinite(covariance).all()) or float(covariance.diagonal().sum()) <= 0:
        raise BadInput("The covariance is zero or not finite: give reference prompts whose activations differ.")
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt()
    return unit(gaussian(n, len(covariance), rng) @ root.T)


def difference_units(n: int, rows: Tensor, rng: np.random.Generator) -> Tensor:  # [n, width]
    """Unit vectors along differences of two different rows of real activations [row, width], drawn at random.

    Raises:
        BadInput: fewer than two different rows.
    """
    rows = torch.unique(rows.double(), dim=0)
    if len(rows) < 2:
        raise BadInput("Differences of real activations need at least two reference tokens that differ.")
    first = torch.from_numpy(rng.integers(0, len(rows), n))
    second = (first + torch.from_numpy(rng.integers(1, len(rows), n))) % len(rows)
    return unit(rows[first] - rows[second])
