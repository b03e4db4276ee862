"""A grid of cells: what is changed where, and how edits compile to it, alone, together or side by side.

A choice (`layers=`, `heads=`, `positions=`, ...) is one value (no axis), or a list of values (an axis, one cell
each); a list inside the list is a set edited together in one cell: `layers=[[8, 9, 10]]`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..directions import Direction
from ..errors import BadInput
from ..prompts import Prompts
from ..sites import site as find_site
from . import choices
from .choices import Choice
from .operations import (
    Operation,
    Scaled,
    TakeFrom,
    unique,
)

if TYPE_CHECKING:
    from ..model import Model


@dataclass(frozen=True, eq=False)
class Change:
    """One operation at one site of one layer. Arrays are [prompt, position] over the base prompts."""

    site: str
    layer: int
    operation: Operation
    where: np.ndarray  # edited tokens (of a pattern: queries)
    changed: np.ndarray  # those of them whose value may really change
    heads: tuple[int, ...] | None = None  # None: all
    neurons: tuple[int, ...] | None = None
    keys: np.ndarray | None = None  # edited keys of a pattern; None: all
    origin: np.ndarray | None = None  # position in the source; None: the same

    def part(self, old: Tensor, new: Tensor) -> Tensor:
        """`old` [n, ...] with the edited heads or neurons taken from `new`."""
        chosen = self.neurons if self.heads is None else self.heads
        if chosen is None:
            return new
        index = torch.tensor(chosen, device=old.device)
        dim = 1
        return old.index_copy(dim, index, new.index_select(dim, index))


Cell = tuple[Change, ...]

CELLS = 2 * 10**7
"""Cells that a grid may have: 8 GB of plan."""


def require_few(cells: int) -> None:
    """Pass if a grid of that many cells can be planned.

    Raises:
        BadInput: it is too large.
    """
    if cells > CELLS:
        raise BadInput(
            f"This grid has {cells:,} cells, and one sweep takes {CELLS:,} at most. Choose fewer layers, positions, "
            "heads or neurons, or several of them together in one cell, as in neurons=[[0, 1, 2]]."
        )


@dataclass(frozen=True)
class Axis:
    """A named axis of the grid and the labels along it.

    Of tokens also where each label lies (the edited tokens [prompt, position], and by a source's identity the positions
    there, where these are others), and the runs that values are taken from.
    """

    name: str
    labels: tuple[int | float | str, ...]
    places: tuple[tuple[np.ndarray, Mapping[int, np.ndarray]], ...] = field(default=(), compare=False, repr=False)
    sources: tuple[Prompts, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Grid:
    """All cells of a sweep, in row-major order over the axes. `fixed` labels what was chosen once, without an axis."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    fixed: dict[str, int | float | str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(a.labels) for a in self.axes)


class Edits:
    """Something that compiles to a grid. `a & b` makes both changes in every cell."""

    def compile(self, model: Model, prompts: Prompts) -> Grid:
        raise NotImplementedError

    @property
    def references(self) -> tuple[Prompts, ...]:
        """Source prompts of activation patching, whose own metric is the reference value."""
        return ()

    def __and__(self, other: Edits) -> Edits:
        return Together((self, other)) if isinstance(other, Edits) else NotImplemented


@dataclass(frozen=True, eq=False)
class Edit(Edits):
    """One site edited over a grid."""

    site: str
    variants: tuple[tuple[str, tuple[Any, ...]], ...]  # further axes: name, labels
    operations: tuple[Operation, ...] | Callable[[Prompts], tuple[Operation, ...]]  # row-major over `variants`
    layers: Choice = None
    heads: Choice = None
    positions: Choice = None
    neurons: Choice = None
    queries: Choice = None
    keys: Choice = None
    name: str = "edit"
    directions: tuple[Direction, ...] = ()

    @property
    def references(self) -> tuple[Prompts, ...]:
        if callable(self.operations):
            return ()
        return tuple(op.source for op in self.operations if isinstance(op, TakeFrom))

    def compile(self, model: Model, prompts: Prompts) -> Grid:
        """The grid over these base prompts.

        Raises:
            BadInput: a layer, head, position or role that does not exist, or prompts that cannot be aligned.
            Refused: the site does not exist in this model or is not certified.
        """
        site = find_site(self.site)
        for direction in self.directions:
            direction.check(model)
        if self.site == "logits":
            raise BadInput("Logits are where a metric reads: edit resid_post of the last layer instead.")
        operations = self.operations(prompts) if callable(self.operations) else self.operations
        layers = choices.layers(model, site.name, self.layers)
        for operation, (_, some) in itertools.product(operations, layers[1]):
            for n in some:
                operation.check(site.name, n, choices.width(model, site, n))
        for operation in operations:
            if isinstance(operation, Scaled):
                operation.check_prompts(len(prompts))
        heads = choices.numbers("head", self.heads, *choices.heads(model, site, layers))
        neurons = choices.numbers("neuron", self.neurons, *choices.neurons(model, site, layers))
        if self.queries is not None and site.name != "pattern":
            raise BadInput(f"Only a pattern has queries to choose, not {site.name}. Choose positions.")
        if self.queries is not None and self.positions is not None:
            raise BadInput("A pattern's positions are its queries: choose one of the two.")
        queries = self.positions if self.queries is None else self.queries
        default = "each" if site.axes == ("prompt", "position", "d_model") or "neuron" in site.axes else "all"
        places = choices.positions(prompts, operations, default if queries is None else queries)
        keys = choices.keys(prompts, site.name, self.keys)
        pattern = site.name == "pattern"
        axes = [
            ("layer", layers),
            ("kv_head" if "kv_head" in site.axes else "head", heads),
            ("neuron", neurons),
            ("query" if pattern else "position", places),
            ("key", keys),
        ]
        choices.check_moves(model, site.name, layers, places)
        require_few(math.prod(len(options) for _, (_, options) in axes) * len(operations))
        extra = [Axis(name, tuple(labels)) for name, labels in self.variants]
        cells = []
        change = _Changes(prompts)
        for choice in itertools.product(*(options for _, options in (chosen for _, chosen in axes))):
            (_, some_layers), (_, some_heads), (_, some_neurons), (_, (where, origins)), (_, some_keys) = choice
            for operation in operations:
                origin = next((origins[id(s)] for s in operation.sources if id(s) in origins), None)
                cells.append(
                    tuple(
                        change(site.name, n, operation, where, origin, some_heads, some_neurons, some_keys)
                        for n in some_layers
                    )
                )
        taken = tuple(unique(s for op in operations if op.moves for s in op.sources))
        kept = [_axis(name, options, taken) for name, (axis, options) in axes if axis]
        fixed = {name: options[0][0] for name, (axis, options) in axes if not axis and options[0][0] != "all"}
        if not site.per_layer:
            fixed.pop("layer", None)
        return Grid(tuple(kept + extra), tuple(cells), fixed)

    def __repr__(self) -> str:
        chosen = {k: getattr(self, k) for k in ("layers", "heads", "positions", "neurons", "queries", "keys")}
        given = "".join(f", {k}={v!r}" for k, v in chosen.items() if v is not None)
        return f"{self.name}({self.site!r}{given})"


@dataclass(frozen=True, eq=False)
class Together(Edits):
    """Several edits in every cell: the outer product of their grids. Axes with one label are dropped."""

    parts: tuple[Edits, ...]

    @property
    def references(self) -> tuple[Prompts, ...]:
        return tuple(r for part in self.parts for r in part.references)

    def compile(self, model: Model, prompts: Prompts) -> Grid:
        grids = [part.compile(model, prompts) for part in self.parts]
        require_few(math.prod(len(grid.cells) for grid in grids))
        axes: list[Axis] = []
        for grid in grids:
            for axis in grid.axes:
                if len(axis.labels) > 1:
                    same = sum(a.name.split("_with_")[0] == axis.name for a in axes)
                    axes.append(replace(axis, name=axis.name if not same else f"{axis.name}_with_{same}"))
        cells = tuple(sum(parts, ()) for parts in itertools.product(*(g.cells for g in grids)))
        return Grid(tuple(axes), cells)

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.parts))


@dataclass(frozen=True, eq=False)
class Alternatives(Edits):
    """Named edits with the same grid, side by side along an axis `edit`."""

    named: Mapping[str, Edits]

    @property
    def references(self) -> tuple[Prompts, ...]:
        return tuple(r for part in self.named.values() for r in part.references)

    def compile(self, model: Model, prompts: Prompts) -> Grid:
        grids = {name: edits.compile(model, prompts) for name, edits in self.named.items()}
        first = next(iter(grids.values()))
        for name, grid in grids.items():
            if grid.axes != first.axes:
                raise BadInput(
                    f"The edits {next(iter(grids))!r} and {name!r} have different grids. Sweep them one by one."
                )
        cells = tuple(cell for grid in grids.values() for cell in grid.cells)
        taken = [
            tuple(unique(s for a in alike for s in a.sources))
            for alike in zip(*(g.axes for g in grids.values()), strict=True)
        ]
        axes = [replace(axis, sources=sources) for axis, sources in zip(first.axes, taken, strict=True)]
        return Grid((Axis("edit", tuple(grids)), *axes), cells)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{k}: {v!r}" for k, v in self.named.items()) + "}"


def _axis(name: str, options: Sequence[tuple[Any, Any]], sources: tuple[Prompts, ...]) -> Axis:
    labels = tuple(label for label, _ in options)
    if name in ("position", "query"):
        return Axis(name, labels, tuple(meaning for _, meaning in options), sources)
    if name == "key":
        return Axis(name, labels, tuple((where, {}) for _, where in options), sources)
    return Axis(name, labels)


def as_edits(given: Edits | Sequence[Edits] | Mapping[str, Edits]) -> Edits:
    """One `Edits` from what a caller may give: an edit, a list (made together), or a mapping (side by side).

    Raises:
        BadInput: it is none of these, or empty.
    """
    if isinstance(given, Edits):
        return given
    parts = list(given.values()) if isinstance(given, Mapping) else list(given) if isinstance(given, Sequence) else []
    if not parts or not all(isinstance(p, Edits) for p in parts):
        raise BadInput(
            "Edits are made by cutaway.patch, ablate, add, project_out or edit: one, a list of them (made together) or "
            f"a mapping of names to them (side by side); this is {type(given).__name__}."
        )
    return (
        Alternatives(given) if isinstance(given, Mapping) else parts[0] if len(parts) == 1 else Together(tuple(parts))
    )


class _Changes:
    """Makes the changes of a grid; those of the same tokens share one array that says which of these really change."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self.changed: dict[tuple, np.ndarray] = {}
        self.seen: dict[tuple, list[np.ndarray]] = {}

    def _shared(self, found: np.ndarray, alike: tuple) -> np.ndarray:
        """An equal array that another layer has, so that memory does not grow with layers x prompts."""
        some = self.seen.setdefault(alike, [])
        same = next((one for one in some if one is found or np.array_equal(one, found)), None)
        if same is None:
            some.append(found)
        return found if same is None else same

    def __call__(
        self,
        site: str,
        layer: int,
        operation: Operation,
        where: np.ndarray,
        origin: np.ndarray | None,
        heads: tuple[int, ...] | None,
        neurons: tuple[int, ...] | None,
        keys: np.ndarray | None,
    ) -> Change:
        alike = (layer, id(operation), id(where), id(origin))
        if alike not in self.changed:
            found = operation.changed(where, site, layer, self.prompts, origin)
            self.changed[alike] = self._shared(found, alike[1:])
        place = "resid_pre" if site == "embed" else site
        return Change(place, layer, operation, where, self.changed[alike], heads, neurons, keys, origin)
