"""Which modules are the layers: the list whose members hand the residual stream from one to the next."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..hooks import Hooks, first_tensor, hidden


def find_blocks(model: nn.Module, ids: Tensor) -> list[tuple[str, nn.Module]]:
    """Names and modules of the layers, in order.

    Of all module lists, those count whose members were called once each, in order, each receiving bit for bit what the
    one before put out; the list with the most parameters is the decoder.

    Raises:
        Refused: no list of modules hands a stream on (an encoder-decoder, or a model that is not a stack of blocks).
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    members = {id(child): (name, i) for name, module in lists for i, child in enumerate(module)}
    seen: dict[str, list[tuple[int, Tensor | None, Tensor | None]]] = {name: [] for name, _ in lists}

    def note(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        name, i = members[id(module)]
        out = hidden(output)
        seen[name].append((i, inputs.pop(id(module)), out.clone() if isinstance(out, Tensor) else None))

    def note_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = first_tensor(args, kwargs)
        inputs[id(module)] = None if x is None else x.clone()

    inputs: dict[int, Tensor | None] = {}
    times = Counter(id(child) for _, module in lists for child in module)
    with Hooks() as hooks:
        for _, module in lists:
            for child in module:
                if times[id(child)] == 1:
                    hooks.before(child, note_input)
                    hooks.after(child, note)
        model(input_ids=ids, use_cache=False)

    chains = [(name, module) for name, module in lists if _hands_on(seen[name])]
    if not chains:
        raise Refused(
            "No stack of layers was found: in no module list does each member receive what the one before put out. "
            "Cutaway opens decoder-only models whose layers hand on one residual stream."
        )
    name, module = max(chains, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    called = len(seen[name])  # a configuration may use fewer layers than it holds
    return [(f"{name}.{i}", child) for i, child in enumerate(module) if i < called]


def _hands_on(calls: list[tuple[int, Tensor | None, Tensor | None]]) -> bool:
    if not calls or [i for i, _, _ in calls] != list(range(len(calls))):
        return False
    if any(x is None or y is None or x.shape != y.shape or not x.is_floating_point() for _, x, y in calls):
        return False
    links = itertools.pairwise(calls)
    return all(torch.equal(y, x.to(y.device)) for (_, _, y), (_, x, _) in links)  # type: ignore[arg-type,union-attr]
