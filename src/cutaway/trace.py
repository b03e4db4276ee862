"""One forward with every site addressable.

The forward keeps the residual stream between blocks and the arguments with which the model called each block. Any site
inside a block is computed when it is asked for, by calling that block again on what entered it: memory follows the
request, and the numbers are those of the run. Where a block cannot be called alone (the certificate says so), the whole
model runs again instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .anatomy import steady
from .calls import BlockCall
from .errors import BadInput, Refused
from .finite import named, require_finite, require_finite_logits
from .hooks import Hooks, hidden
from .prompts import Prompts, Read
from .sites import Place, parse_place
from .sites import site as find_site
from .taps import Both, Inside, Recorder, Tap, attach

if TYPE_CHECKING:
    from .model import Model

Key = tuple[str, int | None]


def check_site(model: Model, name: str, layer: int | None) -> None:
    """Pass if a site exists in a layer of this model and is certified.

    Raises:
        BadInput: there is no such site or layer.
        Refused: the site rests on something this model is not certified for, or has none of.
    """
    site = find_site(name)
    if site.per_layer and (layer is None or not 0 <= layer < model.n_layers):
        raise BadInput(f"There is no layer {layer}: {model.name} has layers 0 to {model.n_layers - 1}.")
    model.certificate.require(f"{name} of layer {layer}", site.needs, layer)
    if not site.per_layer or layer is None:
        return
    block = model.anatomy.blocks[layer]
    if name == "resid_mid" and block.parallel is not False:
        raise Refused(
            f"resid_mid does not exist in layer {layer} of {model.name}: its attention and MLP both read "
            "resid_pre and are added together. Use resid_pre, attn_out or resid_post."
        )
    if name in ("attn_out", "mlp_out") and block.write(name[:-4]) is None:
        kinds = ", ".join(w.kind for w in block.writes)
        raise Refused(f"{name} does not exist in layer {layer} of {model.name}, whose writes are: {kinds}.")


class Trace:
    """The activations of one run. `trace["z", 3]`, `trace["resid_post"]`, `trace["L9H6.z@END"]`, `trace.logits`.

    Tensors have the axes of the site table (`cutaway.sites.SITES`), with a leading layer axis when no layer is given.
    At padded positions they hold NaN, so that padding cannot enter a result unnoticed.
    """

    def __init__(self, model: Model, prompts: Prompts, sites: Iterable[str] = (), edit: Tap | None = None) -> None:
        self.model, self.prompts, self._edit = model, prompts, edit
        self.anatomy = model.anatomy
        self._kept: dict[Key, Tensor] = {}
        self._stream: list[Tensor] = []  # resid_pre of every layer, then resid_post of the last
        self._calls: list[BlockCall] = []
        wanted = [key for name in sites for key in self._keys(name)]
        self._run(wanted, keep_stream=True)
        self._require_finite()

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
        """The model's logits at one position of each prompt, by what it has after its last block."""
        if not self.model.reads_stream:
            return self.rows("logits", None, self.prompts.at(read))
        rows = self.rows("resid_post", self.model.n_layers - 1, self.prompts.at(read))
        with torch.no_grad():
            logits = self.model.read(rows)
            require_finite_logits(self.model, logits, partial(named, self.prompts), rows)
        return logits

    def rows(self, site: str, layer: int | None, positions: Tensor) -> Tensor:
        """One position of each prompt: [prompt, ...]."""
        raw = self._raw(site, layer)
        return raw[torch.arange(len(raw), device=raw.device), positions.to(raw.device)]

    def block(self, layer: int, sites: Iterable[str]) -> dict[str, Tensor]:
        """Several sites of one layer at once, computed together and not kept (padding is not marked in them)."""
        for name in sites:
            check_site(self.model, name, layer)
        have = {name: self._kept.get((name, layer), self._streamed(name, layer)) for name in sites}
        missing = [name for name, tensor in have.items() if tensor is None]
        found = self._recompute(layer, missing) if missing else {}
        return {name: tensor if tensor is not None else found[name, layer] for name, tensor in have.items()}

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
        if any(layer is not None and not self._replays(layer) for _, layer in missing):
            self._run(missing)

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

    def _raw(self, site: str, layer: int | None) -> Tensor:
        streamed = self._streamed(site, layer)
        if streamed is not None:
            return streamed
        if (site, layer) not in self._kept:
            if layer is None:
                self._run([(site, None)])
            else:
                self._kept.update(self._recompute(layer, [site]))
        return self._kept[site, layer]

    def _replays(self, layer: int) -> bool:
        return self.model.certificate.refusal(("replay",), layer) is None

    def _recompute(self, layer: int, sites: Iterable[str]) -> dict[Key, Tensor]:
        keys = [(name, layer) for name in sites]
        if not self._replays(layer):
            return self._forward(keys)
        recorder = Recorder(keys)
        tap = recorder if self._edit is None else Both(Inside(self._edit), recorder)
        with (
            steady(self.model.hf),
            Hooks() as hooks,
            attach(hooks, self.anatomy, tap, [self.anatomy.blocks[layer]]),
        ):
            self._calls[layer](self._stream[layer])
        return recorder.kept

    def _require_finite(self) -> None:
        """NaN and infinity stay in the stream to its end, whatever made them."""
        require_finite(self.model, self.prompts, self._stream[-1], edit=self._edit)

    def _run(self, wanted: list[Key], keep_stream: bool = False) -> None:
        self._kept.update(self._forward(wanted, keep_stream))

    def _forward(self, wanted: Iterable[Key], keep_stream: bool = False) -> dict[Key, Tensor]:
        """One forward pass of the whole model, with the wanted sites recorded."""
        wanted = list(wanted)
        recorder = Recorder(key for key in wanted if key[0] != "logits")
        all_logits = len(recorder.wanted) < len(wanted)
        tap = recorder if self._edit is None else Both(self._edit, recorder)
        with steady(self.model.hf), Hooks() as hooks:
            watching = attach(hooks, self.anatomy, tap)
            if keep_stream:
                self._keep_stream(hooks)  # after the edits, so that the stream is the edited one
            with watching:
                logits = self.model.forward(self.prompts, all_logits)
        if all_logits:
            real = self.prompts.mask.to(logits.device)
            rows = self._stream[-1].to(logits.device)[real] if self._stream[-1].shape[:2] == real.shape else None
            who = self.prompts.mask.nonzero()[:, 0]
            require_finite_logits(self.model, logits[real], lambda i: named(self.prompts, int(who[i])), rows)
            recorder.kept["logits", None] = logits.detach()
        return recorder.kept

    def _keep_stream(self, hooks: Hooks) -> None:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
            self._stream.append(x.detach().clone())
            self._calls.append(BlockCall(module, args, kwargs))

        def last(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            self._stream.append(hidden(output).detach().clone())

        for block in self.anatomy.blocks:
            hooks.before(block.module, before)
        hooks.after(self.anatomy.blocks[-1].module, last)

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
