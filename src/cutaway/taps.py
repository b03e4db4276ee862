"""Reading and writing sites as a model runs: where each site of the vocabulary is found on its modules.

A tap is asked at each site it wants: it gets the activation in the vocabulary's layout and returns what the run should
go on with (the same object: nothing is touched).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from .anatomy import Anatomy, Attention, Block, Write
from .attention_calls import AttentionWatch
from .hooks import Hooks, first_tensor, hidden, replace_first_tensor, with_hidden

ATTENTION_SITES = ("q", "k", "v", "pattern")


class Tap(Protocol):
    """What reads or edits a run."""

    def wants(self, site: str, layer: int | None) -> bool: ...
    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor: ...


class _Heads:
    """The visitor that shows a tap attention's inside, translated to the vocabulary's layouts."""

    def __init__(self, tap: Tap, blocks: Iterable[Block]) -> None:
        self.tap = tap
        self.kv = {b.layer: b.attention.n_kv_heads for b in blocks if b.attention}

    def needs_pattern(self, layer: int) -> bool:
        return self.tap.wants("pattern", layer)

    def scores(self, layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if self.tap.wants("q", layer):
            q = self._tapped("q", layer, q)
        if self.tap.wants("k", layer):
            k = self._grouped("k", layer, k)
        return q, k

    def values(self, layer: int, pattern: Tensor | None, v: Tensor) -> tuple[Tensor | None, Tensor]:
        if pattern is not None and self.tap.wants("pattern", layer):
            pattern = self.tap("pattern", layer, pattern)
        if self.tap.wants("v", layer):
            v = self._grouped("v", layer, v)
        return pattern, v

    def _tapped(self, site: str, layer: int, x: Tensor) -> Tensor:
        value = x.transpose(1, 2)  # [prompt, position, head, d]
        new = self.tap(site, layer, value)
        return x if new is value else new.transpose(1, 2)

    def _grouped(self, site: str, layer: int, x: Tensor) -> Tensor:
        """As `_tapped`, each kv head once although the family may have repeated it."""
        repeats = x.shape[1] // self.kv[layer]
        one = x[:, ::repeats] if repeats > 1 else x
        new = self._tapped(site, layer, one)
        return x if new is one else new.repeat_interleave(repeats, dim=1)


def attach(hooks: Hooks, anatomy: Anatomy, tap: Tap, blocks: Iterable[Block] | None = None) -> AbstractContextManager:
    """Put hooks for every site that `tap` wants on `blocks` (default: all, and the sites outside the blocks too).

    Returns the context in which the model must run (it watches attention where that is wanted).
    """
    chosen = list(anatomy.blocks if blocks is None else blocks)
    if blocks is None:
        _attach_ends(hooks, anatomy, tap)
    for block in chosen:
        _attach_block(hooks, block, tap)
    inside = [b for b in chosen if b.attention and any(tap.wants(s, b.layer) for s in ATTENTION_SITES)]
    if not inside:
        return nullcontext()
    watch = AttentionWatch(_Heads(tap, inside))
    for block in inside:
        assert block.attention is not None
        _attach_attention(hooks, block.layer, block.attention, watch)
    return watch


def _attach_ends(hooks: Hooks, anatomy: Anatomy, tap: Tap) -> None:
    if tap.wants("embed", None):
        _input_site(hooks, anatomy.blocks[0].module, "embed", None, tap)
    if tap.wants("final_norm", None):
        norm = anatomy.final_norm.module if anatomy.final_norm else None
        if norm is not None:
            _output_site(hooks, norm, "final_norm", None, tap)
        else:
            _input_site(hooks, anatomy.unembedding.linear.module, "final_norm", None, tap)


class _Entered:
    """What entered a block that runs: its shape, for families that flatten tokens inside, and its value."""

    def __init__(self, hooks: Hooks, block: Block) -> None:
        self.x: Tensor | None = None
        hooks.before(block.module, self._note)

    def _note(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.x = first_tensor(args, kwargs)

    @property
    def stream(self) -> Tensor:
        assert self.x is not None
        return self.x

    def by_position(self, x: Tensor) -> Tensor:
        """[prompt * position, d] as [prompt, position, d]."""
        return x.reshape(*self.stream.shape[:2], -1) if x.dim() == 2 else x


def _attach_block(hooks: Hooks, block: Block, tap: Tap) -> None:
    layer = block.layer
    if tap.wants("resid_pre", layer):
        _input_site(hooks, block.module, "resid_pre", layer, tap)
    entered = _Entered(hooks, block)
    if tap.wants("resid_post", layer):
        _output_site(hooks, block.module, "resid_post", layer, tap)
    attn, mlp = block.write("attn"), block.write("mlp")
    mid = tap.wants("resid_mid", layer) and block.parallel is False
    if attn is not None and (mid or tap.wants("attn_out", layer)):
        _write_site(hooks, block, attn, "attn_out", tap, entered, mid)
    if mlp is not None and tap.wants("mlp_out", layer):
        _write_site(hooks, block, mlp, "mlp_out", tap, entered, False)
    if block.mlp is not None:
        if tap.wants("mlp_act", layer):
            _input_site(hooks, block.mlp.down.module, "mlp_act", layer, tap, entered)
        if block.mlp.act is not None and tap.wants("mlp_pre", layer):
            _input_site(hooks, block.mlp.act, "mlp_pre", layer, tap, entered)
    if block.attention is not None and block.attention.out is not None and tap.wants("z", layer):
        _input_site(hooks, block.attention.out.module, "z", layer, tap, entered, block.attention.n_heads)


def _input_site(
    hooks: Hooks,
    module: nn.Module,
    site: str,
    layer: int | None,
    tap: Tap,
    entered: _Entered | None = None,
    heads: int | None = None,
) -> None:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> Any:
        x = first_tensor(args, kwargs)
        assert x is not None
        value = x if entered is None else entered.by_position(x)
        value = value if heads is None else value.unflatten(-1, (heads, -1))
        new = tap(site, layer, value)
        return None if new is value else replace_first_tensor(args, kwargs, new.reshape(x.shape))

    hooks.before(module, hook)


def _output_site(hooks: Hooks, module: nn.Module, site: str, layer: int | None, tap: Tap) -> None:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        value = hidden(output)
        new = tap(site, layer, value)
        return None if new is value else with_hidden(output, new)

    hooks.after(module, hook)


def _write_site(hooks: Hooks, block: Block, write: Write, site: str, tap: Tap, entered: _Entered, mid: bool) -> None:
    """A write, and with it `resid_mid`, which is the block's input plus this write."""

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        old = hidden(output)
        value = new = entered.by_position(write.value(old, args, kwargs))
        if tap.wants(site, block.layer):
            new = tap(site, block.layer, value)
        if mid:
            before = entered.stream.to(new.device)  # a model spread over devices moves it only inside the block
            stream = before + new
            changed = tap("resid_mid", block.layer, stream)
            if changed is not stream:
                new = changed - before
        return None if new is value else with_hidden(output, write.output(new.reshape(old.shape), args, kwargs))

    hooks.after(write.module, hook)


def _attach_attention(hooks: Hooks, layer: int, attention: Attention, watch: AttentionWatch) -> None:
    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = first_tensor(args, kwargs)
        assert x is not None
        watch.enter(layer, attention.plan, x.shape[0])

    def leave(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        watch.leave()

    hooks.before(attention.module, enter)
    hooks.after(attention.module, leave)


class Recorder:
    """A tap that keeps copies of what it is asked to keep, and changes nothing."""

    def __init__(self, wanted: Iterable[tuple[str, int | None]]) -> None:
        self.wanted = frozenset(wanted)
        self.kept: dict[tuple[str, int | None], Tensor] = {}

    def wants(self, site: str, layer: int | None) -> bool:
        return (site, layer) in self.wanted

    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
        self.kept[site, layer] = value.detach().clone()
        return value


class Both:
    """Two taps as one: the second sees what the first left."""

    def __init__(self, first: Tap, second: Tap) -> None:
        self.first, self.second = first, second

    def wants(self, site: str, layer: int | None) -> bool:
        return self.first.wants(site, layer) or self.second.wants(site, layer)

    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
        if self.first.wants(site, layer):
            value = self.first(site, layer, value)
        return self.second(site, layer, value) if self.second.wants(site, layer) else value


class Inside:
    """A tap without the stream's sites: where a block is called alone, the stream is given to it already changed."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def wants(self, site: str, layer: int | None) -> bool:
        return site not in ("resid_pre", "resid_post", "embed") and self.tap.wants(site, layer)

    def __call__(self, site: str, layer: int | None, value: Tensor) -> Tensor:
        return self.tap(site, layer, value)
