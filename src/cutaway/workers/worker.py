"""What runs in a worker's process: it holds one model, and one group of prompts at hand."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..engine.work import Arrays, AtHand, Work
from ..errors import CutawayError
from ..finite import NotFinite
from ..resume.manifest import differences, machine
from .packing import Packed, parts_of, unpack

if TYPE_CHECKING:
    from ..model import Model

MEMORY, UNLIKE = "memory", "unlike"


@dataclass(frozen=True)
class Failure:
    """Why a shard could not be run. `kind`: there was not enough `MEMORY`, this machine is `UNLIKE` the caller's, or
    anything else."""

    what: str
    kind: str = ""
    cell: int | None = None


class Worker:
    """Holds a model and runs shards on it. Its methods are called one after the other, and none raises."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self.work: Work | None = None
        self.at_hand: AtHand | None = None
        self.trouble: Failure | None = None  # that came up before a shard was asked for
        self.unlike = ""

    def ready(self) -> int:
        """This process."""
        return os.getpid()

    def hold(self, packed: Packed) -> None:
        """Take a model, in the place of the one before."""

        def take() -> None:
            self.at_hand = self.work = self.model = None
            self.model = unpack(packed, {})

        self.trouble = _tried(take)

    def begin(self, packed: Packed, facts: Mapping[str, Any]) -> None:
        """Take the work of a sweep. `facts`: of the machine that asks, threads and precision among them."""

        def take() -> None:
            assert self.model is not None
            self.at_hand = self.work = None
            torch.set_num_threads(facts["threads"])
            torch.set_float32_matmul_precision(facts["float32 products"])
            unlike = differences(facts, machine(self.model.device))
            self.unlike = f"{platform.node()}: {'; '.join(unlike)}" if unlike else ""
            self.work = unpack(packed, parts_of(self.model))

        if self.model is not None:
            self.trouble = _tried(take)

    def shard(self, group: int, block: int) -> Arrays | Failure:
        """Run a block of chunks of a group of prompts."""
        parts: list[Arrays] = []

        def run() -> None:
            assert self.work is not None
            if self.at_hand is None or self.at_hand.number != group:
                self.at_hand = None  # before the next is recorded
                self.at_hand = AtHand(self.work, group)
            parts.append(self.at_hand.shard(block, lambda cells: None))

        if self.trouble is not None:
            return self.trouble
        if self.unlike:
            return Failure(self.unlike, UNLIKE)
        failure = _tried(run)
        return parts[0] if failure is None else failure


def _tried(do: Callable[[], None]) -> Failure | None:
    try:
        do()
    except Exception as error:  # noqa: BLE001 - whoever asked is told
        said = " ".join(str(error).split()) or "no message"
        memory = isinstance(error, RuntimeError) and "memory" in str(error).lower()
        what = said if isinstance(error, CutawayError) else f"{type(error).__name__}: {said}"
        return Failure(what, MEMORY if memory else "", error.cell if isinstance(error, NotFinite) else None)
    return None
