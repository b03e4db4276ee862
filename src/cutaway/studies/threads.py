"""How many threads a small model is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..model import Model

SMALL = 256
"""Width of the stream up to which one thread is used: its products take microseconds, waking a second thread takes as
long, and on a busy machine threads that wait for each other made the study nine times slower."""


@contextmanager
def threads_for(model: Model) -> Iterator[None]:
    """One thread inside for a small model on the CPU, as many as before otherwise and afterwards."""
    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.d_model <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
