"""The model that is asked, with the runs that were made last: several views of a prompt share one run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadInput, Refused
from .limits import RECORDED, TOKENS
from .question import Question

if TYPE_CHECKING:
    from ..model import Model
    from ..prompts import Prompts
    from ..trace import Trace

K = TypeVar("K")
V = TypeVar("V")

KEPT = 6
CHOICES = 8
"""Tokens that a cell of a lens lists."""
VIEWED = ("attn_out", "mlp_out", "z", "v", "pattern")
"""Sites that the views of a prompt read in every layer."""


class Subject:
    """A model and its latest runs. Used by one thread. `options`: how it was loaded, by the command line's names."""

    def __init__(self, model: Model, name: str, options: Mapping[str, str | None] | None = None) -> None:
        self.model, self.name = model, name
        self.options = {key: value for key, value in (options or {}).items() if value}
        self._runs: OrderedDict[str, Trace] = OrderedDict()
        self._lenses: OrderedDict[tuple[str, str, str], Any] = OrderedDict()
        self._viewed: tuple[str, ...] | None = None

    def token(self, text: str) -> str:
        """The token that a person means: as typed, or with the space before it that most tokens have.

        Raises:
            BadInput: it is a single token neither way.
        """
        try:
            self.model.token_id(text)
            return text
        except BadInput as error:
            try:
                self.model.token_id(f" {text}")
                return f" {text}"
            except BadInput:
                raise error from None

    def targets(self, question: Question) -> tuple[str, str]:
        """Answer and foil: those given, else the first choices of the prompt and of the other one."""
        given = [self.token(t) if t else "" for t in (question.answer, question.foil)]
        if all(given):
            return given[0], given[1]
        first = [self.model.token_text(i) for i in self._best(question.text, 3)]
        other = [self.model.token_text(i) for i in self._best(question.other, 1)] if question.other else []
        answer = given[0] or first[0]
        foil = given[1] or next(t for t in [*other, *first] if t != answer)
        return answer, foil

    def _best(self, text: str, k: int) -> list[int]:
        return self.trace(text).logits[0, -1].topk(k).indices.tolist()

    def prompts(self, text: str, answer: str = "", foil: str = "") -> Prompts:
        """One prompt, checked.

        Raises:
            BadInput: it has more tokens than are taken here.
        """
        made = self.model.prompts(text, answer or None, foil or None)
        if made.n_positions > TOKENS:
            raise BadInput(f"The prompt has {made.n_positions} tokens; at most {TOKENS} are taken here. Shorten it.")
        return made

    def trace(self, text: str, answer: str = "", foil: str = "") -> Trace:
        """The run of a prompt, seen with an answer and a foil."""
        prompts = self.prompts(text, answer, foil)
        run = _latest(self._runs, text, lambda: self.model.trace(prompts, sites=self._recorded(prompts.n_positions)))
        seen = copy(run)  # what a run computes does not depend on what it is asked about
        seen.prompts = prompts
        return seen

    def lens(self, text: str, answer: str, foil: str) -> Any:
        """The lens of a prompt that follows an answer and a foil; read once, since it takes the whole vocabulary."""
        from ..readout.lenses import lens

        return _latest(
            self._lenses, (text, answer, foil), lambda: lens(self.trace(text), top=CHOICES, of=[answer, foil])
        )

    def _recorded(self, n: int) -> tuple[str, ...]:
        """What is recorded in the run itself, so that no block is run again for it; nothing where that is much."""
        model = self.model
        if self._viewed is None:
            self._viewed = tuple(site for site in VIEWED if self._has(site))
        numbers = n * model.n_layers * (4 * model.d_model + model.n_heads * n)
        return self._viewed if 4 * numbers <= RECORDED else ()

    def _has(self, site: str) -> bool:
        from ..places import check_site

        try:
            for layer in range(self.model.n_layers):
                check_site(self.model, site, layer)
        except (BadInput, Refused):
            return False
        return True


def _latest(kept: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is kept under a key, made where it is not; the latest `KEPT` stay."""
    if key not in kept:
        kept[key] = make()
        while len(kept) > KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
