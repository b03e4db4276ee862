"""Measured tiny models, shared by all tests of a session."""

from __future__ import annotations

import json
import signal
from functools import cache
from pathlib import Path

import pytest
import torch

import cutaway
from families import build

torch.set_num_threads(1)
# A shell starts what runs in its background with SIGINT ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def measured(name: str, attn: str = "eager", dtype: torch.dtype = torch.float32) -> cutaway.Model:
    return cutaway.Model(build(name, attn, dtype), name=name)


@pytest.fixture(scope="session")
def model_of():
    """`model_of(name, attn, dtype)`: a `cutaway.Model` of a tiny random family."""
    return measured


def pair_file(folder: Path) -> Path:
    """A file of two pairs of prompts, each the other's corruption."""
    a, b = "The capital of Poland is", "The capital of Peru is"
    rows = [
        {"clean": a, "corrupt": b, "answer": " Warsaw", "foil": " Lima"},
        {"clean": b, "corrupt": a, "answer": " Lima", "foil": " Warsaw"},
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
