"""Making edits: patch, ablate, add, put, or any function. How each becomes cells is in `cells`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..directions import Direction
from ..errors import BadInput
from ..prompts import Prompts
from .cells import Edit
from .choices import Choice
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
    if mean_of is not None and resample_from is not None:
        raise BadInput("Give mean_of or resample_from, not both: a part is replaced by one of them.")
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
    if draws is not None and (not isinstance(draws, int | np.integer) or draws < 1):
        raise BadInput(f"draws is {draws!r}: it is a number of independent draws, 1 or more.")
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
    if not callable(function):
        raise BadInput(f"edit takes a function of a site's activation, not {type(function).__name__}.")
    return Edit(site, (), (Function(function),), layers, heads, positions, neurons, name="edit")


def _is_prompts(function: str, name: str, value: Any) -> None:
    if not isinstance(value, Prompts):
        raise BadInput(
            f"{function}({name}=...) takes prompts (cutaway.Prompts or model.prompts(...)), not {type(value).__name__}."
        )


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
    several = given if isinstance(given, list | tuple | np.ndarray | Tensor) else [given]
    if not len(several):
        raise BadInput("There are no scales. Give a number, or a list of at least one.")
    for one in (v for s in several for v in (s.values() if isinstance(s, Mapping) else [s])):
        try:
            torch.as_tensor(one, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise BadInput(f"A scale is a number, a mapping layer -> number, or a list of them, not {one!r}.") from None
