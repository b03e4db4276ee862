"""Recording a run that begins like the base: only from where their tokens part, behind the base's keys and values."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..anatomy import steady
from ..calls import Behind, BlockCall, Enough, capture, leaves, lookup
from ..hooks import Hooks, first_tensor
from ..prompts import Prompts
from ..taps import Recorder, attach
from .activations import quicken_activation
from .packing import pack, tokens
from .runs import Key, Run, inner

if TYPE_CHECKING:
    from ..model import Model


def parting(base: Prompts, other: Prompts) -> int:
    """The first position at which any prompt of `other` differs from that of `base`; 0 where they do not line up."""
    if base.ids.shape != other.ids.shape or not torch.equal(base.lengths, other.lengths):
        return 0
    differs = (base.ids != other.ids).any(0)
    return int(differs.int().argmax()) if bool(differs.any()) else base.n_positions


def recorded_tokens(base: Prompts, sources: Iterable[Prompts], following: bool) -> int:
    """Tokens that are run to record the base and its sources; `following`: those alike are run from where they part."""
    starts = [parting(base, s) if following else 0 for s in sources]
    return int(sum((base.lengths - start).clamp_min(0).sum() for start in (0, *starts)))


def recorded_together(base: Prompts, sources: Iterable[Prompts], following: bool) -> int:
    """Runs that are recorded in one forward: the base's, and those of sources that are not run from where they part."""
    return 1 + sum(not (following and parting(base, s)) for s in sources)


def follow(model: Model, base: Run, other: Prompts, start: int, wanted: Iterable[Key]) -> Run | None:
    """A run of prompts that equal the base's before `start`; the base was recorded with its calls, keys and values.

    None where the model's own code tells its first block more about these tokens than their embeddings: blocks cannot
    then be called as in the base's run.
    """
    recorder = Recorder(inner(wanted))
    width = other.n_positions
    if start == width:  # nothing differs
        return Run(list(base.stream), {key: base.sites[key] for key in recorder.wanted}, batch=base.batch)
    embedded = _embedded(model, base.calls[0], other)
    if embedded is None:
        return None
    stream = [embedded]
    packed = pack([start], width)
    whole = tokens(packed, len(other), base.batch, embedded.device)
    gathered: dict = {}
    x = embedded[:, start:]
    with steady(model.hf):
        for block, call, kept in zip(model.anatomy.blocks, base.calls, base.cache, strict=True):
            assert kept is not None
            behind = Behind(kept[0][:, :, :start], kept[1][:, :, :start])
            with Hooks() as hooks, attach(hooks, model.anatomy, recorder, [block]):
                quicken_activation(hooks, block, x.device)
                x = call.on(x, whole, behind, gathered)
            before = base.stream[block.layer + 1][:, :start]
            stream.append(torch.cat([before, x.detach().to(before.device)], dim=1))
    sites = {key: _joined(key[0], base.sites[key], value) for key, value in recorder.kept.items()}
    return Run(stream, sites, batch=base.batch)


def _joined(site: str, before: Tensor, new: Tensor) -> Tensor:
    """The base's part of an activation and the new one; keys and values come whole."""
    axis = 2 if site == "pattern" else 1
    missing = before.shape[axis] - new.shape[axis]
    return torch.cat([before.narrow(axis, 0, missing).to(new.device), new], dim=axis) if missing else new


def _embedded(model: Model, like: BlockCall, prompts: Prompts) -> Tensor | None:
    """What enters block 0, or None where that block is called with other arguments than `like`."""
    calls: list[BlockCall] = []

    def stop(module: nn.Module, args: tuple, kwargs: dict) -> Any:
        raise Enough

    with steady(model.hf), Hooks() as hooks, suppress(Enough):
        capture(hooks, model, calls)
        hooks.before(model.anatomy.blocks[0].module, stop)
        model.forward(prompts, all_logits=False)
    (call,) = calls
    if not _alike(like, call):
        return None
    x = first_tensor(call.args, call.kwargs)
    assert x is not None
    return x.detach()


def _alike(one: BlockCall, two: BlockCall) -> bool:
    """Whether two calls of a block differ in nothing but the stream."""
    streams = {id(first_tensor(call.args, call.kwargs)) for call in (one, two)}
    for path, value in leaves((one.args, one.kwargs)):
        other = lookup((two.args, two.kwargs), path)
        if isinstance(value, Tensor) and id(value) not in streams and not _equal(value, other):
            return False
    return True


def _equal(one: Tensor, two: Any) -> bool:
    return isinstance(two, Tensor) and one.shape == two.shape and torch.equal(one, two)
