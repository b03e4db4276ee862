"""NaN and infinity found and named: the first site, layer, position and prompt where they appear, and the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .anatomy import not_finite_weights, steady
from .errors import BadInput, Refused
from .hooks import Hooks
from .places import check_site
from .prompts import Prompts
from .sites import SITES
from .taps import Both, Tap, attach
from .wording import prose

if TYPE_CHECKING:
    from .model import Model
    from .weights import Weights

LEFT_OUT = ("pattern", "logits")
"""Sites that are not watched: a pattern is at most 1, and logits come last."""


class NotFinite(BadInput):
    """NaN or infinity in a run. `cell`: of the grid, where it came with an edit."""

    def __init__(self, message: str, cell: int | None = None) -> None:
        super().__init__(message)
        self.cell = cell


@dataclass(frozen=True)
class Seen:
    """Where something was first seen, and what."""

    site: str
    layer: int | None
    position: int
    value: float


class _Watch:
    """A tap that remembers where a prompt's first NaN or infinity was."""

    def __init__(self, sites: frozenset[tuple[str, int | None]], row: int, length: int) -> None:
        self.sites, self.row, self.length = sites, row, length
        self.seen: Seen | None = None

    def wants(self, site: str, layer: int | None) -> bool:
        return (site, layer) in self.sites

    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
        if self.seen is None:
            mine = value[self.row, : self.length].flatten(1)
            bad = (~torch.isfinite(mine)).nonzero()
            if len(bad):
                at, inside = bad[0].tolist()
                self.seen = Seen(site, layer, at, float(mine[at, inside]))
        return value


def all_finite(x: Tensor) -> bool:
    """One pass over it, and nothing as large beside it; a second look where finite numbers add up to infinity."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def require_finite(
    model: Model,
    prompts: Prompts,
    left: Tensor,
    what: str = "Prompt",
    edit: Tap | None = None,
) -> None:
    """Pass if what left the last block [prompt, position, d_model] is finite at every real token.

    Args:
        what: how a prompt is called.
        edit: what was made in their run.

    Raises:
        NotFinite: it is not; the message names the prompt and the first place.
    """
    if all_finite(left):
        return
    real = prompts.mask.to(left.device)
    bad = (~torch.isfinite(left[:, : real.shape[1]])).any(-1) & real
    if bool(bad.any()):
        row = int(bad.any(1).int().argmax())
        seen = first_place(model, prompts, row, edit)
        raise not_finite(model, prompts, row, seen, what, edit)


def require_finite_site(
    model: Model, prompts: Prompts, site: str, layer: int | None, value: Tensor, at: Tensor | None = None
) -> None:
    """Pass if a site is finite at every real token, [prompt, position, ...], or at the positions `at`, [prompt, ...].

    Raises:
        NotFinite: it is not; the message names the prompt, the site and the position.
    """
    if all_finite(value):
        return
    real = prompts.mask.to(value.device)
    bad = ~torch.isfinite(value).flatten(1 if at is not None else 2).all(-1)
    bad = bad[:, : real.shape[1]] & real if at is None else bad[:, None]
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        here = value[row, column] if at is None else value[row]
        seen = Seen(site, layer, column if at is None else int(at[row]), float(here[~torch.isfinite(here)][0]))
        raise not_finite(model, prompts, row, seen)


def require_finite_states(model: Model, states: Tensor, who: Callable[[int], str]) -> None:
    """Pass if states that are read, [n, d_model], are finite.

    Raises:
        NotFinite: they are not; the message says who.
    """
    if all_finite(states):
        return
    row = int((~torch.isfinite(states)).any(-1).int().argmax())
    value = states[row][~torch.isfinite(states[row])][0]
    raise NotFinite(f"{who(row)}: there is {_kind(float(value))} in the state that is read.{_cause(model, True)}")


def require_finite_weights(model: Weights, what: str, value: Tensor) -> None:
    """Pass if what was made of weights alone is finite.

    Raises:
        NotFinite: it is not; the message names the weights.
    """
    if not all_finite(value):
        kind = _kind(float(value[~torch.isfinite(value)][0]))
        raise NotFinite(f"There is {kind} in {what}.{_cause(model, False)}")


def not_finite(
    model: Model,
    prompts: Prompts,
    row: int,
    seen: Seen | None,
    what: str = "Prompt",
    edit: Tap | None = None,
    cell: int | None = None,
) -> NotFinite:
    """The error to raise for the `row`-th prompt here. `edit`: made in its run."""
    who = named(prompts, row, what)
    if seen is None:
        said = f"{who} leaves NaN or infinity after the last block, and a run of its own does not show where first."
    else:
        place = seen.site if seen.layer is None else f"L{seen.layer}.{seen.site}"
        said = f"{who}: {_kind(seen.value)} first appears in {place} at position {seen.position}."
    return NotFinite(said + _cause(model, edit is not None), cell)


def named(prompts: Prompts, row: int, what: str = "Prompt") -> str:
    """How a message calls a prompt, the `row`-th here."""
    return f"{what} {prompts.number(row)} (“{prose(prompts.texts[row], 60)}”)"


def require_finite_logits(model: Model, logits: Tensor, who: Callable[[int], str], rows: Tensor | None = None) -> None:
    """Pass if logits [..., n] are finite: nothing behind the last block made NaN or infinity.

    Args:
        who: what is read, by its index among the leading axes.
        rows: the stream that was read, [..., d_model]; where that is not finite, something else has said so.

    Raises:
        NotFinite: they are not; the message says who, where it began and why.
    """
    if all_finite(logits):
        return
    flat = logits.detach().flatten(0, -2)
    bad = (~torch.isfinite(flat)).any(-1)
    if rows is not None:
        rows = rows.detach().flatten(0, -2)
        bad &= torch.isfinite(rows).all(-1).to(bad.device)
    if not bool(bad.any()):
        return
    row = int(bad.int().argmax())
    value = flat[row][~torch.isfinite(flat[row])][0]
    norm = model.anatomy.final_norm
    place = "logits"
    if rows is not None and norm is not None and norm.module is not None and not all_finite(norm.module(rows[row])):
        place = "final_norm"
    raise NotFinite(f"{who(row)}: {_kind(float(value))} first appears in {place}.{_cause(model, False)}")


def _kind(value: float) -> str:
    return "NaN" if value != value else "infinity"


def _cause(model: Weights, edited: bool) -> str:
    weights = not_finite_weights(model.hf)
    if weights:
        return f" These weights are not finite: {', '.join(weights)}. Get a whole copy of the model."
    if model.dtype.itemsize < 4:
        most = torch.finfo(model.dtype).max
        name = str(model.dtype).removeprefix("torch.")
        return (
            f" All weights are finite: {name} overflows, it holds at most {most:.5g}. Load the model in float32 or "
            "bfloat16."
        )
    if edited:
        return " All weights are finite, and so is the unedited run: look at what the edit puts there."
    return " All weights are finite."


def first_place(model: Model, prompts: Prompts, row: int, edit: Tap | None = None) -> Seen | None:
    """Where NaN or infinity first appears in a prompt, found by one whole run; None if it does not."""
    allowed = set()
    for site in SITES.values():
        for layer in range(model.n_layers) if site.per_layer else [None]:
            try:
                check_site(model, site.name, layer)
            except (Refused, BadInput):
                continue
            allowed.add((site.name, layer))
    some = frozenset(key for key in allowed if key[0] not in LEFT_OUT)
    stream = frozenset(key for key in some if key[0] in ("embed", "resid_pre", "resid_post", "final_norm"))
    for sites in (some, stream):  # where attention cannot be watched, the stream can
        watch = _Watch(sites, row, int(prompts.lengths[row]))
        try:
            with steady(model.hf), Hooks() as hooks:
                tap = watch if edit is None else Both(edit, watch)
                with attach(hooks, model.anatomy, tap):
                    model.forward(prompts, all_logits=False)
        except (RuntimeError, Refused):
            continue
        return watch.seen
    return None
