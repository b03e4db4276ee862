"""Labelled arrays as bytes that hold numbers and text and nothing that could run, and come back as they were.

A safetensors blob: its tensors are the numeric arrays, its metadata one JSON text of everything else. Arrays come back
with their axes in the same order in memory, too: sums and products round by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

_THIS = "this array"  # an array as the only variable of a Dataset


def pack(value: Any) -> bytes:
    """A Dataset, DataArray, array, tensor, number, text or None, or a mapping or list of such, as bytes.

    Raises:
        TypeError: something else is in it.
    """
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    form = json.dumps(_form(value, tensors), default=np.generic.item)
    return save(tensors, metadata={"form": form})


def unpack(data: bytes) -> Any:
    """What was packed; tuples come back as lists."""
    from safetensors.numpy import load

    size = int.from_bytes(data[:8], "little")
    form = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["form"])
    return _made(form, load(data))


def _form(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """`value` as JSON can hold it, with numeric arrays put into `tensors` and named."""
    if isinstance(value, xr.DataArray):
        return {"labelled": _form(value.to_dataset(name=_THIS), tensors), "name": value.name}
    if isinstance(value, xr.Dataset):
        variables = [
            [name, list(v.dims), _form(v.values, tensors), v.attrs, name in value.coords]
            for name, v in value.variables.items()
        ]
        return {"dataset": variables, "attrs": value.attrs}
    if isinstance(value, torch.Tensor):
        return {"torch": _form(value.detach().cpu().numpy(), tensors)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "UO":
            return {"text": value.ravel().tolist(), "shape": value.shape, "dtype": value.dtype.str}
        name, axes = str(len(tensors)), sorted(range(value.ndim), key=lambda i: -abs(value.strides[i]))
        tensors[name] = np.array(value.transpose(axes), order="C")
        return {"tensor": name, "axes": axes}
    if isinstance(value, Mapping):
        return {"mapping": [[key, _form(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_form(item, tensors) for item in value]}
    if isinstance(value, str | int | float | bool | np.generic | None):
        return value
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _made(form: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(form, dict):
        return form
    if "labelled" in form:
        return _made(form["labelled"], tensors)[_THIS].rename(form["name"])
    if "dataset" in form:
        made = {n: (dims, _made(v, tensors), attrs) for n, dims, v, attrs, _ in form["dataset"]}
        coords = {n for n, *_, coord in form["dataset"] if coord}
        variables = {n: v for n, v in made.items() if n not in coords}
        return xr.Dataset(variables, {n: made[n] for n in made if n in coords}, form["attrs"])
    if "torch" in form:
        return torch.from_numpy(_made(form["torch"], tensors))
    if "text" in form:
        return np.array(form["text"], dtype=form["dtype"]).reshape(form["shape"])
    if "tensor" in form:
        return tensors[form["tensor"]].transpose(np.argsort(form["axes"]).astype(int))
    if "mapping" in form:
        return {key: _made(item, tensors) for key, item in form["mapping"]}
    return [_made(item, tensors) for item in form["list"]]
