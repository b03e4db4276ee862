"""Readout edits: change a stored state of the stream and decode it. Nothing propagates.

They say what a vector would do to a prediction if the model ended there, which is how the source of the idea tried it
out. What the rest of the model makes of the change is another question: `cutaway.sweep` with `add` or `put`
(an intervention). Every result says which of the two it is in its attribute `operation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..directions import Direction
from ..edits import choices
from ..errors import BadInput
from ..finite import named
from ..prompts import Prompts, Read
from ..results import prompt_coords, run_card
from ..trace import Trace
from .linear import LinearReadout, Products

if TYPE_CHECKING:
    from ..model import Model

STATES = ("resid_pre", "resid_mid", "resid_post")
MEASURES = {
    "top_token": "token id",
    "logit_diff": "logits",
    "rank": "rank",
    "kl": "nats",
}
"""What can be measured of an edited state, and its unit. `rank`: of the answer; `kl`: from the unedited state's."""
CHUNK = 2**20
"""Logits held at once: small enough to stay in a processor's cache."""


@torch.no_grad()
def readout_edit(
    trace: Trace,
    vectors: Any,
    scale: Any = 1.0,
    layers: Sequence[int] | int | None = None,
    positions: Read | Sequence[Read] = -1,
    site: str = "resid_post",
    measure: Sequence[str] = ("top_token", "logit_diff"),
    cells: np.ndarray | None = None,
) -> xr.Dataset:
    """Add scale * vector to a stored state at each layer and position by itself, and decode it.

    Layers, positions, vectors and scales are axes of their own: nothing depends on the layer unless a schedule says so.
    The stored states are not altered, and the final norm is applied exactly once.

    Args:
        trace: the run whose states are edited.
        vectors: a vector or `Direction`; a mapping name -> vector, a list, or [vector, d_model] make an axis `vector`;
            in a mapping or list, or as [vector, prompt, d_model], a vector may differ by prompt.
        scale: a number (minus: subtract), or a mapping layer -> number (a schedule); a list of either makes an axis.
        layers: default all. positions: an index or role; a list makes an axis.
        site: `resid_pre`, `resid_mid` or `resid_post`, which are read before the final norm.
        measure: of `MEASURES`. `logit_diff` needs answers and foils, `rank` answers.
        cells: [prompt, layer], true where it is computed; elsewhere measures are NaN (`top_token`: -1). Default: all.

    Returns:
        Dataset over prompt, layer, then position, vector and scale where they are axes: each measure, and over prompt,
        layer (position): `base_...` of the unedited state. Attribute `operation`: readout edit.

    Raises:
        BadInput: a state that is already normed, vectors that do not fit, or answers that are missing; NaN or infinity
            (the message names prompt, layer and site).
        Refused: the model has something other than one norm before its unembedding.
    """
    model, prompts = trace.model, trace.prompts
    if site not in STATES:
        hint = " It is normed already, and a second norm would be wrong." if site in ("final_norm", "logits") else ""
        raise BadInput(f"A readout edit changes a state of the stream ({', '.join(STATES)}), not {site}.{hint}")
    for name in measure:
        if name not in MEASURES:
            raise BadInput(f"There is no measure {name!r} of a readout edit. Known: {', '.join(MEASURES)}.")
    given = Given.of(model, vectors, len(prompts))
    scales = Scales.of(scale)
    chosen = chosen_layers(model, site, layers)
    reads, several = ([positions], False) if isinstance(positions, int | str) else (list(positions), True)
    readout = LinearReadout(model)
    shape = (len(prompts), len(chosen), len(reads), given.n, len(scales.labels))
    found = {name: np.full(shape, np.nan) for name in measure}
    base = {name: np.full(shape[:3], np.nan) for name in measure if name != "kl"}
    products = list(given.products(readout))
    pair = _pair(prompts, readout) if "logit_diff" in measure else None
    if "rank" in measure and prompts.answers is None:
        raise BadInput("The rank is the answer's, and the prompts have none. Give answers to model.prompts(...).")
    for k, layer in enumerate(chosen):
        strength = torch.tensor(scales.at(layer), dtype=torch.float64)  # [scale]
        for r, read in enumerate(reads):
            wanted = list(range(len(prompts))) if cells is None else np.flatnonzero(cells[:, k]).tolist()
            who = reader(prompts, site, layer)
            for i, states, row in readout.one_by_one(trace.rows(site, layer, prompts.at(read)), wanted, who):
                one = Edited(readout, states, row, products[0 if given.shared else i], strength, who(i))
                aims = None if prompts.answers is None else int(prompts.answers[i])
                for name in measure:
                    found[name][i, k, r], own = one.measure(name, aims, None if pair is None else pair[i])
                    if name in base:
                        base[name][i, k, r] = own
    axes = ["prompt", "layer", "position", "vector", "scale"]
    coords: dict[str, Any] = {**prompt_coords(prompts), "layer": chosen}
    dataset = xr.Dataset({name: (axes, v) for name, v in found.items()})
    dataset = dataset.assign({f"base_{name}": (axes[:3], v) for name, v in base.items()})
    for name in ("top_token", "base_top_token"):
        if name in dataset:
            dataset[name] = dataset[name].fillna(-1).astype(np.int64)
    labels = {
        "position": [str(r) for r in reads] if several else None,
        "vector": given.labels,
        "scale": scales.labels if scales.axis else None,
    }
    for name, label in labels.items():
        if label is None:
            dataset = dataset.isel({name: 0})
        else:
            coords[name] = list(label)
    card = run_card(
        model,
        prompts,
        operation="readout edit",
        site=site,
        position=", ".join(map(str, reads)),
        norm="applied once, to the edited state",
        units="; ".join(f"{name}: {MEASURES[name]}" for name in measure),
    )
    return dataset.assign_coords(coords).assign_attrs(card)


def reader(prompts: Prompts, site: str, layer: int) -> Callable[[int], str]:
    """How messages name the state of a prompt at a layer."""
    return lambda i: f"{named(prompts, i)}, L{layer}.{site}"


def chosen_layers(model: Model, site: str, layers: Any) -> list[int]:
    """Layers that exist, one by one."""
    _, options = choices.layers(model, site, layers)
    return [n for _, some in options for n in some]


def _pair(prompts: Any, readout: LinearReadout) -> list[tuple[Tensor, float, int, int]]:
    """Of each prompt: the pair's readout direction, its bias, answer and foil."""
    if prompts.answers is None or prompts.foils is None:
        raise BadInput("logit_diff needs answers and foils, and the prompts lack one of them.")
    directions = readout.direction(prompts.answers, prompts.foils)
    bias = readout.pair_bias(prompts.answers, prompts.foils)
    return list(zip(directions, bias.tolist(), prompts.answers.tolist(), prompts.foils.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Given:
    """Vectors as they were given: [vector, d_model], or [vector, prompt, d_model] where they differ by prompt."""

    vectors: Tensor
    labels: tuple[Any, ...] | None  # None: one vector, no axis

    @property
    def shared(self) -> bool:
        return self.vectors.dim() == 2

    @property
    def n(self) -> int:
        return len(self.vectors)

    def of_prompt(self, i: int) -> Tensor:  # [vector, d_model]
        return self.vectors if self.shared else self.vectors[:, i]

    def products(self, readout: LinearReadout) -> Iterator[Products]:
        """Once for all prompts, or prompt by prompt."""
        for i in range(1 if self.shared else self.vectors.shape[1]):
            yield readout.products(self.of_prompt(i))

    @classmethod
    def of(cls, model: Model, given: Any, n_prompts: int) -> Given:
        """Checked.

        Raises:
            BadInput: not finite, another width, another model's, or not one vector a prompt.
        """
        labels: tuple[Any, ...] | None = None
        if isinstance(given, Direction):
            parts: list[Any] = [given]
        elif isinstance(given, Mapping):
            parts, labels = list(given.values()), tuple(map(str, given))
        elif isinstance(given, list | tuple) and given and not isinstance(given[0], int | float):
            parts, labels = list(given), tuple(range(len(given)))
        else:
            tensor = torch.as_tensor(given)
            parts = [tensor] if tensor.dim() == 1 else list(tensor)
            labels = None if tensor.dim() == 1 else tuple(range(len(tensor)))
        tensors = []
        for part in parts:
            if isinstance(part, Direction):
                part.check(model)
            vector = torch.as_tensor(getattr(part, "vector", part)).detach().double()
            if vector.dim() not in (1, 2) or vector.shape[-1] != model.d_model:
                raise BadInput(
                    f"Vectors for {model.name} have width {model.d_model}, or shape [prompt, {model.d_model}] where "
                    f"they differ by prompt; this one has shape {tuple(vector.shape)}."
                )
            if not bool(torch.isfinite(vector).all()):
                raise BadInput("A vector is not finite. Leave out what made it so.")
            if vector.dim() == 2 and len(vector) != n_prompts:
                raise BadInput(f"There are {n_prompts} prompts but a vector for each of {len(vector)}.")
            tensors.append(vector)
        if any(v.dim() == 2 for v in tensors):
            tensors = [v if v.dim() == 2 else v.expand(n_prompts, -1) for v in tensors]
        return cls(torch.stack(tensors), labels)


@dataclass(frozen=True)
class Scales:
    """Strengths: numbers, or schedules (layer -> number). `axis`: whether there is an axis of them."""

    values: tuple[Any, ...]
    labels: tuple[Any, ...]
    axis: bool

    @classmethod
    def of(cls, given: Any) -> Scales:
        axis = isinstance(given, list | tuple | np.ndarray | Tensor)
        values = tuple(given) if axis else (given,)
        for value in (v for s in values for v in (s.values() if isinstance(s, Mapping) else [s])):
            if not isinstance(value, SupportsFloat) or not math.isfinite(float(value)):
                raise BadInput(f"A strength is a finite number, not {value!r}.")
        labels = tuple(f"#{i}" if isinstance(s, Mapping) else float(s) for i, s in enumerate(values))
        return cls(values, labels, axis)

    def at(self, layer: int) -> list[float]:
        for schedule in self.values:
            if isinstance(schedule, Mapping) and layer not in schedule:
                raise BadInput(f"The schedule of strengths has none for layer {layer}. Give one, or choose layers=.")
        return [float(s[layer] if isinstance(s, Mapping) else s) for s in self.values]


class Edited:
    """One state with every vector at every strength added, a chunk of logits at a time."""

    def __init__(
        self, readout: LinearReadout, states: Products, i: int, vectors: Products, strength: Tensor, who: str
    ) -> None:
        self.readout, self.vectors, self.strength = readout, vectors, strength
        self.onto, self.state = states.onto[i], states.centred[i]
        q0, q1, q2 = readout.square(self.state, vectors.centred)
        a = strength.to(q0.device)
        self.scale = (q0 + q1[:, None] * a + q2[:, None] * a.square()).clamp_min(0).sqrt()  # s, [vector, scale]
        self.own_scale = q0.sqrt()
        longest = float(strength.abs().max())
        if not (
            bool(torch.isfinite(self.scale).all()) and longest * vectors.largest < torch.finfo(readout.dtype).max / 2
        ):
            raise BadInput(f"{who}: with a vector at strength {longest:g} the logits overflow. Choose a smaller one.")

    def measure(self, name: str, answer: int | None, pair: Any) -> tuple[np.ndarray, float]:
        """([vector, scale], of the unedited state)."""
        if name == "logit_diff":
            return self._pair(pair)
        assert name == "top_token" or name == "kl" or answer is not None
        function = {"top_token": _top, "rank": _rank, "kl": _kl}[name]
        own = self.onto / self.own_scale.to(self.onto.dtype) + self.readout.bias
        n, n_scales = self.scale.shape
        found = torch.empty(n, n_scales, dtype=torch.float64)
        step = max(1, CHUNK // len(own))
        for j in range(n_scales):
            for start in range(0, n, step):
                some = slice(start, start + step)
                found[some, j] = function(self._logits(some, j), own, answer, self.readout).double().cpu()
        return found.numpy(), float(function(own[None], own, answer, self.readout)[0])

    def _logits(self, some: slice, j: int) -> Tensor:  # [vector, vocab]
        """Before the model's factor and soft-cap, times s: the same order of tokens, one division fewer."""
        logits = torch.add(self.onto, self.vectors.onto[some], alpha=float(self.strength[j]))
        s = self.scale[some, j].to(logits.dtype)
        return logits.addcmul_(s[:, None], self.readout.bias[None]).div_(s[:, None])

    def _pair(self, pair: Any) -> tuple[np.ndarray, float]:
        """logit(answer) - logit(foil), from two columns, in float64."""
        direction, bias, answer, foil = pair
        raw = direction @ self.state, self.vectors.centred @ direction
        shifted = (raw[0] + raw[1][:, None] * self.strength.to(raw[1].device)) / self.scale + bias
        own = raw[0] / self.own_scale + bias
        if self.readout.unembedding.cap is None:
            factor = self.readout.unembedding.scale
            return (shifted * factor).cpu().numpy(), float(own * factor)
        both = []
        for token in (answer, foil):  # a soft-cap needs each logit by itself
            w = self.readout.norm.gained(self.readout.weight[:, token].double())
            b = self.readout.bias[token].double()
            moved = (w @ self.state + (self.vectors.centred @ w)[:, None] * self.strength.to(w.device)) / self.scale + b
            both.append((self.readout.finish(moved), self.readout.finish(w @ self.state / self.own_scale + b)))
        return (both[0][0] - both[1][0]).cpu().numpy(), float(both[0][1] - both[1][1])


def _top(logits: Tensor, own: Tensor, answer: int | None, readout: LinearReadout) -> Tensor:
    return logits.argmax(-1)


def _rank(logits: Tensor, own: Tensor, answer: int | None, readout: LinearReadout) -> Tensor:
    return (logits > logits[:, answer, None]).sum(-1)


def _kl(logits: Tensor, own: Tensor, answer: int | None, readout: LinearReadout) -> Tensor:
    log_p = torch.log_softmax(readout.finish(own), -1)
    log_q = torch.log_softmax(readout.finish(logits), -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)
