"""A hash of a model's weights that every bit of every one of them counts in.

Hashed are the raw bytes, whatever they mean: also of quantised weights and of dtypes without arithmetic. Parameters and
the buffers that are saved with them count (quantised layers keep weights and scales in buffers); what a model computes
for itself does not.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from .anatomy import stored

PIECE = 2**26
"""Bytes fetched to the CPU at once from another device."""


class Fingerprints:
    """The hash of one model's weights. What PyTorch knows to be unchanged is not read again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[weakref.ref[Tensor], tuple[int, int], bytes]] = {}

    def __reduce__(self) -> tuple[type[Fingerprints], tuple[()]]:
        """Copied or sent elsewhere it knows nothing yet: the weights there are other tensors."""
        return Fingerprints, ()

    def of(self, model: nn.Module, afresh: bool = False) -> str:
        """16 hexadecimal digits. A weight is read again if it is another tensor, or PyTorch counted a change in place.

        PyTorch does not see changes made through `.data` or another library's view of the memory, and weights that are
        offloaded have no count: `afresh` reads everything.
        """
        weights = dict(_weights(model))
        known = {} if afresh else {n: self._known[n][2] for n, held in weights.items() if self._holds(n, held)}
        missing = [name for name in weights if name not in known]
        away = [name for name in missing if weights[name].is_meta]  # fetched one after the other: they pass through
        here = [name for name in missing if not weights[name].is_meta]
        once = {id(weights[name]): weights[name] for name in here}  # a weight of two names is read once
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            read = dict(zip(once, pool.map(digest, once.values()), strict=True))
        known |= {name: read[id(weights[name])] for name in here}
        for name in away:
            module, _, own = name.rpartition(".")
            value = stored(model.get_submodule(module), own)
            assert value is not None
            known[name] = digest(value)
        for name in missing:
            state = _state(weights[name])
            if state is not None:
                self._known[name] = weakref.ref(weights[name]), state, known[name]
        whole = hashlib.sha256()
        tied = getattr(model, "all_tied_weights_keys", {})  # as declared; weights kept elsewhere have no identity
        for name in weights:  # one that is another's copy does not count; one that only should be does
            if known[name] != known.get(tied.get(name, "")):
                whole.update(name.encode() + b"\x00" + known[name])
        return whole.hexdigest()[:16]

    def _holds(self, name: str, held: Tensor) -> bool:
        if name not in self._known:
            return False
        tensor, state, _ = self._known[name]
        return (held.is_meta or tensor() is held) and state == _state(held)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by name; packed weights, which are saved as tuples, part by part."""
    for name, value in model.state_dict(keep_vars=True).items():
        parts = value if isinstance(value, tuple) else (value,)
        yield from ((f"{name}{'.' * i}", part) for i, part in enumerate(parts) if isinstance(part, Tensor))


def _state(tensor: Tensor) -> tuple[int, int] | None:
    """What changes when a tensor is written to; None where PyTorch does not count."""
    if tensor.is_meta:
        return 0, 0
    try:
        return tensor._version, tensor.data_ptr()
    except RuntimeError:  # made in inference mode, or a wrapper without memory of its own
        return None


def digest(tensor: Tensor) -> bytes:
    """32 bytes that tell a tensor: its shape, its dtype and every bit of it, wherever it is."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for part in _plain(tensor.detach()):
        flat = part.reshape(-1)
        step = max(1, PIECE // max(1, flat.element_size()))
        for piece in flat.split(step if flat.device.type != "cpu" else max(1, len(flat))):
            if piece.numel():
                found.update(piece.to("cpu").resolve_conj().resolve_neg().contiguous().view(torch.uint8).numpy())
    return found.digest()


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors of numbers that a tensor consists of: itself, but where it is a wrapper or quantised."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _plain(getattr(tensor, name))
    elif tensor.is_quantized:
        yield tensor.int_repr()
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)
        else:
            yield from (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
    elif tensor.layout != torch.strided:
        yield from (tensor.to_sparse_coo().coalesce().indices(), tensor.to_sparse_coo().coalesce().values())
    else:
        yield tensor
