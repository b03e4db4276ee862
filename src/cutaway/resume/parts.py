"""Parts of a longer piece of work that are no sweeps: their labelled arrays are kept, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from .identity import hash_of
from .keeping import keep_sweeps, next_folder
from .manifest import machine, of_model
from .packed import pack, unpack
from .shards import SUFFIX, damaged, opened

if TYPE_CHECKING:
    from ..model import Model

T = TypeVar("T")

WHOLE = f"whole{SUFFIX}"
MOST = 2**31
"""Bytes of a part; a larger one is not kept."""


class Parts:
    """Makes parts of a piece of work; inside `keep_sweeps` each is made once, whatever interrupts the work.

    Args:
        given: everything besides the model that decides the results, such as prompts and settings.
    """

    def __init__(self, model: Model, *given: object) -> None:
        self.model, self.given = model, given

    def __call__(self, name: str, make: Callable[[], T], *more: object) -> T:
        """What `make` makes, or made in an interrupted run: labelled arrays, or what else `packed.pack` takes.

        Args:
            make: sweeps and parts inside are kept below this one. more: what decides this part besides `given`.

        Raises:
            BadInput: what was kept is of another model, machine or version, or was made from something else; the
                message names what differs. NoRoom: the disk is full.
        """
        folder = next_folder()
        if folder is None:
            return make()
        facts = {"part": name, "made from": hash_of((self.given, more))}
        with opened(folder, {**facts, **of_model(self.model), **machine(self.model.device)}, 1) as store:
            data = store.read(WHOLE, MOST)
            if data is not None:
                try:
                    return unpack(data)  # type: ignore[no-any-return]
                except Exception:  # noqa: BLE001 - a checksum can be made for anything
                    damaged(folder / WHOLE, "it holds no arrays")
            with keep_sweeps(folder / "inside"):
                data = pack(make())
            if len(data) <= MOST:
                store.write(WHOLE, data)
        return unpack(data)  # type: ignore[no-any-return]
