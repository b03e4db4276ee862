"""A model, or the work of a sweep, as bytes and arrays that workers on one machine share without copies.

Functions travel by value (cloudpickle). What tensors hold is taken out as arrays: the weights of a model lie once in a
machine's shared memory, however many workers hold it.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ray.cloudpickle import CloudPickler
from torch import Tensor, nn

SMALL = 2**20
"""Bytes up to which a worker makes a copy of its own: buffers and norms, which some models write to."""

Packed = tuple[bytes, list[np.ndarray]]


def pack(value: Any, there: Mapping[str, Any]) -> Packed:
    """`value` as bytes and arrays. `there`: objects that whoever unpacks it has already, by name."""
    file, buffers = io.BytesIO(), []  # type: ignore[var-annotated]
    _Packer(file, buffers, there).dump(value)
    return file.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpack(packed: Packed, there: Mapping[str, Any]) -> Any:
    """What was packed. Arrays, and tensors of more than `SMALL` bytes, are views of the packed ones: read only."""
    data, buffers = packed
    return _Unpacker(io.BytesIO(data), buffers, there).load()


def parts_of(model: Any) -> dict[str, Any]:
    """A model and its modules by name: functions may hold on to them."""
    return {"": model} | {f"hf.{name}": module for name, module in model.hf.named_modules()}


class _Packer(CloudPickler):
    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], there: Mapping[str, Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self._there = {id(value): name for name, value in there.items()}
        self._held: dict[tuple[torch.device, int], _Held] = {}

    def persistent_id(self, value: Any) -> str | None:
        return self._there.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _Held):
            return _storage, (value.array, str(value.storage.device))
        if type(value) in (Tensor, nn.Parameter) and _plain(value):
            storage = value.untyped_storage()
            key = storage.device, storage.data_ptr() or id(storage)
            held = self._held.setdefault(key, _Held(storage))  # tensors that share their numbers go on sharing them
            form = value.dtype, value.size(), value.stride(), value.storage_offset()
            return _tensor, (held, *form, value.requires_grad and value.is_leaf, isinstance(value, nn.Parameter))
        return super().reducer_override(value)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, buffers: Sequence[np.ndarray], there: Mapping[str, Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._there = there

    def persistent_load(self, name: str) -> Any:
        return self._there[name]


class _Held:
    """The numbers of one or several tensors, as bytes."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage  # kept, so that its address stays its own

    @property
    def array(self) -> np.ndarray:
        whole = torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)  # type: ignore[call-overload]
        return whole.cpu().numpy()


def _plain(value: Tensor) -> bool:
    """Whether it is numbers in memory and nothing else."""
    plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    return plain and not value.is_neg() and not value.is_conj()


def _storage(array: np.ndarray, device: str) -> torch.UntypedStorage:
    if array.nbytes <= SMALL:
        array = array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may not be written to
        return torch.from_numpy(array).to(device).untyped_storage()


def _tensor(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    size: torch.Size,
    stride: tuple[int, ...],
    offset: int,
    grad: bool,
    parameter: bool,
) -> Tensor:
    value = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, size, stride)  # type: ignore[call-overload]
    return nn.Parameter(value, grad) if parameter else value.requires_grad_(grad)
