"""Prompt sets with answers, foils, families, roles and corruptions that line up token by token, for any tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from ..model import Model
    from .task import Task

TASKS = {
    "ioi": "who receives what one of two people gives",
    "capitals": "the capital of a country",
    "past_tense": "the past tense of a verb",
    "upper_casing": "a word in upper case",
    "pronouns": "the pronoun that agrees with a name",
    "greater_than": "a later year of the same century",
}
"""Task -> what it asks. Each is a function of that name in a module of that name."""


def make_task(name: str, model: Model, **settings: Any) -> Task:
    """The task of that name for this model; `settings`: families, seed, frames, held_out, bos.

    Raises:
        BadInput: there is no such task or setting, or this tokenizer cannot write it.
    """
    if name not in TASKS:
        raise BadInput(f"There is no task {name!r}. {did_you_mean(name, list(TASKS))}")
    make: Callable[..., Task] = getattr(import_module(f".{name}", __name__), name)
    known = [key for key in inspect.signature(make).parameters if key != "model"]
    for key in settings:
        if key not in known:
            raise BadInput(f"Task {name} has no setting {key!r}. {did_you_mean(key, known)}")
    return make(model, **settings)
