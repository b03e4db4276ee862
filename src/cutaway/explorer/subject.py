"""The model that is asked, with the runs that were made last: several views of a prompt share one run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadInput, Refused
from ..tokens import read_token, shown
from .limits import RECORDED, TOKENS, TYPED
from .question import Question
from .telling import Teller

if TYPE_CHECKING:
    from ..model import Model
    from ..prompts import Prompts, Token
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
        from ..engine.bases import LastBase

        self.model, self.name = model, name
        self.options = {key: value for key, value in (options or {}).items() if value}
        self._runs: OrderedDict[str, Trace] = OrderedDict()
        self._lenses: OrderedDict[tuple[str, Token, Token], Any] = OrderedDict()
        self._viewed: tuple[str, ...] | None = None
        self._prepared = False
        self.last = LastBase()  # of the sweeps behind an answer

    def prepare(self, tell: Teller | None = None) -> None:
        """Measure what the first edit would wait for: which way sweeps run on this model, and its weights' hash. Once.

        `tell` hears of it where there is something to measure.
        """
        if self._prepared:
            return
        if tell is not None:
            tell.note("Measuring how edits run on this model, once …")
        from ..engine.paths import engine

        engine(self.model)
        _ = self.model.fingerprint
        self._prepared = True

    def token(self, typed: str) -> Token:
        """The token that a person means: `#11` by its id, else as typed, or with the space before it that most have.

        Raises:
            BadInput: it is a single token neither way.
        """
        given = read_token(typed)
        try:
            return self.named(self.model.token_id(given))
        except BadInput as error:
            try:
                return self.named(self.model.token_id(f" {typed}"))
            except BadInput:
                raise BadInput(f"{error} An id is written #11.") from None

    def named(self, token_id: int) -> Token:
        """A token by its text where that text is this token and no other, else by its id."""
        text = self.model.token_text(token_id)
        try:
            return text if self.model.token_id(text) == token_id else token_id
        except BadInput:
            return token_id

    def typed(self, token: Token) -> str:
        """A token as one types it, on the page or on the command line: by its id where its text would be misread."""
        plain = isinstance(token, str) and token.isprintable() and isinstance(read_token(token), str)
        plain = plain and len(str(token)) <= TYPED
        return str(token) if plain else f"#{self.model.token_id(token)}"

    def text(self, token: Token) -> str:
        """A token's text, also where that names no token."""
        return self.model.token_text(token) if isinstance(token, int) else token

    def shown(self, token: Token) -> str:
        """A token in a sentence or a title."""
        return shown(self.text(token))

    def targets(self, question: Question) -> tuple[Token, Token]:
        """Answer and foil: those given, else the first choices of the prompt and of the other one.

        Raises:
            BadInput: they are no single tokens, or the same.
        """
        answer, foil = (self.model.token_id(self.token(t)) if t else None for t in (question.answer, question.foil))
        if answer is None or foil is None:
            first = [i for i in self._best(question.text, 3) if i not in (answer, foil)]
            other = self._best(question.other, 1) if question.other else []
            answer = first[0] if answer is None else answer
            foil = next(i for i in [*other, *first] if i != answer) if foil is None else foil
        if answer == foil:
            raise BadInput(
                f"Answer and foil are the same token, {shown(self.model.token_text(answer))}, so there is no "
                "difference to explain. Choose another, or leave one of them out."
            )
        return self.named(answer), self.named(foil)

    def _best(self, text: str, k: int) -> list[int]:
        return self.trace(text).logits_at(-1)[0].topk(k).indices.tolist()

    def prompts(self, text: str, answer: Token | None = None, foil: Token | None = None) -> Prompts:
        """One prompt, checked.

        Raises:
            BadInput: it has more tokens than are taken here.
        """
        made = self.model.prompts(text, answer, foil)
        if made.n_positions > TOKENS:
            raise BadInput(f"The prompt has {made.n_positions} tokens; at most {TOKENS} are taken here. Shorten it.")
        return made

    def trace(self, text: str, answer: Token | None = None, foil: Token | None = None) -> Trace:
        """The run of a prompt, seen with an answer and a foil."""
        prompts = self.prompts(text, answer, foil)
        run = _latest(self._runs, text, lambda: self.model.trace(prompts, sites=self._recorded(prompts.n_positions)))
        seen = copy(run)  # what a run computes does not depend on what it is asked about
        seen.prompts = prompts
        return seen

    def lens(self, text: str, answer: Token, foil: Token) -> Any:
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
