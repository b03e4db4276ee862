"""What every result carries: the run card, as plain attributes that survive saving."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import __version__
from . import accessor as accessor  # results can show themselves

if TYPE_CHECKING:
    from .model import Model
    from .prompts import Prompts


def run_card(model: Model, prompts: Prompts | None = None, **more: Any) -> dict[str, str | int | float]:
    """Attributes that say what was run: model, weights, dtype, device, versions, prompts, settings.

    Everything is a string or a number, so that it can be saved with any array format; settings in `more` that are
    neither are written as JSON.
    """
    import transformers

    card: dict[str, Any] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": model.anatomy.attn_implementation,
        "certified": int(model.certificate.ok),
        "cutaway": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if prompts is not None:
        card |= {"prompts": len(prompts), "prompts_hash": prompts.hash(), "bos": prompts.bos}
    card |= {key: value for key, value in more.items() if value is not None}
    return {key: value if isinstance(value, str | int | float) else json.dumps(value) for key, value in card.items()}


def joined(model: Model, prompts: Prompts, parts: list[Any]) -> Any:
    """The results of consecutive parts of some prompts as one, along `prompt`; a list if they are no labelled arrays.

    Attributes are those of the first, with the card of all prompts; of an attribute `..._error` the largest.
    """
    import xarray as xr

    if not all(isinstance(part, xr.Dataset | xr.DataArray) and "prompt" in part.dims for part in parts):
        return parts
    if len(parts) == 1:
        return parts[0]
    alike: dict[str, Any] = {"coords": "minimal", "compat": "override", "join": "exact", "combine_attrs": "override"}
    if isinstance(parts[0], xr.Dataset):
        alike["data_vars"] = "minimal"
    whole = xr.concat(parts, "prompt", **alike)
    errors = {k: max(p.attrs[k] for p in parts) for k in parts[0].attrs if str(k).endswith("_error")}
    card = run_card(model, prompts)
    return whole.assign_coords(prompt=np.arange(len(prompts))).assign_attrs({**whole.attrs, **card, **errors})


def prompt_coords(prompts: Prompts) -> dict[str, Any]:
    """Coordinates of the prompt axis: its text and family."""
    return {
        "prompt": np.arange(len(prompts)),
        "text": ("prompt", prompts.texts),
        "family": ("prompt", prompts.families),
    }


def asked_coords(prompts: Prompts) -> dict[str, Any]:
    """Coordinates of the prompt axis: the ids of its answer and foil, where given."""
    asked = {"answer_id": prompts.answers, "foil_id": prompts.foils}
    return {name: ("prompt", ids.numpy()) for name, ids in asked.items() if ids is not None}


def token_grid(prompts: Prompts) -> np.ndarray:
    """Token texts [prompt, position]; the empty string at padding."""
    grid = np.full((len(prompts), prompts.n_positions), "", dtype=object)
    for i, tokens in enumerate(prompts.tokens):
        grid[i, : len(tokens)] = tokens
    return grid.astype(str)
