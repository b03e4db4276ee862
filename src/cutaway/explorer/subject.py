"""The model that is asked, with the runs that were made last: several views of a prompt share one run."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from ..errors import BadInput
from .limits import TOKENS
from .question import Question

if TYPE_CHECKING:
    from ..model import Model
    from ..prompts import Prompts
    from ..trace import Trace

KEPT = 6


class Subject:
    """A model and its latest runs. Used by one thread."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        self._traces: OrderedDict[tuple[str, str, str], Trace] = OrderedDict()

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
        """The run of a prompt."""
        key = (text, answer, foil)
        if key not in self._traces:
            self._traces[key] = self.model.trace(self.prompts(text, answer, foil))
            while len(self._traces) > KEPT:
                self._traces.popitem(last=False)
        self._traces.move_to_end(key)
        return self._traces[key]
