"""Whether a model is still the one that was measured: its modules and weights, as PyTorch counts changes of them; its
hooks and the forwards put in a module's place."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .anatomy import attention_of

Part = tuple[Any, tuple[Any, ...]]
"""A part of a model, and what changes when it is altered in place."""


class Seen:
    """What a model was.

    Not seen: what an unchanged hook or forward does otherwise than before, and writes behind PyTorch's back (`.data`,
    NumPy). Copied or sent elsewhere it knows nothing: the modules there are others.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._weights = None if model is None else _Noted(_weights(model))
        self._hooks = None if model is None else _Noted(_hooks(model))

    def __reduce__(self) -> tuple[type[Seen], tuple[()]]:
        return Seen, ()

    def same_weights(self, model: nn.Module) -> bool:
        """Whether it has the same modules and weights now, whatever its hooks."""
        return self._weights is not None and self._weights.are(_weights(model))

    def still(self, model: nn.Module) -> bool:
        """Whether it is the same now, hooks and forwards included."""
        return self.same_weights(model) and self._hooks is not None and self._hooks.are(_hooks(model))


class _Noted:
    """Parts, not kept alive."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = [(weakref.ref(part), state) for part, state in parts]

    def are(self, parts: Iterable[Part]) -> bool:
        now = list(parts)
        return len(now) == len(self.parts) and all(
            had() is part and before == state for (had, before), (part, state) in zip(self.parts, now, strict=True)
        )


def _weights(model: nn.Module) -> Iterator[Part]:
    """Weights that lie elsewhere between calls are new ones after each, and pass."""
    yield model, (attention_of(model.config.get_text_config()),)  # type: ignore[union-attr,operator]
    for module in model.modules():
        yield module, ()
        for weight in module._parameters.values():
            if weight is not None and not weight.is_meta:
                yield weight, (_version(weight),)


def _hooks(model: nn.Module) -> Iterator[Part]:
    for module in model.modules():
        yield module, (*module._forward_pre_hooks, None, *module._forward_hooks)
        if "forward" in vars(module):
            yield vars(module)["forward"], ()


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


__all__ = ["Seen"]
