"""What is done to an activation: the removal that is asked about, and everything it has to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ...edits.cells import Edit
from ...edits.removals import perturb, project_out, reject, shift_by_mean, to_mean
from ...errors import BadInput
from ...geometry.subspaces import Spectrum, Subspace, load_subspaces

if TYPE_CHECKING:
    from .settings import Settings

Spaces = dict[int, Subspace]

KINDS = {
    "removed": "the subspace, its mean kept",
    "rejected": "the subspace, its mean's part too",
    "random": "a random subspace of as many dimensions",
    "within span": "a random subspace of the leading components' span",
    "same norm": "a random direction of the removed norm in every token",
    "component": "one component",
    "mean shift": "each token's own mean over features added, nothing removed",
    "mean": "the mean instead of the whole activation",
}
"""Kind of edit -> what it takes out or puts in."""
DRAWN = ("random", "within span", "same norm")
"""The controls: drawn several times, and compared with the removal."""


@dataclass(frozen=True)
class Arm:
    """One edit of every layer. `spaces`: what it removes, where it removes something."""

    name: str
    kind: str
    edits: Edit
    spaces: Spaces | None = None
    draw: int | None = None
    component: int | None = None

    def at(self, layer: int) -> Edit:
        """The same edit of one layer alone."""
        return replace(self.edits, layers=layer)


@dataclass(frozen=True)
class Arms:
    """All edits of a study, and the subspaces behind them."""

    spectra: dict[int, Spectrum]
    removed: Spaces
    span: dict[int, int]  # how many components the control's span has, by layer
    every: list[Arm]

    def of(self, kind: str) -> list[Arm]:
        return [arm for arm in self.every if arm.kind == kind]


def arms(spectra: Mapping[int, Spectrum], settings: Settings) -> Arms:
    """The edits that these settings ask for.

    Raises:
        BadInput: a rank or component that the fitted tokens do not allow, or a file of directions that does not fit.
    """
    spectra, site = dict(spectra), settings.site
    layers, where = sorted(spectra), {"layers": sorted(spectra), "positions": "later"}
    removed = _asked(spectra, settings)
    rank = {layer: one.rank for layer, one in removed.items()}
    span = {n: min(max(s.holding(settings.span), rank[n] + 1), s.rank) for n, s in spectra.items()}
    seeds = [settings.seed * 1000 + i for i in range(settings.draws)]
    many = min(settings.components, min(s.rank for s in spectra.values()))

    def projection(kind: str, name: str, spaces: Spaces, **more: int) -> Arm:
        return Arm(name, kind, project_out(site, spaces, **where), spaces, **more)

    made = [projection("removed", "removed", removed)]
    made.append(Arm("rejected", "rejected", reject(site, removed, **where), removed))
    for i, seed in enumerate(seeds):
        random = {n: spectra[n].random(rank[n], seed + 7919 * n) for n in layers}
        within = {n: spectra[n].random_within(span[n], rank[n], seed + 7919 * n) for n in layers}
        made.append(projection("random", f"random {i}", random, draw=i))
        made.append(projection("within span", f"within span {i}", within, draw=i))
        made.append(Arm(f"same norm {i}", "same norm", perturb(site, removed, seed=seed, **where), removed, i))
    for k in range(1, many + 1):
        one = {n: spectra[n].component(k) for n in layers}
        made.append(projection("component", f"component {k}", one, component=k))
    made.append(Arm("mean shift", "mean shift", shift_by_mean(site, **where)))
    made.append(Arm("mean", "mean", to_mean(site, removed, **where), removed))
    return Arms(spectra, removed, span, made)


def _asked(spectra: Mapping[int, Spectrum], settings: Settings) -> Spaces:
    """What is removed: the leading components, one of them, or given directions."""
    if settings.directions is not None:
        return _given(spectra, settings.directions)
    if settings.component is not None:
        return {n: s.component(settings.component) for n, s in spectra.items()}
    return {n: s.leading(settings.rank) for n, s in spectra.items()}


def _given(spectra: Mapping[int, Spectrum], path: str) -> Spaces:
    """Directions from a safetensors file: subspaces that Cutaway saved, or tensors named L0, L1, ... [rank, width].

    They are removed around the mean of the texts fitted here; a saved subspace keeps its own mean.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise BadInput(f"There is no file {path} to take directions from.")
    try:
        saved = {int(s.layer): s for s in load_subspaces(path).values() if s.layer is not None}
    except BadInput:
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{path} cannot be read as safetensors: {error}.") from None
        saved = {n: s.given(tensors[f"L{n}"]) for n, s in spectra.items() if f"L{n}" in tensors}
    missing = sorted(set(spectra) - set(saved))
    if missing:
        raise BadInput(
            f"{path} has no directions for layer {missing[0]}. Name tensors L0, L1, ... for the layers asked about, or "
            "choose layers it has."
        )
    return {n: saved[n] for n in spectra}


def taken(arm: Arm, values: Tensor, layer: int) -> Tensor:
    """|new - old| of tokens [token, width]: what an arm moves, token by token."""
    if arm.kind == "mean shift":
        return values.mean(-1).abs() * values.shape[-1] ** 0.5
    assert arm.spaces is not None
    space = arm.spaces[layer]
    centred = values if arm.kind == "rejected" else values - space.mean.to(values)
    return (centred if arm.kind == "mean" else centred @ space.basis.to(values).T).norm(dim=-1)


def after(space: Subspace, values: Tensor) -> Tensor:
    """Values [token, width] after the removal, in float64."""
    x = values.double()
    return x - (x - space.mean) @ space.basis.T @ space.basis
