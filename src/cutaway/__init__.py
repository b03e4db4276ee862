"""Cutaway opens any Hugging Face decoder, shows what each part wrote, and says how sure one may be of the answer.

Public names are loaded when first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Model": "model",
    "load": "loading",
    "Prompts": "prompts",
    "Trace": "trace",
    "Certificate": "certificate",
    "SITES": "sites",
    "CutawayError": "errors",
    "BadInput": "errors",
    "Refused": "errors",
    "NoRoom": "errors",
    "Unfinished": "errors",
    "Direction": "directions",
    "direction": "directions",
    "update": "directions",
    "difference_of_means": "directions",
    "ladder": "controls",
    "readout_edit": "readout.editing",
    "readout_flips": "readout.flips",
    "readout_score": "readout.score",
    "stages": "readout.stages",
    "before_after": "readout.comparison",
    "factorial": "steering",
    "patch": "edits.making",
    "ablate": "edits.making",
    "add": "edits.making",
    "put": "edits.making",
    "project_out": "edits.removals",
    "reject": "edits.removals",
    "perturb": "edits.removals",
    "shift_by_mean": "edits.removals",
    "to_mean": "edits.removals",
    "edit": "edits.making",
    "sweep": "engine.gridding",
    "denoise": "engine.gridding",
    "noise": "engine.gridding",
    "logit_diff": "metrics",
    "logit": "metrics",
    "log_prob": "metrics",
    "prob": "metrics",
    "rank": "metrics",
    "kl": "metrics",
    "entropy": "metrics",
    "next_token_log_prob": "metrics",
    "next_token_kl": "metrics",
    "lens": "readout.lenses",
    "cumulative": "readout.lenses",
    "attribute": "readout.attribution",
    "split": "readout.attribution",
    "annotate": "readout.annotation",
    "bos_sensitivity": "readout.bos",
    "head_scores": "readout.head_scores",
    "role_attention": "readout.head_scores",
    "attention_patterns": "readout.patterns",
    "rotations": "geometry.rotations",
    "fit_subspaces": "geometry.subspaces",
    "Spectra": "geometry.subspaces",
    "Spectrum": "geometry.subspaces",
    "Subspace": "geometry.subspaces",
    "save_subspaces": "geometry.subspaces",
    "load_subspaces": "geometry.subspaces",
    "energy_by_token": "geometry.energy",
    "save_result": "saving",
    "open_result": "saving",
    "open_study": "studies.study",
    "show": "showing",
}
"""Public name -> the module it lives in."""

__all__ = ["__version__", *_HOME]


ROOMS = ("controls", "ledger", "metrics", "stats", "steering", "tasks")
"""Modules that can be written as `cutaway.stats` after `import cutaway` alone; imported when first used."""


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *ROOMS])
