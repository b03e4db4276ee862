"""What is changed: an operation at a site, over a grid of layers, heads and positions. Every edit compiles to cells.

A choice (`layers=`, `heads=`, `positions=`, ...) is one value (no axis), or a list of values (an axis, one cell
each); a list inside the list is a set edited together in one cell: `layers=[[8, 9, 10]]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import choices
from .choices import Choice
from .directions import Direction
from .errors import BadInput
from .operations import (
    Add,
    Function,
    Mean,
    Operation,
    Put,
    Reference,
    Scaled,
    TakeFrom,
    Zero,
    resampled,
)
from .prompts import Prompts
from .sites import site as find_site

if TYPE_CHECKING:
    from .model import Model


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


@dataclass(frozen=True)
class Axis:
    """A named axis of the grid and the labels along it."""

    name: str
    labels: tuple[int | float | str, ...]


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
        return Together((self, other))


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
        choices.check_moves(model, site.name, layers, places, operations)
        extra = [Axis(name, tuple(labels)) for name, labels in self.variants]
        cells = []
        change = _Changes(prompts)
        for choice in itertools.product(*(options for _, options in (chosen for _, chosen in axes))):
            (_, some_layers), (_, some_heads), (_, some_neurons), (_, (where, origin)), (_, some_keys) = choice
            for operation in operations:
                cells.append(
                    tuple(
                        change(site.name, n, operation, where, origin, some_heads, some_neurons, some_keys)
                        for n in some_layers
                    )
                )
        kept = [Axis(name, tuple(label for label, _ in options)) for name, (axis, options) in axes if axis]
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
        return Grid((Axis("edit", tuple(grids)), *first.axes), cells)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{k}: {v!r}" for k, v in self.named.items()) + "}"


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


# -- making them --------------------------------------------------------------------------------------------------


def patch(
    site: str,
    source: Prompts,
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
    neurons: Choice = None,
    queries: Choice = None,
    keys: Choice = None,
) -> Edit:
    """Put the value that `source` has there (activation patching).

    Args:
        site: any site of the vocabulary but `logits`.
        source: prompts whose activations are taken, one for each base prompt.
        layers: default each. heads: default each (of q, k, v, z, pattern). neurons: default all together.
        positions: `"each"` (default of the stream and neurons), `"all"` (default of heads), indices (negative from each
            prompt's end) or roles; a role may lie elsewhere in the source, and is taken from there.
        queries, keys: of a pattern; default all.
    """
    _is_prompts("patch", "source", source)
    return Edit(site, (), (TakeFrom(source),), layers, heads, positions, neurons, queries, keys, "patch")


def ablate(
    site: str,
    how: str | None = None,
    mean_of: Prompts | None = None,
    by: str | Sequence[str] = ("position",),
    resample_from: Prompts | None = None,
    draws: int | None = None,
    seed: int = 0,
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
    neurons: Choice = None,
    queries: Choice = None,
    keys: Choice = None,
) -> Edit:
    """Take a part out: put zero, a mean over reference prompts, or the value of a random other prompt there.

    Args:
        how: `"zero"` (default), `"mean"` or `"resample"`; implied by the next two.
        mean_of: reference prompts; by: which reference tokens count as alike (`"position"`, `"role"`, `"template"`).
        resample_from: prompts to draw from, of the same length; `draws`: an axis of independent draws from `seed`.
        layers, heads, positions, neurons, queries, keys: as in `patch`.
    """
    implied = "mean" if mean_of is not None else "resample" if resample_from is not None else "zero"
    how = how or implied
    if how not in ("zero", "mean", "resample") or how != implied:
        raise BadInput(
            "Ablate with how='zero', mean_of=reference prompts, or resample_from=prompts (one of the three); "
            f"how={how!r} was asked for."
        )
    selection = (layers, heads, positions, neurons, queries, keys)
    if how == "zero":
        return Edit(site, (), (Zero(),), *selection, name="zero")
    if mean_of is not None:
        _is_prompts("ablate", "mean_of", mean_of)
        reference = Reference(mean_of, (by,) if isinstance(by, str) else tuple(by))
        table = reference.table()

        def means(base: Prompts) -> tuple[Operation, ...]:
            return (Mean(reference, reference.rows(base, table, base.n_positions)),)

        return Edit(site, (), means, *selection, name="mean")
    assert resample_from is not None
    _is_prompts("ablate", "resample_from", resample_from)
    pool = resample_from

    def drawn(base: Prompts) -> tuple[Operation, ...]:
        same = pool is base
        return tuple(TakeFrom(resampled(pool, base, seed + i, same), "resample") for i in range(draws or 1))

    axes = () if draws is None else (("draw", tuple(range(draws))),)
    return Edit(site, axes, drawn, *selection, name="resample")


def add(
    site: str,
    vectors: Any,
    scale: Any = 1.0,
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
    neurons: Choice = None,
) -> Edit:
    """Add scale * vector.

    Args:
        vectors: one vector or `Direction` (or a mapping layer -> vector: one that differs by layer); several,
            [vector, width], as a list or as a mapping name -> vector, make an axis `vector`. In a list or a mapping, or
            as [vector, prompt, width], a vector may differ by prompt: [prompt, width]. Width: d_model, d_head or
            neurons.
        scale: a number, or a mapping layer -> number (a schedule); a list of either makes an axis `scale`.
        layers, heads, positions, neurons: as in `patch`.

    Raises:
        BadInput: a vector that is not finite.
    """
    return _scaled("add", Add, site, vectors, scale, (layers, heads, positions, neurons))


def put(
    site: str,
    vectors: Any,
    scale: Any = 1.0,
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
    neurons: Choice = None,
) -> Edit:
    """Put scale * vector in place of what the model has there: its own value is gone. Arguments as in `add`.

    At `mlp_out` or `attn_out` this takes a write away and makes another one, so a zero vector is an ablation; compare
    with `add`, which leaves the model's own write where it is.
    """
    return _scaled("put", Put, site, vectors, scale, (layers, heads, positions, neurons))


def _scaled(name: str, kind: type[Scaled], site: str, vectors: Any, scale: Any, where: Sequence[Choice]) -> Edit:
    vector_axis, each = _vectors(vectors)
    _check_scale(scale)
    scales = list(scale) if isinstance(scale, list | tuple | np.ndarray | Tensor) else None
    labels = (
        [] if scales is None else [float(s) if not isinstance(s, Mapping) else f"#{i}" for i, s in enumerate(scales)]
    )
    axes = [("vector", vector_axis)] if vector_axis is not None else []
    axes += [("scale", tuple(labels))] if scales is not None else []
    operations = tuple(kind(v, s) for v in each for s in (scales if scales is not None else [scale]))
    layers, heads, positions, neurons = where
    known = tuple(_directions(vectors))
    return Edit(site, tuple(axes), operations, layers, heads, positions, neurons, name=name, directions=known)


def _directions(given: Any) -> Iterator[Direction]:
    """The vectors that know which model they belong to."""
    if isinstance(given, Direction):
        yield given
    elif isinstance(given, Mapping):
        yield from (d for value in given.values() for d in _directions(value))
    elif isinstance(given, list | tuple):
        yield from (d for value in given for d in _directions(value))


def edit(
    site: str,
    function: Callable[[Tensor], Tensor],
    layers: Choice = None,
    heads: Choice = None,
    positions: Choice = None,
    neurons: Choice = None,
) -> Edit:
    """Any function of a site's whole activation ([prompt, position, ...] as in a trace) to one of the same shape.

    Only the chosen heads, neurons and positions of its answer are used. Prompts may not influence each other.
    """
    return Edit(site, (), (Function(function),), layers, heads, positions, neurons, name="edit")


def _is_prompts(function: str, name: str, value: Any) -> None:
    if not isinstance(value, Prompts):
        raise BadInput(
            f"{function}({name}=...) takes prompts (cutaway.Prompts or model.prompts(...)), not {type(value).__name__}."
        )


class _Changes:
    """Makes the changes of a grid; those of the same tokens share one array that says which of these really change."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self.changed: dict[tuple, np.ndarray] = {}

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
            self.changed[alike] = operation.changed(where, site, layer, self.prompts, origin)
        place = "resid_pre" if site == "embed" else site
        return Change(place, layer, operation, where, self.changed[alike], heads, neurons, keys, origin)


def _vectors(given: Any) -> tuple[tuple | None, list[Any]]:
    """(labels of the axis or None, the vectors)."""
    if isinstance(given, Mapping):
        if all(isinstance(k, int | np.integer) for k in given):
            return None, [_by_layer(given)]
        return tuple(map(str, given)), [_one_vector(v) for v in given.values()]
    if isinstance(given, list | tuple) and given and not isinstance(given[0], int | float):
        return tuple(range(len(given))), [_one_vector(v) for v in given]
    vectors = _finite(given)
    if vectors.dim() == 1:
        return None, [vectors]
    return tuple(range(len(vectors))), list(vectors)


def _one_vector(given: Any) -> Any:
    """A vector, one a prompt, or one a layer."""
    if isinstance(given, Mapping):
        return _by_layer(given)
    vector = _finite(given)
    if vector.dim() > 2:
        raise BadInput(f"One vector is of shape [width] or [prompt, width]; this one has {tuple(vector.shape)}.")
    return vector


def _by_layer(given: Mapping[int, Any]) -> dict[int, Tensor]:
    return {int(k): _one_vector(v) for k, v in given.items()}


def _finite(given: Any) -> Tensor:
    try:
        vectors = torch.as_tensor(getattr(given, "vector", given)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"Vectors are tensors, arrays or lists of numbers: {error}") from None
    if not bool(torch.isfinite(vectors).all()) or vectors.dim() not in (1, 2, 3):
        raise BadInput(
            "Vectors are finite, [width], [vector, width] or [vector, prompt, width]; these have shape "
            f"{tuple(vectors.shape)}" + ("." if vectors.dim() in (1, 2, 3) else ", another number of axes.")
        )
    return vectors


def _check_scale(given: Any) -> None:
    several = given if isinstance(given, list | tuple) else [given]
    for one in (v for s in several for v in (s.values() if isinstance(s, Mapping) else [s])):
        try:
            torch.as_tensor(one, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise BadInput(f"A scale is a number, a mapping layer -> number, or a list of them, not {one!r}.") from None
