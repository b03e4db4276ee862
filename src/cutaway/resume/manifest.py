"""What a sweep is, in facts that must all be the same where it is continued: only then are its bits the same."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import __version__
from ..edits.cells import Edits, Grid
from ..engine.plan import Plan
from ..engine.readings import Readings
from ..prompts import Prompts
from ..wording import prose
from .identity import hash_of, hash_of_cells
from .keeping import fingerprint_of

if TYPE_CHECKING:
    from ..model import Model

Facts = Mapping[str, str | int | float]

MOST = 20
"""Differences that a message names."""


def manifest(
    model: Model,
    base: Prompts,
    edits: Edits,
    grid: Grid,
    readings: Readings,
    references: list[Prompts],
    plan: Plan,
    **settings: Any,
) -> dict[str, str | int | float]:
    """The facts of one sweep; everything is text or a number, and `settings` that are None count as "none".

    `plan` is the one of the budget that was asked for, before memory ran out.
    """
    sources = {s.hash() for cell in grid.cells for change in cell for s in change.operation.sources}
    facts = {
        **of_model(model),
        "prompts": base.hash(),
        "source prompts": ", ".join(sorted(sources)) or "none",
        "reference prompts": ", ".join(r.hash() for r in references) or "none",
        "edits": repr(edits),
        "grid": hash_of([(a.name, a.labels) for a in grid.axes]),
        "edited values": hash_of_cells(grid.cells),
        "metric": ", ".join(m.name for m in readings.metrics),
        "metric's definition": hash_of(readings.metrics),
        "read": ", ".join(readings.labels),
        "read positions": hash_of(readings.at),
        "budget": plan.budget,
        "plan": hash_of(_integers(plan)),
    }
    given = {key: "none" if value is None else value for key, value in settings.items()}
    return {
        k: v if isinstance(v, str | int | float) else str(v) for k, v in (facts | machine(model.device) | given).items()
    }


def of_model(model: Model) -> dict[str, str]:
    """The facts of a model that decide bits."""
    return {
        "model": model.name,
        "fingerprint": fingerprint_of(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.anatomy.attn_implementation,
    }


def machine(device: torch.device) -> dict[str, str | int]:
    """The facts of this machine and process that decide bits."""
    import transformers

    return {
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "float32 products": torch.get_float32_matmul_precision(),
        "cutaway": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def _device(device: torch.device) -> str:
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _integers(plan: Plan) -> list[Any]:
    """What decides a plan's bits."""
    variants = [(v.cell, v.entry, v.first, len(v.inside), v.adds, v.touched) for v in plan.variants]
    return [list(plan.groups), variants, plan.chunks, plan.blocks, plan.end]


def differences(then: Facts, now: Facts) -> list[str]:
    """What differs, by name, old and new."""
    missing = "not known"
    both = {key: (then.get(key, missing), now.get(key, missing)) for key in dict.fromkeys([*now, *then])}
    unlike = [(key, *map(str, values)) for key, values in both.items() if values[0] != values[1]]
    said = [f"{prose(key)} ({prose(old)} then, {prose(new)} now)" for key, old, new in unlike[:MOST]]
    return [*said, f"and {len(unlike) - MOST} more"] if len(unlike) > MOST else said
