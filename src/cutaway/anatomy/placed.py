"""Where a module's weights are, and the weights themselves where accelerate keeps them elsewhere between calls.

A model spread over devices may have its weights on disk or on the CPU until a module is called; between calls they are
on the `meta` device, which holds no numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def stored(module: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer of a module with its numbers, fetched if they are not in memory; None if it has none."""
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        return None
    if value.is_meta:
        from accelerate.utils import align_module_device  # who put the weights elsewhere

        with align_module_device(module):
            value = getattr(module, name)
    if type(value).dequantize is not Tensor.dequantize:  # a quantised weight that knows its numbers (torchao's)
        value = value.dequantize()
    return value


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's forward goes through torch.compile."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def without_numbers(module: nn.Module) -> bool:
    """Whether a module's own weights are on `meta` and no hook would fetch them."""
    if not any(p.is_meta for p in module.parameters(recurse=False)):
        return False
    return not getattr(getattr(module, "_hf_hook", None), "offload", False)


def not_finite_weights(model: nn.Module, most: int = 3) -> list[str]:
    """The first weights that hold NaN or infinity, with how many of their numbers do; one that is shared, once."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        for own, held in module.named_parameters(recurse=False):
            value = None if id(held) in found else stored(module, own)
            if value is None or not value.is_floating_point():
                continue
            n = int((~torch.isfinite(value)).sum())
            if n:
                found[id(held)] = f"{name}.{own} ({n} of {value.numel()} numbers)"
            if len(found) == most:
                return list(found.values())
    return list(found.values())


def put_back(model: nn.Module) -> None:
    """Send weights away again that a call fetched and, being broken off, did not."""
    if not (hasattr(model, "_hf_hook") or hasattr(model, "hf_device_map")):
        return
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        if getattr(hook, "offload", False) and not all(p.is_meta for p in module.parameters(recurse=False)):
            hook.post_forward(module, None)  # type: ignore[union-attr]


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    value = next(module.parameters(), None)
    if value is None:
        return torch.device("cpu")
    if not value.is_meta:
        return value.device
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device("cpu")


def input_device(model: nn.Module) -> torch.device:
    """Where token ids must be: where the token embedding computes."""
    return device_of(model.get_input_embeddings())  # type: ignore[operator]
