"""One forward over some prompts of a trace: the stream between blocks, how each block was called, and any site inside a
block by calling that block again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .anatomy import steady
from .calls import BlockCall, Enough
from .finite import named, require_finite_logits
from .hooks import Hooks, first_tensor, hidden, replace_first_tensor
from .prompts import Prompts
from .taps import Both, Inside, Recorder, Tap, attach

if TYPE_CHECKING:
    from .model import Model

Key = tuple[str, int | None]


class Pass:
    """Some prompts, with what is kept of their forward once one was run with `keep`.

    `stream[l]` [prompt, position, d_model] is what entered block l, `stream[n_layers]` what left the last.
    """

    def __init__(self, model: Model, prompts: Prompts, index: list[int], edit: Tap | None) -> None:
        self.model, self.prompts, self.index, self.edit = model, prompts, index, edit
        self.stream: list[Tensor] = []
        self.calls: list[BlockCall] = []

    @property
    def rows(self) -> slice:
        """Which prompts of the trace."""
        return slice(self.index[0], self.index[-1] + 1)

    def forward(self, wanted: Iterable[Key], keep: bool = False) -> dict[Key, Tensor]:
        """One forward of the whole model, with the wanted sites recorded. What follows the last block is run only where
        it is wanted."""
        wanted = list(wanted)
        recorder = Recorder(key for key in wanted if key[0] != "logits")
        all_logits = len(recorder.wanted) < len(set(wanted))
        to_end = all_logits or any(name == "final_norm" for name, _ in wanted)
        tap: Tap = recorder if self.edit is None else Both(self.edit, recorder)
        logits = None
        with steady(self.model.hf), Hooks() as hooks, suppress(Enough):
            watching = attach(hooks, self.model.anatomy, tap)
            if keep:
                self._keep(hooks)  # after the edits, so that the stream is the edited one
            if not to_end:
                hooks.after(self.model.anatomy.blocks[-1].module, _enough)
            with watching:
                logits = self.model.forward(self.prompts, all_logits)
        if all_logits:
            assert logits is not None
            self._require_finite(logits)
            recorder.kept["logits", None] = logits.detach()
        return recorder.kept

    def block(self, layer: int, sites: Iterable[str]) -> dict[Key, Tensor]:
        """Sites of one block, by calling it again on what entered it."""
        recorder = Recorder((name, layer) for name in sites)
        tap: Tap = recorder if self.edit is None else Both(Inside(self.edit), recorder)
        with (
            steady(self.model.hf),
            Hooks() as hooks,
            attach(hooks, self.model.anatomy, tap, [self.model.anatomy.blocks[layer]]),
        ):
            self.calls[layer](self.stream[layer].contiguous())
        return recorder.kept

    def _require_finite(self, logits: Tensor) -> None:
        real = self.prompts.mask.to(logits.device)
        stream = self.stream[-1] if self.stream else None
        rows = stream.to(logits.device)[real] if stream is not None and stream.shape[:2] == real.shape else None
        who = self.prompts.mask.nonzero()[:, 0].tolist()
        require_finite_logits(self.model, logits[real], lambda i: named(self.prompts, who[i]), rows)

    def _keep(self, hooks: Hooks) -> None:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = first_tensor(args, kwargs)
            assert x is not None
            self.stream.append(x.detach().clone())
            self.calls.append(BlockCall(module, *replace_first_tensor(args, kwargs, x.new_empty(0))))

        def last(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            self.stream.append(hidden(output).detach().clone())

        for block in self.model.anatomy.blocks:
            hooks.before(block.module, before)
        hooks.after(self.model.anatomy.blocks[-1].module, last)


def _enough(*_: Any) -> None:
    raise Enough


__all__ = ["Key", "Pass"]
