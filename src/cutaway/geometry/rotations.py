"""Rotations: how far each block turns a token's vector in the residual stream, and how far it had to.

The states are those of the stream itself: what enters each block and what leaves the last, never what the final norm
makes of it. A model of n_layers blocks has n_layers angles, one a block. Position 0 has a norm of its own in many
models, so it is never part of "all"; it is measured where it is asked for by its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..errors import BadInput
from ..results import prompt_coords, run_card, token_grid
from .angles import turns
from .standards import SPACES, Standard, check_spaces, stream

if TYPE_CHECKING:
    from ..trace import Trace

UNITS = {
    "angle": "rad",
    "null": "rad",
    "excess": "rad",
    "norm": "norm of the stream in this space",
    "update": "norm of the stream in this space",
    "radial": "norm of the stream in this space",
    "tangential": "norm of the stream in this space",
}


def rotations(
    trace: Trace,
    at: int | str = "all",
    *,
    standard: Standard | None = None,
    spaces: Sequence[str] | None = None,
) -> xr.Dataset:
    """Angles of a traced run between the stream before and after each block.

    Args:
        trace: of an edited run as well as of a plain one.
        at: one position a prompt, as an index (negative from the end) or a role; or "all" real ones but position 0.
        standard: mean and scale of each dimension, from `geometry.standards.standard`; needed for the spaces `centred`
            and `standardised`.
        spaces: default: raw, and the other two where `standard` is given.

    Returns:
        Dataset over space, prompt, (position,) and layer: `angle`, `null`, `excess` in radians, `update`, `radial`,
        `tangential`; and over depth instead of layer, `norm`. See `geometry.angles.turns`. NaN at padding.

    Raises:
        BadInput: no such position, role or space; a space that needs a `standard`; no position but 0.
    """
    chosen = check_spaces(spaces or (SPACES[:1] if standard is None else SPACES))
    if standard is None and set(chosen) - {"raw"}:
        raise BadInput(
            "Centred and standardised angles need the mean and scale of each dimension over reference tokens: give "
            "standard=cutaway.geometry.standards.standard(model, prompts)."
        )
    prompts, states = trace.prompts, stream(trace)  # [depth, prompt, position, d_model]
    coords: dict[str, Any] = prompt_coords(prompts)
    dims: tuple[str, ...] = ("prompt",)
    if at == "all":
        if prompts.n_positions < 2:
            raise BadInput("These prompts have no position but 0, which is left out of all. Ask for it by its index.")
        states, dims = states[:, :, 1:], ("prompt", "position")
        coords |= {
            "position": np.arange(1, prompts.n_positions),
            "token": (("prompt", "position"), token_grid(prompts)[:, 1:]),
        }
    else:
        where = prompts.at(at)
        states, dims = states[:, torch.arange(len(prompts)), where], ("prompt",)
        tokens = [row[p] for row, p in zip(prompts.tokens, where.tolist(), strict=True)]
        coords |= {"position": ("prompt", where.numpy()), "token": ("prompt", tokens)}
    more = {"reference": None if standard is None else standard.said, "at": str(at)}
    return measured(states, standard, chosen, dims, coords).assign_attrs(run_card(trace.model, prompts, **more))


def measured(
    states: Tensor, standard: Standard | None, spaces: Sequence[str], dims: Sequence[str], coords: dict[str, Any]
) -> xr.Dataset:
    """`turns` of states [depth, *dims, d_model] in each space."""
    found = [turns(states if standard is None else standard.into(states, space)) for space in spaces]
    data = {}
    for name, units in UNITS.items():
        values = torch.stack([one[name] for one in found]).movedim(1, -1).numpy()
        axis = "depth" if name == "norm" else "layer"
        data[name] = (("space", *dims, axis), values, {"units": units})
    axes = {"space": list(spaces), "layer": np.arange(len(states) - 1), "depth": np.arange(len(states))}
    return xr.Dataset(data, {**coords, **axes})


__all__ = ["UNITS", "measured", "rotations"]
