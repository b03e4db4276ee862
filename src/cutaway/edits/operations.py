"""What an edit does to the activations it reaches: replace, zero, average, add, or any function (`removals`: more).

An operation is asked for new values of single tokens: `new(old, here, prompt, position)` gets the old values [n, ...]
of n tokens with their prompt and position, and returns the new ones. It knows nothing of blocks, waves or packing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..prompts import Prompts

if TYPE_CHECKING:
    from .cells import Change

POINTWISE_AT_START = frozenset({"embed", "resid_pre", "q", "k", "v"})
"""Sites that in layer 0 depend on the token at their own position alone."""


class Runs(Protocol):
    """Recorded activations of the prompts that an operation named, for the prompts at hand."""

    def of(self, prompts: Prompts, site: str, layer: int) -> Tensor: ...  # [prompt, position, ...]
    def means(self, reference: Prompts, keys: Reference, site: str, layer: int) -> Tensor: ...  # [key, ...]

    @property
    def chosen(self) -> Tensor: ...  # [prompt] the prompts at hand, as indices into all of the sweep's


class Operation:
    """What happens to the tokens an edit reaches. `by_token`: tokens can be done one at a time."""

    by_token = True
    moves = False  # takes values from a position of another run

    @property
    def sources(self) -> tuple[Prompts, ...]:
        """Prompts whose activations are needed at the edited site, one for each prompt of the base."""
        return ()

    def check(self, site: str, layer: int, width: int | None) -> None:
        """Pass if it fits a site of this width (None: it has no fixed one).

        Raises:
            BadInput: it does not.
        """

    def changed(
        self, where: np.ndarray, change_at: str, layer: int, base: Prompts, origin: np.ndarray | None
    ) -> np.ndarray:
        """[prompt, position] of `where`, false where the new value is known to be the old one."""
        return where

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        """New values of n tokens, from old ones [n, ...]."""
        raise NotImplementedError

    def describe(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, eq=False)
class TakeFrom(Operation):
    """The value that another run has there (activation patching)."""

    source: Prompts
    name: str = "patch"
    moves = True

    @property
    def sources(self) -> tuple[Prompts, ...]:
        return (self.source,)

    def changed(
        self, where: np.ndarray, change_at: str, layer: int, base: Prompts, origin: np.ndarray | None
    ) -> np.ndarray:
        if origin is not None:
            return where
        width = min(base.n_positions, self.source.n_positions)
        differs = np.ones(where.shape, bool)
        differs[:, :width] = (base.ids[:, :width] != self.source.ids[:, :width]).numpy()
        if not (layer == 0 and change_at in POINTWISE_AT_START):
            differs = np.logical_or.accumulate(differs, axis=1)  # causal: a difference reaches every later position
        return where & differs

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        values = runs.of(self.source, change.site, change.layer)
        if change.origin is not None:
            origin = torch.as_tensor(change.origin)[runs.chosen].to(position.device)
            position = origin[prompt, position]
        return values[prompt.to(values.device), position.to(values.device)].to(old)

    def describe(self) -> str:
        return f"{self.name} from prompts {self.source.hash()}"


@dataclass(frozen=True)
class Zero(Operation):
    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        return torch.zeros_like(old)


@dataclass(frozen=True, eq=False)
class Reference:
    """Which reference tokens a token is averaged with: those with the same key.

    Args:
        by: any of `"position"` (index), `"role"` (the roles that name the position), `"template"` (the prompt's
            template, or its family where none is given). Nothing: all reference tokens alike.
    """

    prompts: Prompts
    by: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = set(self.by) - {"position", "role", "template"}
        if unknown:
            raise BadInput(f"A mean can be taken by position, role or template, not by {', '.join(sorted(unknown))}.")

    def keys(self, prompts: Prompts) -> Iterator[list[tuple]]:
        """The key of each real token, prompt by prompt."""
        templates = prompts.templates or prompts.families
        shared = [r for r in self.prompts.roles if r in prompts.roles]
        for i, length in enumerate(prompts.lengths.tolist()):
            roles: dict[int, list[str]] = {}
            for name in shared:
                roles.setdefault(int(prompts.roles[name][i]), []).append(name)
            parts = {
                "position": range(length),
                "role": [tuple(roles.get(t, ())) for t in range(length)],
                "template": [templates[i]] * length,
            }
            yield list(zip(*(parts[b] for b in self.by), strict=True)) if self.by else [()] * length

    def table(self) -> dict[tuple, int]:
        """Key -> row of the table of means."""
        every = (key for row in self.keys(self.prompts) for key in row)
        return {key: i for i, key in enumerate(dict.fromkeys(every))}

    def rows(self, prompts: Prompts, table: Mapping[tuple, int], n_positions: int) -> np.ndarray:
        """[prompt, position] row of the table of means; -1 at padding.

        Raises:
            BadInput: a token has no reference token with its key.
        """
        rows = np.full((len(prompts), n_positions), -1)
        for i, keys in enumerate(self.keys(prompts)):
            for t, key in enumerate(keys):
                rows[i, t] = table.get(key, -2)
        return rows


@dataclass(frozen=True, eq=False)
class Mean(Operation):
    """The mean over reference tokens with the same key (mean ablation)."""

    reference: Reference
    rows: np.ndarray  # [prompt, position] of the base, into the table of means

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        table = runs.means(self.reference.prompts, self.reference, change.site, change.layer)
        rows = torch.as_tensor(self.rows)[runs.chosen].to(prompt.device)[prompt, position]
        return table[rows.to(table.device)].to(old)

    def changed(
        self, where: np.ndarray, change_at: str, layer: int, base: Prompts, origin: np.ndarray | None
    ) -> np.ndarray:
        missing = np.argwhere(where & (self.rows == -2))
        if len(missing):
            i, t = missing[0]
            by = " and ".join(self.reference.by)
            raise BadInput(
                f"The reference prompts have no token with the same {by} as token {t} of prompt {i}, so there is no "
                "mean to put there. Average by less, or give a reference that covers it."
            )
        return where

    def describe(self) -> str:
        by = "+".join(self.reference.by) or "everything"
        return f"mean over prompts {self.reference.prompts.hash()} by {by}"


@dataclass(frozen=True, eq=False)
class Scaled(Operation):
    """scale * vector, to be added or put. `vector` [width] or [prompt, width]; `scale` a number; or one a layer."""

    vector: Tensor | Mapping[int, Tensor]
    scale: float | Mapping[int, float] = 1.0

    def check(self, site: str, layer: int, width: int | None) -> None:
        for what, given in (("vectors", self.vector), ("scales", self.scale)):
            if isinstance(given, Mapping) and layer not in given:
                known = ", ".join(map(str, given))
                raise BadInput(f"The {what} differ by layer and there is none for layer {layer} (given: {known}).")
        fits(site, layer, width, self.at(layer)[0], "A vector for")

    def check_prompts(self, n: int) -> None:
        """Pass if vectors that differ by prompt are one a prompt.

        Raises:
            BadInput: they are not.
        """
        every = self.vector.values() if isinstance(self.vector, Mapping) else [self.vector]
        for vector in every:
            if vector.dim() == 2 and len(vector) != n:
                raise BadInput(f"There are {n} prompts but a vector for each of {len(vector)}.")

    def at(self, layer: int) -> tuple[Tensor, float]:
        """The vector and the scale of a layer."""
        vector = self.vector[layer] if isinstance(self.vector, Mapping) else self.vector
        return vector, float(self.scale[layer] if isinstance(self.scale, Mapping) else self.scale)

    def amount(self, change: Change, prompt: Tensor, old: Tensor, runs: Runs) -> Tensor:
        """scale * vector for n tokens [n, width], or for all of them alike [width], in the dtype of `old`."""
        vector, scale = self.at(change.layer)
        wide = scale * vector.to(old.device, torch.promote_types(old.dtype, torch.float32))
        if vector.dim() == 2:
            wide = wide[runs.chosen.to(old.device)[prompt]]
            wide = wide.reshape(len(old), *(1,) * (old.dim() - 2), -1)  # the same for every head
        return wide.to(old.dtype)


@dataclass(frozen=True, eq=False)
class Add(Scaled):
    """old + scale * vector."""

    def changed(
        self, where: np.ndarray, change_at: str, layer: int, base: Prompts, origin: np.ndarray | None
    ) -> np.ndarray:
        vector, scale = self.at(layer)
        moves = (vector != 0).any(-1).cpu().numpy() & (scale != 0)  # [] or [prompt]
        return where & (moves[:, None] if moves.ndim else moves)

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        return old + self.amount(change, prompt, old, runs)


@dataclass(frozen=True, eq=False)
class Put(Scaled):
    """scale * vector in place of what was there."""

    def new(self, old: Tensor, change: Change, prompt: Tensor, position: Tensor, runs: Runs) -> Tensor:
        return self.amount(change, prompt, old, runs).expand_as(old)


@dataclass(frozen=True, eq=False)
class Function(Operation):
    """Any function of the whole activation of the site, in the vocabulary's layout."""

    function: Callable[[Tensor], Tensor]
    by_token = False

    def whole(self, old: Tensor, site: str) -> Tensor:
        """The function's answer, checked."""
        new = self.function(old.clone())
        if not isinstance(new, Tensor) or new.shape != old.shape:
            given = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise BadInput(f"An edit of {site} got a tensor of shape {tuple(old.shape)} and returned {given}.")
        return new.to(old)

    def describe(self) -> str:
        return getattr(self.function, "__name__", "function")


def fits(site: str, layer: int, width: int | None, vector: Tensor, what: str) -> None:
    """Pass if a vector, or rows of vectors, are as wide as a site (None: not known).

    Raises:
        BadInput: they are not.
    """
    if width is None and site == "pattern":
        raise BadInput(f"{what} {site} would have as many numbers as a prompt has keys. Use edit(...) for patterns.")
    if width is not None and (vector.dim() == 0 or vector.shape[-1] != width):
        raise BadInput(f"{what} {site} of layer {layer} has {width} numbers; this one has shape {tuple(vector.shape)}.")


def resampled(reference: Prompts, base: Prompts, seed: int, same: bool) -> Prompts:
    """A random prompt of `reference` for each of `base`, of the same length, never itself.

    Raises:
        BadInput: some prompt has no other of its length.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for i, length in enumerate(base.lengths.tolist()):
        fits = [j for j, n in enumerate(reference.lengths.tolist()) if n == length and not (same and j == i)]
        if not fits:
            raise BadInput(f"No prompt to resample from has the {length} tokens of prompt {i}.")
        chosen.append(int(generator.choice(fits)))
    return reference[chosen]


def unique(items: Iterable[Any]) -> list[Any]:
    """Each object once, by identity, in order."""
    return list({id(x): x for x in items}.values())


__all__ = [
    "Add", "Function", "Mean", "Operation", "Put", "Reference", "Runs", "Scaled", "TakeFrom", "Zero",
    "fits", "resampled", "unique",
]  # fmt: skip
