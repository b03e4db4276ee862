"""Taking a subspace out of an activation, and what such an edit has to be compared with.

*Projection*, `h - (h - mean) V V^T`: the mean stays and only the variation around it in the subspace goes. *Rejection*,
`h - h V V^T`: the mean's part in the subspace goes too. The basis and the mean are fixed beforehand, on other tokens:
estimated from the tokens that are edited they would differ from text to text and carry later tokens into earlier ones.

The comparisons: a perturbation that has in every token the norm that the removal would have taken out there, and a
random direction; the shift of every token by its own mean over features; the mean instead of the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .cells import Edit
from .choices import Choice
from .operations import Operation, Runs, fits

if TYPE_CHECKING:
    from .cells import Change


@dataclass(frozen=True, eq=False)
class Flat:
    """Orthonormal rows `basis` [rank, width] and the point `mean` [width] around which they are removed (None: 0)."""

    basis: Tensor
    mean: Tensor | None = None

    def part(self, old: Tensor) -> Tensor:
        """What a removal would take from values [n, ..., width], in float32 or better."""
        basis = self.basis.to(old.device, torch.promote_types(old.dtype, torch.float32))
        x = old.to(basis.dtype)
        centred = x if self.mean is None else x - self.mean.to(basis)
        return (centred @ basis.T) @ basis

    def at(self, layer: int) -> Flat:
        return self


@dataclass(frozen=True, eq=False)
class FlatByLayer:
    """A `Flat` for each of some layers."""

    by_layer: Mapping[int, Flat]

    def at(self, layer: int) -> Flat:
        if layer not in self.by_layer:
            raise BadInput(
                f"There is no subspace for layer {layer}, only for {', '.join(map(str, sorted(self.by_layer)))}. Give "
                "one for it, or choose among these with layers=."
            )
        return self.by_layer[layer]


Space = Flat | FlatByLayer


@dataclass(frozen=True, eq=False)
class ProjectOut(Operation):
    """old minus its part in a subspace."""

    space: Space

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        part = self.space.at(change.layer).part(old)
        return (old.to(part.dtype) - part).to(old.dtype)

    def check(self, site: str, layer: int, width: int | None) -> None:
        flat = self.space.at(layer)  # a layer without a subspace is said before anything runs
        fits(site, layer, width, flat.basis, "A subspace of")
        if flat.mean is not None:
            fits(site, layer, width, flat.mean, "The mean of")


@dataclass(frozen=True, eq=False)
class Perturb(ProjectOut):
    """old plus a vector of the norm that the removal would have taken out there, in a random direction of that token.

    The direction depends on the seed, the layer, the prompt and the position alone, so that it is the same however a
    sweep is cut into waves, and does not change when a text is cut behind it.
    """

    seed: int = 0

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        part = self.space.at(change.layer).part(old)
        chosen = runs.chosen[prompt.cpu()].numpy()
        noise = directions(self.seed, change.layer, chosen, position.cpu().numpy(), old[0].numel() if len(old) else 0)
        unit = torch.from_numpy(noise).to(part).reshape(part.shape)
        size = part.norm(dim=-1, keepdim=True) / unit.norm(dim=-1, keepdim=True)
        return (old.to(part.dtype) + size * unit).to(old.dtype)


def directions(seed: int, layer: int, prompt: np.ndarray, position: np.ndarray, width: int) -> np.ndarray:
    """Normal vectors [n, width] for n tokens; those of one prompt are drawn in the order of positions."""
    made = np.empty((len(prompt), width))
    for one in np.unique(prompt):
        mine = prompt == one
        generator = np.random.default_rng([seed, layer, int(one)])
        table = generator.standard_normal((int(position[mine].max()) + 1, width))
        made[mine] = table[position[mine]]
    return made


@dataclass(frozen=True)
class ShiftByMean(Operation):
    """old plus its own mean over features: what "adding the mean back" does where the mean was never taken off."""

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        return old + old.mean(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class ToMean(ProjectOut):
    """The mean around which the subspace lies, in the place of every value."""

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        mean = self.space.at(change.layer).mean
        assert mean is not None
        return mean.to(old).expand_as(old)

    def check(self, site: str, layer: int, width: int | None) -> None:
        super().check(site, layer, width)
        if self.space.at(layer).mean is None:
            raise BadInput("This subspace has no mean to put there. Fit one, or give mean=.")


# -- making them --------------------------------------------------------------------------------------------------


def project_out(
    site: str,
    subspace: Any,
    mean: Any = None,
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
) -> Edit:
    """Remove the variation in a subspace around a mean that is kept: h - (h - mean) V V^T.

    Args:
        subspace: one vector [width], or vectors [rank, width], of any basis; or a `Subspace`, which brings its mean; or
            a mapping layer -> one of these, where it differs by layer. Several, as a list or a mapping name -> one of
            these, make an axis `subspace`.
        mean: [width], or a mapping layer -> [width]; fit it on other tokens. Without any, the subspace is removed
            around zero, which is rejection: `reject` says so by name.
        layers, heads, positions: as in `cutaway.patch`.

    Raises:
        BadInput: vectors that are dependent, not finite, of another width, or fitted at another site.
    """
    return _removal(site, subspace, mean, ProjectOut, "project_out", layers, heads, positions)


def reject(site: str, subspace: Any, layers: Choice = None, heads: Choice = None, positions: Choice = None) -> Edit:
    """Remove everything in a subspace, the mean's part too: h - h V V^T. Arguments as in `project_out`."""

    def around_zero(space: Space) -> Operation:
        return ProjectOut(_each(space, lambda flat: Flat(flat.basis)))

    return _removal(site, subspace, None, around_zero, "reject", layers, heads, positions)


def perturb(
    site: str,
    subspace: Any,
    mean: Any = None,
    seed: int = 0,
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
) -> Edit:
    """The control of equal size: add, to every token, a random direction with the norm that `project_out` with the same
    arguments would have removed there. `seed`: of the directions; a list of seeds makes an axis `draw`.
    """
    seeds = list(seed) if isinstance(seed, list | tuple | range) else [seed]
    if not seeds:
        raise BadInput("There are no seeds. Give a number, or a list of at least one.")
    labels, spaces = _spaces(site, subspace, mean)
    operations = tuple(Perturb(space, int(one)) for space in spaces for one in seeds)
    axes = [("subspace", labels)] if labels is not None else []
    axes += [("draw", tuple(seeds))] if isinstance(seed, list | tuple | range) else []
    return Edit(site, tuple(axes), operations, _there(layers, spaces), heads, positions, name="perturb")


def shift_by_mean(site: str, layers: Choice = None, positions: Choice = None) -> Edit:
    """Add to every token its own mean over features, and do nothing else."""
    return Edit(site, (), (ShiftByMean(),), layers, None, positions, name="shift_by_mean")


def to_mean(site: str, subspace: Any, mean: Any = None, layers: Choice = None, positions: Choice = None) -> Edit:
    """Put the mean that a subspace was fitted around in the place of the whole activation (mean ablation)."""
    return _removal(site, subspace, mean, ToMean, "to_mean", layers, None, positions)


def _removal(
    site: str,
    subspace: Any,
    mean: Any,
    make: Callable[[Space], Operation],
    name: str,
    layers: Choice,
    heads: Choice,
    positions: Choice,
) -> Edit:
    labels, spaces = _spaces(site, subspace, mean)
    axes = () if labels is None else (("subspace", labels),)
    return Edit(site, axes, tuple(map(make, spaces)), _there(layers, spaces), heads, positions, name=name)


def _there(layers: Choice, spaces: Sequence[Space]) -> Choice:
    """The layers asked for; by default those that all subspaces are given for, where they are given by layer."""
    if layers is not None or not all(isinstance(space, FlatByLayer) for space in spaces):
        return layers
    common = set.intersection(*(set(space.by_layer) for space in spaces if isinstance(space, FlatByLayer)))
    if not common:
        raise BadInput("These subspaces have no layer in common. Sweep them one by one.")
    return sorted(common)


def _each(space: Space, change: Callable[[Flat], Flat]) -> Space:
    if isinstance(space, Flat):
        return change(space)
    return FlatByLayer({layer: change(flat) for layer, flat in space.by_layer.items()})


def _spaces(site: str, given: Any, mean: Any) -> tuple[tuple[Any, ...] | None, list[Space]]:
    """(labels of the axis `subspace`, or None for one without axis; the subspaces)."""
    if isinstance(given, Mapping) and not _by_layer(given):
        return tuple(map(str, given)), [_space(site, one, mean) for one in given.values()]
    if isinstance(given, list | tuple) and given and not _numbers(given):
        return tuple(range(len(given))), [_space(site, one, mean) for one in given]
    return None, [_space(site, given, mean)]


def _by_layer(given: Mapping[Any, Any]) -> bool:
    return bool(given) and all(isinstance(key, int | np.integer) for key in given)


def _numbers(given: Sequence[Any]) -> bool:
    """A vector or a matrix written as lists, rather than a list of subspaces."""
    first = given[0]
    return isinstance(first, int | float | np.number) or (isinstance(first, list | tuple) and _numbers(first))


def _space(site: str, given: Any, mean: Any) -> Space:
    if isinstance(given, Mapping):
        means = mean if isinstance(mean, Mapping) else dict.fromkeys(given, mean)
        return FlatByLayer({int(k): _flat(site, v, means.get(k), int(k)) for k, v in given.items()})
    if isinstance(mean, Mapping):
        return FlatByLayer({int(k): _flat(site, given, m, int(k)) for k, m in mean.items()})
    layer = getattr(given, "layer", None)
    if layer is not None:
        return FlatByLayer({layer: _flat(site, given, mean, layer)})
    return _flat(site, given, mean, None)


def _flat(site: str, given: Any, mean: Any, layer: int | None) -> Flat:
    at = getattr(given, "site", None)
    if at is None:
        basis = orthonormal(given)
        return Flat(basis, None if mean is None else _point(mean))
    if at != site or given.layer != layer:  # a geometry.subspaces.Subspace, which this room does not know
        raise BadInput(
            f"This subspace was fitted at {_place(at, given.layer)}, not at {_place(site, layer)}. Fit one there, "
            "or give its basis to use it there all the same."
        )
    return Flat(given.basis, given.mean if mean is None else _point(mean))


def _place(site: str, layer: int | None) -> str:
    return site if layer is None else f"L{layer}.{site}"


def _point(mean: Any) -> Tensor:
    point = torch.as_tensor(mean).detach().to("cpu", torch.float64)
    if point.dim() != 1 or not bool(torch.isfinite(point).all()):
        raise BadInput(f"A mean is one finite vector [width]; this one has shape {tuple(point.shape)}.")
    return point


def orthonormal(subspace: Tensor | Iterable[Any]) -> Tensor:
    """Orthonormal rows spanning the given vectors [rank, width] (one vector: [width]), in float64.

    Raises:
        BadInput: they are not finite, or span less than their number.
    """
    rows = torch.as_tensor(subspace).detach().to("cpu", torch.float64)
    rows = rows[None] if rows.dim() == 1 else rows
    if rows.dim() != 2 or not rows.numel() or not bool(torch.isfinite(rows).all()):
        raise BadInput(f"A subspace is given as finite vectors [rank, width], not as shape {tuple(rows.shape)}.")
    sizes = torch.linalg.svdvals(rows)
    if len(rows) > rows.shape[1] or float(sizes.min()) <= 1e-10 * float(sizes.max()):
        raise BadInput(f"The {len(rows)} vectors of the subspace are linearly dependent. Give a basis.")
    return torch.linalg.qr(rows.T).Q.T


__all__ = [
    "Flat", "FlatByLayer", "Perturb", "ProjectOut", "ShiftByMean", "ToMean", "orthonormal",
    "perturb", "project_out", "reject", "shift_by_mean", "to_mean",
]  # fmt: skip
