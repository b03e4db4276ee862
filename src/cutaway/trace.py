"""One run with every site addressable.

A run keeps the residual stream between blocks and the arguments with which the model called each block. Any site
inside a block is computed when it is asked for, by calling that block again on what entered it: memory follows the
request, and the numbers are those of the run. Where a block cannot be called alone (the certificate says so), the whole
model runs again instead. Many prompts run in parts of a stated number of tokens, so that only what is kept grows with
their number; what that takes is known before anything runs, and refused above a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import BadInput
from .finite import named, require_finite
from .parts import at_once, in_parts, logits_at_once, out_of_memory, slices
from .passes import Key, Pass
from .places import check_site, count_numbers, position_axes
from .prompts import Prompts, Read
from .sites import Place, parse_place
from .sites import site as find_site
from .taps import Tap
from .wording import memory

if TYPE_CHECKING:
    from .model import Model

LIMIT = 8 * 2**30
"""Bytes a trace may hold, unless it is told otherwise."""

Edits = Callable[[Sequence[int]], Tap]
"""The tap that makes an edit in the run of some prompts."""


class Trace:
    """The activations of one run. `trace["z", 3]`, `trace["resid_post"]`, `trace["L9H6.z@END"]`, `trace.logits`.

    Tensors have the axes of the site table (`cutaway.sites.SITES`), with a leading layer axis when no layer is given.
    At padded positions they hold NaN, so that padding cannot enter a result unnoticed.
    """

    def __init__(
        self,
        model: Model,
        prompts: Prompts,
        sites: Iterable[str] = (),
        edits: Edits | None = None,
        limit: int = LIMIT,
        sources: int = 0,
    ) -> None:
        self.model, self.prompts, self.limit = model, prompts, limit
        self.anatomy = model.look_at_weights()
        self._edits = edits
        self.edited = edits is not None
        self._kept: dict[Key, Tensor] = {}
        self._stream: list[Tensor] = []  # resid_pre of every layer, then resid_post of the last
        self._passes: list[Pass] = []
        wanted = list(dict.fromkeys(key for name in sites for key in self._keys(name)))
        self.holds = self.planned(model, prompts, edited=edits is not None, sources=sources)
        self._allow(wanted, "with " + ", ".join(sites) if wanted else "")
        self._begin(wanted)

    @staticmethod
    def planned(
        model: Model, prompts: Prompts, sites: Iterable[Key] = (), edited: bool = False, sources: int = 0
    ) -> int:
        """Bytes that a trace of these prompts holds: the stream between blocks, and the sites (name, layer) it keeps.

        `edited`: made with an edit, whose own base run and runs of `sources` are held as well.
        """
        n, t = prompts.ids.shape
        runs = 2 + sources if edited else 1
        kept = sum(count_numbers(model, name, layer, n, t) for name, layer in sites)
        return model.dtype.itemsize * (runs * n * t * (model.n_layers + 1) * model.d_model + kept)

    def _allow(self, keys: Iterable[Key], what: str) -> None:
        """Count more sites as held.

        Raises:
            BadInput: that is more than the limit; the message says how much, and what to do.
        """
        n, t = self.prompts.ids.shape
        more = self.model.dtype.itemsize * sum(count_numbers(self.model, *key, n, t) for key in keys)
        if self.holds + more > self.limit:
            raise BadInput(
                f"A trace of {n:,} prompts x {t:,} tokens{f' {what}' if what else ''} would hold about "
                f"{memory(self.holds + more)}, more than its limit of {memory(self.limit)}. Analyse the prompts in "
                "parts with model.over(prompts, analysis), trace fewer of them, or raise limit=."
            )
        self.holds += more

    def _begin(self, wanted: list[Key]) -> None:
        """Run the prompts in parts, and keep the stream and the wanted sites of all of them as whole tensors."""
        size = at_once(self.prompts)
        if ("logits", None) in wanted:
            size = min(size, self._with_logits)

        def run(some: list[int]) -> tuple[Pass, dict[Key, Tensor]]:
            one = self._pass(some)
            sites = one.forward(wanted, keep=True)
            require_finite(self.model, one.prompts, one.stream[-1], edit=one.edit)
            return one, sites

        for _, (one, sites) in in_parts(len(self.prompts), size, run):
            for depth, x in enumerate(one.stream):
                if depth == len(self._stream):
                    self._stream.append(self._room(x, [1]))
                _put(self._stream[depth], x, one.rows, [1])
            one.stream = [x[one.rows, : one.prompts.n_positions] for x in self._stream]
            self._passes.append(one)
            self._gather(self._kept, sites, one.rows)

    @property
    def _with_logits(self) -> int:
        """Prompts at once where all their logits are made."""
        return logits_at_once(self.prompts.n_positions * self.model.vocab_size)

    def _pass(self, some: list[int]) -> Pass:
        edit = None if self._edits is None else self._edits(some)
        return Pass(self.model, self.prompts.part(some), some, edit)

    def _room(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        """A tensor for all prompts, like that of some; itself, if these are all. `dims` are its axes of positions."""
        shape = [self.prompts.n_positions if d in dims else n for d, n in enumerate(x.shape)]
        shape[0] = len(self.prompts)
        return x if list(x.shape) == shape else x.new_zeros(shape)

    def _gather(self, kept: dict[Key, Tensor], found: dict[Key, Tensor], rows: slice) -> None:
        """Put the sites of some prompts among those of all."""
        for key, x in found.items():
            dims = position_axes(key[0])
            if key not in kept:
                kept[key] = self._room(x, dims)
            _put(kept[key], x, rows, dims)

    # -- what one asks for ----------------------------------------------------------------------------------------

    def __getitem__(self, what: str | tuple[Any, ...]) -> Tensor:
        """An activation by site, `site, layer`, or written place.

        Raises:
            BadInput: no such site, layer, head, role or position.
            Refused: the site rests on something this model is not certified for.
        """
        name, *rest = what if isinstance(what, tuple) else (what,)
        place = parse_place(name)
        if rest:
            place = Place(place.site, int(rest[0]), place.head, place.at)
        site = find_site(place.site)
        if place.layer is None and site.per_layer:
            self._compute_layers(site.name)
            tensors = [self._one(Place(site.name, layer, None, place.at)) for layer in range(self.model.n_layers)]
            return torch.stack([t.to(tensors[0].device) for t in tensors])
        return self._one(place)

    @property
    def logits(self) -> Tensor:
        """The model's own logits [prompt, position, vocab].

        Raises:
            NotFinite: NaN or infinity arose behind the last block.
        """
        return self["logits"]

    def logits_at(self, read: Read) -> Tensor:  # [prompt, vocab]
        """The model's logits at one position of each prompt, by what it has after its last block.

        All of them at once: with many prompts, `each_logits` gives some at a time.
        """
        return torch.cat([logits for _, logits in self.each_logits(self.prompts.at(read))])

    def each_logits(self, positions: Tensor, prompts: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The model's logits [n, vocab] at some tokens, a bounded number of them at a time, with which these are.

        Args:
            positions: [token], one in each prompt, or with `prompts` any.
            prompts: [token], the prompt of each.
        """
        which = torch.arange(len(self.prompts)) if prompts is None else prompts
        own = None if self.model.reads_stream else self._raw("logits", None)
        whole = self._stream[-1] if own is None else own
        for some in slices(len(positions), logits_at_once(self.model.vocab_size)):
            of = which[some].tolist()
            rows = whole[which[some].to(whole.device), positions[some].to(whole.device)]
            if own is None:
                with torch.no_grad():
                    rows = self.model.read(rows, lambda i, of=of: named(self.prompts, of[i]))  # type: ignore[misc]
            yield some, rows

    def rows(self, site: str, layer: int | None, positions: Tensor) -> Tensor:
        """One position of each prompt: [prompt, ...]. Of a site that is not held, only these are kept."""
        if layer is None:
            raw = self._raw(site, layer)
            return raw[torch.arange(len(raw), device=raw.device), positions.to(raw.device)]
        return self.rows_of(layer, [site], positions)[site]

    def rows_of(self, layer: int, sites: Sequence[str], positions: Tensor) -> dict[str, Tensor]:
        """One position (of a pattern: query) of each prompt, of several sites of one layer: [prompt, ...] each."""
        found: dict[str, list[Tensor]] = {name: [] for name in sites}
        for some, seen in self.each(layer, sites):
            at = positions[some]
            for name, x in seen.items():
                dim = position_axes(name)[0]
                row = x.movedim(dim, 1)[torch.arange(len(x), device=x.device), at.to(x.device)]
                missing = self.prompts.n_positions - row.shape[-1] if name == "pattern" else 0
                found[name].append(torch.nn.functional.pad(row, (0, missing)) if missing else row)
        return {name: torch.cat(rows) for name, rows in found.items()}

    def each(self, layer: int, sites: Iterable[str]) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Several sites of one layer, computed together for some prompts at a time and not kept.

        Yields which prompts, and each site as [prompt, position, ...], as long as the longest of these; padding is not
        marked.
        """
        sites = list(sites)
        for name in sites:
            check_site(self.model, name, layer)
        for one in self._passes:
            have = {name: self._held(name, layer, one) for name in sites}
            missing: list[Key] = [(name, layer) for name, tensor in have.items() if tensor is None]
            if not missing:
                yield one.rows, {name: x for name, x in have.items() if x is not None}
                continue
            for part, found in self._recompute(one, layer, missing):
                held = {name: self._held(name, layer, part) for name in sites}
                yield part.rows, {name: found[name, layer] if x is None else x for name, x in held.items()}

    def block(self, layer: int, sites: Iterable[str]) -> dict[str, Tensor]:
        """Several sites of one layer at once, computed together and not kept (padding is not marked in them)."""
        sites = list(sites)
        held = {name: self._held(name, layer) for name in sites}
        if all(x is not None for x in held.values()):
            for name in sites:
                check_site(self.model, name, layer)
            return {name: x for name, x in held.items() if x is not None}
        whole: dict[Key, Tensor] = {}
        for rows, found in self.each(layer, sites):
            self._gather(whole, {(name, layer): x for name, x in found.items()}, rows)
        return {name: whole[name, layer] for name in sites}

    # -- how it is found ------------------------------------------------------------------------------------------

    def _keys(self, name: str) -> list[Key]:
        place = parse_place(name)
        site = find_site(place.site)
        layers: Iterable[int | None] = [None]
        if site.per_layer:
            layers = range(self.model.n_layers) if place.layer is None else [place.layer]
        for layer in layers:
            check_site(self.model, site.name, layer)
        return [(site.name, layer) for layer in layers]

    def _compute_layers(self, name: str) -> None:
        """All layers of a site: one more block call each, or one more run where blocks cannot be called alone."""
        missing = [key for key in self._keys(name) if key not in self._kept and self._streamed(*key) is None]
        self._allow(missing, f"and its {name}")
        if any(layer is not None and not self._replays(layer) for _, layer in missing):
            self._run(missing)
        for key in missing:
            self._raw(*key, counted=True)

    def _one(self, place: Place) -> Tensor:
        check_site(self.model, place.site, place.layer)
        tensor = self._masked(find_site(place.site).axes, self._raw(place.site, place.layer))
        axes = list(find_site(place.site).axes)
        if place.head is not None:
            axis = "head" if "head" in axes else "kv_head"
            dim = axes.index(axis)
            if place.head >= tensor.shape[dim]:
                raise BadInput(
                    f"{place}: layer {place.layer} has {axis.replace('_', ' ')}s 0 to {tensor.shape[dim] - 1}."
                )
            tensor = tensor.select(dim, place.head)
            axes.pop(dim)
        if place.at is not None:
            where = self.prompts.at(place.at).to(tensor.device)
            dim = axes.index("position") if "position" in axes else axes.index("query")
            tensor = tensor.movedim(dim, 1)[torch.arange(len(tensor), device=tensor.device), where]
        return tensor

    def _streamed(self, site: str, layer: int | None) -> Tensor | None:
        if site == "embed":
            return self._stream[0]
        if site == "resid_pre" and layer is not None:
            return self._stream[layer]
        if site == "resid_post" and layer is not None:
            return self._stream[layer + 1]
        return None

    def _held(self, site: str, layer: int | None, one: Pass | None = None) -> Tensor | None:
        """What needs no computing, of all prompts or of a part of them."""
        whole = self._streamed(site, layer)
        whole = self._kept.get((site, layer)) if whole is None else whole
        if whole is None or one is None:
            return whole
        part = whole[one.rows]
        for d in position_axes(site):
            part = part.narrow(d, 0, one.prompts.n_positions)
        return part

    def _raw(self, site: str, layer: int | None, counted: bool = False) -> Tensor:
        held = self._held(site, layer)
        if held is not None:
            return held
        if not counted:
            self._allow([(site, layer)], f"and its {site}")
        if layer is None:
            self._run([(site, None)])
        else:
            self._kept[site, layer] = self.block(layer, [site])[site]
        return self._kept[site, layer]

    def _replays(self, layer: int) -> bool:
        return self.model.certificate.refusal(("replay",), layer) is None

    def _recompute(self, one: Pass, layer: int, keys: list[Key]) -> Iterator[tuple[Pass, dict[Key, Tensor]]]:
        """Sites of a layer for the prompts of one pass; where they do not fit in memory together, in smaller parts."""
        found: dict[Key, Tensor] | None = None
        try:
            found = one.block(layer, [name for name, _ in keys]) if self._replays(layer) else one.forward(keys)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(one.index) == 1:
                raise
        if found is not None:
            yield one, found
            return
        yield from self._forwards(one.index, len(one.index) // 2, keys)

    def _forwards(self, index: Sequence[int], size: int, keys: list[Key]) -> Iterator[tuple[Pass, dict[Key, Tensor]]]:
        """Whole forwards of some prompts, so many at a time, with some sites recorded and nothing else kept."""

        def run(some: list[int]) -> tuple[Pass, dict[Key, Tensor]]:
            part = self._pass([index[i] for i in some])
            return part, part.forward(keys)

        for _, made in in_parts(len(index), size, run):
            yield made

    def _run(self, wanted: list[Key]) -> None:
        """Whole forwards of all prompts, for what no single block can tell."""
        size = self._with_logits if ("logits", None) in wanted else len(self.prompts)
        for one in self._passes:
            for part, found in self._forwards(one.index, min(size, len(one.index)), wanted):
                self._gather(self._kept, found, part.rows)

    def _masked(self, axes: tuple[str, ...], x: Tensor) -> Tensor:
        """NaN where a position or query is padding."""
        if not self.prompts.ragged:
            return x
        dim = axes.index("position") if "position" in axes else axes.index("query")
        shape = [1] * x.dim()
        shape[0], shape[dim] = x.shape[0], x.shape[dim]
        return x.masked_fill(~self.prompts.mask.to(x.device).reshape(shape), torch.nan)

    def __repr__(self) -> str:
        kept = sorted({site for site, _ in self._kept})
        return (
            f"Trace({self.model.name}, {len(self.prompts)} prompts x {self.prompts.n_positions} positions, "
            f"{self.model.n_layers} layers{', kept: ' + ', '.join(kept) if kept else ''})"
        )


def _put(whole: Tensor, x: Tensor, rows: slice, dims: Sequence[int]) -> None:
    """Some prompts' values in their place; shorter ones leave padding as it is."""
    if whole is not x:
        room = whole[rows]
        for d in dims:
            room = room.narrow(d, 0, x.shape[d])
        room.copy_(x)


__all__ = ["LIMIT", "Trace"]
