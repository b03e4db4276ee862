"""Interventions with a direction: it is added to a write or put in its place inside a run, and all that follows is
computed anew. (For a change of a stored state that nothing follows from, see `readout.editing`.)

What is varied is said apart: replace or add, the last position or all, which layers, which strength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .controls import Measure, null_unit
from .directions import Direction
from .edits.cells import Edit
from .edits.making import add, put
from .engine.gridding import sweep
from .errors import BadInput
from .prompts import Prompts
from .readout.linear import LinearReadout

if TYPE_CHECKING:
    from .model import Model

MODES = {"add": add, "replace": put}
"""Mode -> the edit. `replace` takes the model's own write away and makes another one."""
PLACES = {"last": -1, "all": "all"}
KL_DRAWS = 100
"""Draws whose KL is taken: it needs every probability of every run, and only its mean is of interest."""
BUDGET = 4096
"""Tokens that travel together: many short suffixes."""


def swept(model: Model, prompts: Prompts, edits: Any, metrics: Any) -> xr.Dataset:
    """`cutaway.sweep` for many short suffixes, without a line of progress."""
    found = sweep(model, prompts, edits, metrics, budget=BUDGET, progress=False)
    assert isinstance(found, xr.Dataset)
    return found


@dataclass(frozen=True)
class Where:
    """Where and how a vector is put into a run.

    Attributes:
        layers: edited together. positions: an index, a role, or `"all"`.
        mode: `add` or `replace`. site: one with a vector of the stream's width.
        scale: a strength, or a schedule (layer -> strength).
    """

    layers: tuple[int, ...]
    positions: Any = -1
    mode: str = "add"
    site: str = "mlp_out"
    scale: float | Mapping[int, float] = 1.0

    def edit(self, vectors: Any) -> Edit:
        if self.mode not in MODES:
            raise BadInput(f"A vector is put into a run by {' or '.join(MODES)}, not by {self.mode!r}.")
        return MODES[self.mode](self.site, vectors, self.scale, layers=[list(self.layers)], positions=self.positions)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A measurement for `controls.against`: what vectors do to a run, toward the answers of some prompts.

    Outcomes, [prompt, vector]: `logit change`, of logit(answer) - logit(foil); `null units`, the same over r |w| /
    (sqrt(d) s), by which an isotropic vector of this norm would change it if it went straight to the readout;
    `success`, 1 where the answer is on top of the whole vocabulary; `pair`, 1 where the answer leads the foil; `kl`
    from the unedited run, of the first `KL_DRAWS` vectors, else NaN. Prompts where the answer is on top already do not
    count for `success`, nor those where it leads already for `pair`.
    """

    model: Model
    prompts: Prompts
    where: Where
    unit: np.ndarray = field(init=False)  # [prompt], per norm
    lengths: float = field(init=False)

    def __post_init__(self) -> None:
        if self.prompts.answers is None or self.prompts.foils is None:
            raise BadInput("The outcomes are of answers against foils; give both to model.prompts(...).")
        readout = LinearReadout(self.model)
        trace = self.model.trace(self.prompts)
        last = trace.rows("resid_post", self.model.n_layers - 1, self.prompts.at(-1)).double()
        size = torch.linalg.vector_norm(readout.direction(self.prompts.answers, self.prompts.foils), dim=-1)
        scale = readout.norm.scale(last)[:, 0]
        object.__setattr__(self, "unit", null_unit(1.0, (size.cpu() / scale.cpu()).numpy(), self.model.d_model))
        strength = self.where.scale
        each = [strength[n] if isinstance(strength, Mapping) else strength for n in self.where.layers]
        object.__setattr__(self, "lengths", float(np.sqrt(np.square(each).sum())))

    def __call__(self, vectors: Tensor) -> dict[str, np.ndarray]:
        few = len(vectors) <= KL_DRAWS
        metrics = ["logit_diff", "top_token", *(["kl"] if few else [])]
        found = self._swept(vectors, metrics)
        margin, top = (found["value"].sel(metric=name).values for name in metrics[:2])
        own, own_top = (found["base"].sel(metric=name).values[:, None] for name in metrics[:2])
        answers = self.prompts.answers.numpy()[:, None]  # type: ignore[union-attr]
        kl = np.full(margin.shape, np.nan)
        if few:
            kl[:] = found["value"].sel(metric="kl").values
        else:
            kl[:, :KL_DRAWS] = self._swept(vectors[:KL_DRAWS], ["kl"])["value"].values
        norms = torch.linalg.vector_norm(vectors.double(), dim=-1).cpu().numpy().T  # [vector] or [prompt, vector]
        change = margin - own
        size = np.broadcast_to(norms if norms.ndim == 2 else norms[None], change.shape)
        unit = self.unit[:, None] * size * self.lengths
        return {
            "logit change": change,
            "null units": np.divide(change, unit, out=np.zeros_like(change), where=unit > 0),
            "success": np.where(own_top == answers, np.nan, top == answers),
            "pair": np.where(own > 0, np.nan, margin > 0),
            "kl": kl,
        }

    def _swept(self, vectors: Tensor, metrics: list[str]) -> xr.Dataset:
        """[prompt, vector (, metric)]; vectors that differ by prompt are given one by one."""
        some = vectors if vectors.dim() == 2 else list(vectors)
        found = swept(self.model, self.prompts, self.where.edit(some), metrics)
        kept = [d for d in ("prompt", "vector", "metric") if d in found["value"].dims]
        return found.isel({d: 0 for d in found["value"].dims if d not in kept}).transpose(*kept)


def factorial(
    model: Model,
    prompts: Prompts,
    vectors: Mapping[str, Direction | Tensor],
    layer_sets: Sequence[Sequence[int]],
    site: str = "mlp_out",
    modes: Sequence[str] = tuple(MODES),
    places: Sequence[str] = tuple(PLACES),
    scale: float | Mapping[int, float] = 1.0,
    metric: Any = ("logit_diff", "rank"),
) -> xr.Dataset:
    """Every combination of replace or add, last position or all, and sets of layers, for each vector.

    The source's intervention is one cell of this: replace, at all positions, a range of layers.

    Returns:
        The Dataset of `sweep` over prompt, mode, place, layer set (`layers`, written 3-5), vector.

    Raises:
        BadInput: an unknown mode or place, or as `sweep`.
    """
    for name, known in ((m, MODES) for m in modes):
        if name not in known:
            raise BadInput(f"There is no mode {name!r}. Known: {', '.join(known)}.")
    for name in places:
        if name not in PLACES:
            raise BadInput(f"There is no place {name!r}. Known: {', '.join(PLACES)}.")
    sets = [sorted({int(n) for n in some}) for some in layer_sets]
    made = []
    for mode in modes:
        for place in places:
            edit = MODES[mode](site, dict(vectors), scale, layers=sets, positions=PLACES[place])
            found = swept(model, prompts, edit, list(metric))
            found = found.rename(layer="layers").assign_coords(layers=[_written(some) for some in sets])
            made.append(found.expand_dims(mode=[mode], place=[place]))
    merged = xr.combine_by_coords(made, combine_attrs="override")
    assert isinstance(merged, xr.Dataset)
    return merged.transpose("prompt", "mode", "place", "layers", ...).sel(mode=list(modes), place=list(places))


def _written(some: Sequence[int]) -> str:
    """3, 3-5, or 1+4."""
    if len(some) > 1 and list(some) == list(range(some[0], some[-1] + 1)):
        return f"{some[0]}-{some[-1]}"
    return "+".join(map(str, some))


def flips(
    model: Model,
    prompts: Prompts,
    vectors: Mapping[str, Direction | Tensor] | Tensor,
    layers: Sequence[int],
    site: str = "mlp_out",
    position: Any = -1,
    limit: float = 16.0,
    grid: int = 10,
    rounds: int = 10,
) -> xr.Dataset:
    """The smallest strength of a vector, added in a run, from which the model says something else.

    A step can make the answer the top token and a longer one unmake it, so nothing may be bisected blindly: strengths
    are first tried on a grid (geometric, from limit / 2^(grid - 1) to the limit), and the first of its intervals at
    whose end the flip has happened is bisected. A flip and back between two points of the grid can be missed.

    Args:
        vectors: name -> vector or `Direction` (which may differ by prompt), or [vector, d_model].
        limit: largest strength. grid: its points. rounds: bisections; the step is known to 2^-rounds of its interval.

    Returns:
        Dataset over prompt, layer, vector: `pair` (the answer leads the foil), `change` (another token on top),
        `target` (the answer on top), each the smallest strength, infinite where there is none on the grid, and 0 where
        it holds without any edit; `..._holds`: share of the grid's longer steps at which it still holds.

    Raises:
        BadInput: as `sweep`.
    """
    names = list(map(str, vectors)) if isinstance(vectors, Mapping) else list(range(len(vectors)))
    given = list(vectors.values()) if isinstance(vectors, Mapping) else list(vectors)
    tensors = [torch.as_tensor(getattr(v, "vector", v)) for v in given]
    for v in given:
        if isinstance(v, Direction):
            v.check(model)
    layers = [int(n) for n in layers]
    strengths = limit / 2.0 ** np.arange(grid - 1, -1, -1)
    if prompts.answers is None:
        raise BadInput("A flip is to the answer; give answers and foils to model.prompts(...).")
    edit = add(site, tensors, strengths.tolist(), layers=layers, positions=position)
    tried = swept(model, prompts, edit, ["logit_diff", "top_token"])
    own = {name: tried["base"].sel(metric=name).values for name in ("logit_diff", "top_token")}
    answers, axes = prompts.answers.numpy(), ("prompt", "layer", "vector")

    def happened(name: str, value: np.ndarray) -> np.ndarray:
        """Whether it has, by the metric it is seen in, [prompt, ...]."""
        if name == "pair":
            return value > 0
        there = (own["top_token"] if name == "change" else answers).reshape(-1, *(1,) * (value.ndim - 1))
        return value != there if name == "change" else value == there

    seen_in = {"pair": "logit_diff", "change": "top_token", "target": "top_token"}
    on_grid = {
        name: happened(name, tried["value"].sel(metric=metric).transpose(*axes, "scale").values)
        for name, metric in seen_in.items()
    }
    at_zero = {name: happened(name, own[metric]) for name, metric in seen_in.items()}
    data: dict[str, Any] = {}
    for name, true in on_grid.items():
        first = true.argmax(-1)
        there = true.any(-1) & ~at_zero[name][:, None, None]
        high = np.where(there, strengths[first], np.nan)
        low = np.where(there, np.where(first > 0, strengths[np.maximum(first - 1, 0)], 0.0), np.nan)
        for _ in range(rounds if there.any() else 0):
            middle = np.nan_to_num((low + high) / 2)  # [prompt, layer, vector]
            edits = [
                {n: torch.from_numpy(middle[:, k, v])[:, None] * tensors[v].double() for k, n in enumerate(layers)}
                for v in range(len(tensors))
            ]
            edit = add(site, edits, layers=layers, positions=position)
            value = swept(model, prompts, edit, seen_in[name])["value"].transpose(*axes)
            found = happened(name, value.values)
            high, low = np.where(found, middle, high), np.where(found, low, middle)
            high, low = np.where(there, high, np.nan), np.where(there, low, np.nan)
        steps = np.where(there, high, np.where(at_zero[name][:, None, None], 0.0, np.inf))
        longer = np.arange(grid) > first[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            holds = np.where(there & longer.any(-1), (true & longer).sum(-1) / longer.sum(-1), np.nan)
        data |= {name: (axes, steps), f"{name}_holds": (axes, holds)}
    coords = {**{k: tried[k] for k in ("prompt", "text", "family")}, "layer": layers, "vector": names}
    attrs = {
        **tried.attrs,
        "operation": "intervention",
        "limit": limit,
        "grid": grid,
        "units": "multiples of the vector",
    }
    return xr.Dataset(data, coords, attrs)


__all__ = ["MODES", "PLACES", "Measure", "Outcomes", "Where", "factorial", "flips", "swept"]
