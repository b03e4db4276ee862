"""How variants enter the wave: at the start of a block, half-way into one, or behind it, where one write is added anew.

Half-way means that the block's attention is answered for: it puts out what it did in the base run, plus what an edit of
its heads changes, and the block's own code does the rest, for the changed tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..anatomy import Block, Linear
from ..calls import Keep, Tokens
from ..edits.cells import Change
from ..hooks import Hooks, hidden
from ..taps import Inside, attach
from .activations import quicken_activation
from .editing import EditTap, Slots, Task
from .packing import pack, slots
from .plan import Variant, beside

if TYPE_CHECKING:
    from .replay import Wave


def enter(wave: Wave, variants: Sequence[Variant]) -> list[Tensor]:
    """Where each variant starts, [prompt, position from its first on, d_model]; all enter before the same block."""
    stream = wave.runs.base.stream[variants[0].entry]
    halfway = [v for v in variants if v.inside and not v.adds]
    behind = iter(_halfway(wave, halfway) if halfway else [])
    parts = []
    for v in variants:
        if v in halfway:
            parts.append(next(behind))
        else:
            parts.append(_added(wave, v) if v.adds else stream[:, v.first : wave.end])
    return parts


def _added(wave: Wave, variant: Variant) -> Tensor:
    """The stream behind the block of the one change inside: what entered it, its other write, and the new one.

    Not the old stream plus a difference: of a write far larger than what stays, the rounding of its sum would stay too.
    """
    (change,) = variant.inside
    site, layer, here = change.site, change.layer, slice(variant.first, wave.end)
    base, block = wave.runs.base, wave.blocks[layer]
    tap = EditTap([Task(0, change)], slots(pack([variant.first], wave.end), len(wave.prompts)), wave.runs)
    new = tap(site, layer, base.site(site, layer)[:, here])
    if site == "z":
        assert block.attention is not None and block.attention.out is not None
        new = _written(block, "attn", block.attention.out, new.flatten(-2))
    elif site == "mlp_act":
        assert block.mlp is not None
        new = _written(block, "mlp", block.mlp.down, new)
    ((stays, _),) = beside([variant])
    old = base.stream[layer + 1][:, here]
    changed = torch.from_numpy(change.changed[wave.runs.chosen.numpy()][:, here]).to(old.device)
    entered, other = (x[:, here].to(old.device) for x in (base.stream[layer], base.site(stays, layer)))
    return torch.where(changed[..., None], entered + other + new.to(old.device), old)


def _written(block: Block, kind: str, linear: Linear, x: Tensor) -> Tensor:
    """What one of a block's writes adds to the stream, from what enters its linear map."""
    write = block.write(kind)
    assert write is not None
    y = hidden(linear.module(x))
    return y if write.scale == 1.0 else y * write.scale


def _by_heads(out: Linear, difference: Tensor, changes: Sequence[Change]) -> Tensor:
    """A difference of z [..., head, d_head] by the output projection's rows of the heads that some changes edit."""
    weight = out.weight.detach().to(difference.device).unflatten(0, difference.shape[-2:])  # [head, d_head, d_model]
    chosen = {h for c in changes for h in (c.heads or ())}
    if all(c.heads is not None for c in changes) and len(chosen) < len(weight):
        index = sorted(chosen)
        weight, difference = weight[index], difference[..., index, :]
    return difference.flatten(-2) @ weight.flatten(0, 1)


# -- half-way -------------------------------------------------------------------------------------------------------


def _halfway(wave: Wave, variants: Sequence[Variant]) -> list[Tensor]:
    """Variants that enter behind one block's attention, [prompt, position from its first on, d_model] behind it."""
    layer = variants[0].entry - 1
    block, base, call = wave.blocks[layer], wave.runs.base, wave.runs.base.calls[layer]
    position = _positions(wave, variants, only_reads=variants[0].entry == wave.n_layers)  # [variant, prompt, token]
    n, n_prompts, width = position.shape
    packed = np.maximum(position, 0).transpose(1, 0, 2).reshape(n_prompts, n * width)
    changes = [Task(i, change) for i, v in enumerate(variants) for change in v.inside]
    tap = EditTap(changes, _slots(position, wave.end), wave.runs)

    def here(x: Tensor) -> Tensor:  # [prompt, position, ...] -> [prompt, variant * token, ...]
        chosen = x[torch.arange(n_prompts, device=x.device)[:, None], torch.from_numpy(packed).to(x.device)]
        return chosen.contiguous()  # mixtures of experts view what they get

    x, answer = here(base.stream[layer]), here(base.answers[layer].value)
    assert block.attention is not None
    if tap.wants("z", layer):
        assert block.attention.out is not None
        old = here(base.site("z", layer))
        difference = (tap("z", layer, old) - old).unflatten(1, (n, width))
        added = [_by_heads(block.attention.out, difference[:, i], _of("z", v.inside)) for i, v in enumerate(variants)]
        answer = answer + torch.stack(added, 1).flatten(1, 2).to(answer.device)
    given = base.answers[layer].shaped(answer)
    with Hooks() as hooks, attach(hooks, wave.model.anatomy, Inside(tap), [block]):
        hooks.instead(block.attention.module, lambda *args, **kwargs: given)
        quicken_activation(hooks, block, x.device)
        y = call.on(x, _tokens(packed, base.batch, x.device), Keep(), {}).unflatten(1, (n, width))
    parts = []
    for i, v in enumerate(variants):
        start = base.stream[layer + 1][:, v.first : wave.end].clone()
        prompt, token = np.nonzero(position[i] >= 0)
        at = torch.from_numpy(position[i][prompt, token] - v.first).to(start.device)
        prompt_, token_ = torch.from_numpy(prompt), torch.from_numpy(token)
        start[prompt_.to(start.device), at] = y[prompt_.to(y.device), i, token_.to(y.device)].to(start.device)
        parts.append(start)
    return parts


def _of(site: str, changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.site == site]


def _positions(wave: Wave, variants: Sequence[Variant], only_reads: bool) -> np.ndarray:
    """The tokens each variant changes in its block, [variant, prompt, token]; -1 fills up."""
    tables = []
    for v in variants:
        reruns = v.reruns(wave.runs.chosen.numpy(), wave.end)
        if only_reads:
            read = np.zeros_like(reruns)
            read[np.arange(len(read))[:, None], wave.reads] = True
            reruns &= read
        tables.append(reruns)
    width = max(1, max(int(reruns.sum(1).max()) for reruns in tables))
    position = np.full((len(variants), len(wave.prompts), width), -1)
    for i, reruns in enumerate(tables):
        prompt, at = np.nonzero(reruns)
        position[i, prompt, reruns.cumsum(1)[prompt, at] - 1] = at
    return position


def _slots(position: np.ndarray, end: int) -> Slots:
    """Where the tokens lie when variants stand one after the other; nothing here has keys."""
    n, n_prompts, width = position.shape
    query = np.full((n, n_prompts, end), -1)
    variant, prompt, token = np.nonzero(position >= 0)
    query[variant, prompt, position[variant, prompt, token]] = variant * width + token
    row = np.broadcast_to(np.arange(n_prompts), (n, n_prompts))
    return Slots(row, query, np.full_like(query, -1), np.zeros(n, int))


def _tokens(position: np.ndarray, batch: int, device: torch.device) -> Tokens:
    """These tokens, each seeing itself: attention, which alone would care, is not asked."""
    at = torch.from_numpy(position).to(device)
    itself = torch.eye(at.shape[1], dtype=torch.bool, device=device).expand(len(at), -1, -1)
    return Tokens(torch.arange(len(at), device=device), at, at, itself, batch)
