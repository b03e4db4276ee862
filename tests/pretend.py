"""Devices that do not exist: tensors that say they lie on `pretend:0` or `pretend:1` and compute on the CPU.

They obey a GPU's rules. An operation whose tensors lie on different devices raises (numbers, which are CPU tensors
without axes, and CPU indices are allowed, as on a GPU), numpy refuses them, and only `.to`, `.cpu` and `copy_` move
them. So a model placed here fails wherever code leaves a tensor on the wrong device. It is not a GPU: it says nothing
of kernels, streams, memory or rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

MOVES = {"aten::copy_", "aten::_to_copy"}
INDEXES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}


class Misplaced(RuntimeError):
    """Tensors of one operation lie on different devices."""


class Pretend(Tensor):
    """A tensor that says it is elsewhere. `held`: its numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Pretend:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=device,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        name = func._schema.name
        places = {x.device for x in given if isinstance(x, cls) or x.dim() > 0}
        if name == "aten::histc" and not args[0].is_floating_point():  # a GPU counts integers too
            args = (args[0].to(torch.float64), *args[1:])
        if name in INDEXES:  # CPU indices are allowed, and only they
            whole = [args[0], *args[2:3]]
            places = {x.device for x in given if isinstance(x, cls) or (x.dim() > 0 and any(x is y for y in whole))}
        if name not in MOVES and len(places) > 1:
            raise Misplaced(f"{name} of tensors on {', '.join(sorted(map(str, places)))}")
        device = next(x.device for x in given if isinstance(x, cls))
        if "device" in kwargs:
            device = torch.device(kwargs["device"] or device)
            kwargs = {**kwargs, "device": torch.device("cpu")}
        elif name == "aten::copy_":
            device = args[0].device
        plain = func(*tree_map(bare, args), **tree_map(bare, kwargs))
        if name == "aten::copy_":
            return args[0]
        if device.type == "cpu":
            return plain.clone() if any(plain is bare(x) for x in given) else plain
        return return_and_correct_aliasing(func, args, kwargs, tree_map(lambda x: placed(x, device), plain))

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretend({self.held}, {self.device})"


def bare(x: Any) -> Any:
    return x.held if isinstance(x, Pretend) else x


def placed(x: Any, device: torch.device) -> Any:
    return Pretend(x, device) if isinstance(x, Tensor) and not isinstance(x, Pretend) else x


@cache
def register() -> None:
    """Tell PyTorch of the devices, once in a process."""
    _setup_privateuseone_for_python_backend("pretend")
    library = torch.library.Library("_", "IMPL")

    def made(func: Any, *args: Any, **kwargs: Any) -> Any:  # what makes a tensor from none: zeros, arange, ...
        device = torch.device(kwargs.pop("device"))
        return placed(func(*args, **kwargs, device=torch.device("cpu")), device)

    library.fallback(made, "PrivateUse1")
    # What PyTorch makes of a list of numbers, in a way that lets no subclass answer; and what it makes empty and fills.
    aten = torch.library.Library("aten", "IMPL")
    for name in ("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m"):
        aten.impl(name, partial(made, op(name)), "PrivateUse1")
    aten.impl(
        "copy_", lambda to, by, non_blocking=False: Pretend.__torch_dispatch__(op("copy_"), (), (to, by)), "PrivateUse1"
    )
    register.libraries = library, aten  # type: ignore[attr-defined] - they would be undone when collected


def op(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def place(model: nn.Module, where: Callable[[str], str] = lambda name: "pretend:0") -> nn.Module:
    """Move a model there, in place; `where` gives a parameter's or buffer's device. Weights that are one stay one."""
    register()
    seen: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is None:
                    continue
                if id(value) not in seen:
                    moved = value.detach().to(where(f"{prefix}.{name}"))
                    seen[id(value)] = nn.Parameter(moved, value.requires_grad) if table is module._parameters else moved
                    seen[-id(value)] = value  # kept, so that no other gets its id
                table[name] = seen[id(value)]
    return model


def spread(model: nn.Module, blocks: str, devices: tuple[str, ...]) -> nn.Module:
    """The same with the blocks dealt out over devices (a first, then pairs), the rest on the first; accelerate's hooks
    move what passes. The last of two or three blocks lies elsewhere than the unembedding."""
    stack = model.get_submodule(blocks)
    homes = {
        f"{blocks}.{name}": devices[(i + 1) // 2 % len(devices)] for i, name in enumerate(dict(stack.named_children()))
    }
    place(model, lambda name: next((d for block, d in homes.items() if name.startswith(f"{block}.")), devices[0]))
    for name, module in model.named_modules():
        if name in homes:
            add_hook_to_module(module, AlignDevicesHook(homes[name]))
        elif next(module.children(), None) is None and not name.startswith(f"{blocks}."):
            add_hook_to_module(module, AlignDevicesHook(devices[0]))
    add_hook_to_module(model, AlignDevicesHook(devices[0], io_same_device=True))
    return model
