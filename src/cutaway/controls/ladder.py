"""The control ladder: what other vectors of the same norm would do. It is made for a direction, and an experiment takes
it as it is.

Isotropic draws alone flatter a method: activations are much less sensitive to them than to directions that real
activations differ by (Heimersheim 2024). So the ladder has both kinds, and vectors that are no null at all but tests of
what a relation's vector should and should not do elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..directions import Direction
from ..errors import BadInput, did_you_mean
from .draws import covariance_units, difference_units, generator, norm_matched, orthogonal_units, random_units

NULL, FIXED, GENERALISATION = "null", "fixed", "generalisation"

RUNGS = {
    "nothing": (FIXED, "a zero vector: where a write is replaced, the write is taken away"),
    "mean write": (FIXED, "the mean of what the site writes on reference prompts"),
    "isotropic": (NULL, "random directions, uniform on the sphere"),
    "orthogonal": (NULL, "random directions orthogonal to the vector"),
    "covariance": (NULL, "Gaussian draws with the covariance of what the site writes on reference prompts"),
    "real difference": (NULL, "differences of what the site writes at two reference tokens, drawn at random"),
    "boundary": (FIXED, "the direction in which the stream's pair margin changes most, prompt by prompt"),
    "another relation": (FIXED, "the same kind of vector of another relation"),
    "another prompt": (GENERALISATION, "the same kind of vector of another prompt of this relation"),
    "minus": (GENERALISATION, "minus the vector"),
    "unreadable": (GENERALISATION, "the vector without what the unembedding reads of answers and arguments in it"),
}
"""Rung -> kind, and what it is. Kinds: `null` (p-values are taken against its draws), `fixed` (one vector to compare
with), `generalisation` (one vector that is no null: what the direction should or should not share with it)."""


@dataclass(frozen=True, eq=False)
class Control:
    """One rung: vectors with the norm of the direction (`nothing` excepted).

    Attributes:
        vectors: [draw, width], or [draw, prompt, width] where they differ by prompt.
        own_norm: norm before matching, where there is one vector with a norm of its own; else NaN.
    """

    name: str
    kind: str
    meaning: str
    vectors: Tensor
    own_norm: float = float("nan")

    @property
    def draws(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, eq=False)
class Material:
    """What the rungs are made of; a rung without its material is left out of the ladder.

    Attributes:
        mean, covariance: of what the site writes on reference prompts, [width] and [width, width].
        rows: what it writes at reference tokens, [row, width].
        boundary: readout direction of target against present token, [prompt, width] or [width].
        other, same: a vector of another relation; of another prompt of this relation.
        readable: readout directions of answers and arguments, [token, width].
    """

    mean: Tensor | None = None
    covariance: Tensor | None = None
    rows: Tensor | None = None
    boundary: Tensor | None = None
    other: Direction | None = None
    same: Direction | None = None
    readable: Tensor | None = None


def ladder(
    direction: Direction,
    material: Material | None = None,
    draws: int = 1000,
    seed: int = 0,
    only: Sequence[str] | None = None,
) -> dict[str, Control]:
    """Controls for a direction, all with its norm, the same for the same seed.

    Args:
        draws: vectors of each random rung.
        only: rungs wanted, by name (`RUNGS`); default all that there is material for.

    Raises:
        BadInput: an unknown rung, one that is asked for without its material, or a direction of zero.
    """
    material = material or Material()
    for name in only or ():
        if name not in RUNGS:
            raise BadInput(f"There is no control {name!r}. {did_you_mean(name, list(RUNGS))}")
    if direction.norm == 0:
        raise BadInput(f"The direction {direction.name!r} is zero: there is nothing to compare with it.")
    made: dict[str, Control] = {}
    for name, (kind, meaning) in RUNGS.items():
        if only is not None and name not in only:
            continue
        vectors = _rung(name, direction, material, draws, seed)
        if vectors is None:
            if only is not None:
                raise BadInput(f"The control {name!r} ({meaning}) lacks what it is made of. Give it in `material`.")
            continue
        norms = torch.linalg.vector_norm(vectors, dim=-1)
        own = float(norms.flatten()[0]) if kind != NULL and norms.numel() == 1 else float("nan")
        matched = vectors if name == "nothing" else norm_matched(vectors, direction.norm)
        made[name] = Control(name, kind, meaning, matched.to(direction.vector.dtype), own)
    return made


def _rung(name: str, direction: Direction, material: Material, draws: int, seed: int) -> Tensor | None:
    """Vectors [draw, width] or [draw, prompt, width] of any norm."""
    own, rng, width = direction.vector.double(), generator(seed, name), len(direction.vector)
    match name:
        case "nothing":
            return torch.zeros(1, width, dtype=torch.float64)
        case "isotropic":
            return random_units(draws, width, rng)
        case "orthogonal":
            return orthogonal_units(draws, own, rng)
        case "minus":
            return -own[None]
        case "mean write":
            return _single(material.mean)
        case "covariance":
            return None if material.covariance is None else covariance_units(draws, material.covariance, rng)
        case "real difference":
            return None if material.rows is None else difference_units(draws, material.rows, rng)
        case "boundary":
            return _single(material.boundary)
        case "another relation":
            return None if material.other is None else material.other.vector.double()[None]
        case "another prompt":
            return None if material.same is None else material.same.vector.double()[None]
        case _:
            return None if material.readable is None else without(own, material.readable)[None]


def _single(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.double()[None]


def without(vector: Tensor, readable: Tensor) -> Tensor:
    """A vector [width] minus its projection on the span of some readout directions [token, width], in float64.

    Raises:
        BadInput: they span everything, so nothing is left.
    """
    u, size, _ = torch.linalg.svd(readable.double().T, full_matrices=False)
    basis = u[:, size > 1e-9 * size.max()]
    left = vector.double() - basis @ (basis.T @ vector.double())
    if float(torch.linalg.vector_norm(left)) <= 1e-9 * float(torch.linalg.vector_norm(vector.double())):
        raise BadInput(
            f"{len(readable)} readout directions span all of the vector, so nothing unreadable is left. "
            "Give fewer tokens."
        )
    return left
