"""What is kept of a run: the stream, the sites that were asked for, how the blocks were called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..calls import BlockCall
from ..edits.operations import Reference
from ..hooks import with_hidden
from ..prompts import Prompts

Key = tuple[str, int | None]


@dataclass
class Answer:
    """What an attention module put out: its tensor [prompt, position, d], and the form it came in."""

    value: Tensor
    form: Any
    flat: bool  # prompts and positions are one axis

    def shaped(self, value: Tensor) -> Any:
        """Another value [prompt, token, d] in that form."""
        return with_hidden(self.form, value.flatten(0, 1) if self.flat else value)


@dataclass
class Run:
    """One run of some prompts. `stream[l]` is what entered block l, `stream[n_layers]` what left the last one."""

    stream: list[Tensor]
    sites: dict[Key, Tensor]
    calls: list[BlockCall] = field(default_factory=list)
    cache: list[tuple[Tensor, Tensor] | None] = field(default_factory=list)  # keys and values of each layer
    answers: dict[int, Answer] = field(default_factory=dict)  # of the attention modules that were asked for
    batch: int = 0  # prompts in the forward that the calls were captured from
    logits: Tensor | None = None  # of a model whose stream cannot be read alone

    @property
    def left(self) -> Tensor:
        """What metrics read, [prompt, position, ...]: the stream after the last block, or the logits."""
        return self.stream[-1] if self.logits is None else self.logits

    def site(self, name: str, layer: int) -> Tensor:
        """A recorded activation [prompt, position, ...] ([prompt, head, query, key] of a pattern)."""
        if name in ("resid_pre", "embed"):
            return self.stream[0 if name == "embed" else layer]
        if name == "resid_post":
            return self.stream[layer + 1]
        return self.sites[name, layer if name != "final_norm" else None]


def inner(wanted: Iterable[Key]) -> list[Key]:
    """Those of the wanted sites that are not the stream between blocks, which is always kept."""
    return [key for key in wanted if key[0] not in ("embed", "resid_pre", "resid_post")]


@dataclass
class Recorded:
    """Everything recorded for one group of prompts: what operations ask for (see `operations.Runs`)."""

    base: Run
    sources: dict[int, Run]  # by the identity of the whole source prompts
    tables: Mapping[tuple[int, str, int | None], Tensor]  # means, by the identity of their reference
    chosen: Tensor  # [prompt] the group, as indices into all base prompts

    def of(self, prompts: Prompts, site: str, layer: int) -> Tensor:
        value = self.sources[id(prompts)].site(site, layer)
        return value.transpose(1, 2) if site == "pattern" else value

    def means(self, reference: Prompts, keys: Reference, site: str, layer: int) -> Tensor:
        return self.tables[id(keys), site, layer if site != "final_norm" else None]

    def old(self, site: str, layer: int) -> Tensor:
        """The base's activation with position as second axis, [prompt, position, ...]."""
        value = self.base.site(site, layer)
        return value.transpose(1, 2) if site == "pattern" else value
