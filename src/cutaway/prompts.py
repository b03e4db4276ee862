"""Prompts: token ids with what is asked of them (answers, foils), what belongs together, and named positions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput, did_you_mean
from .tokens import shown, token_texts
from .wording import prose

Token = str | int
Read = int | str


def _excerpt(text: str, width: int = 48) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")


@dataclass(init=False)
class Prompts:
    """Token ids [prompt, position], padded on the right, and what is known about them.

    Args:
        ids: integer ids [prompt, position], or one sequence of ids a prompt (they may differ in length). Used as they
            are: no BOS is added.
        answers, foils: the id that should win and the one it is contrasted with, [prompt].
        families: a label a prompt; prompts with the same label are not independent. Default: each its own.
        roles: name -> position of it in each prompt. `END`, the last token, is always there.
        lengths: number of real tokens of each prompt, where `ids` is a padded tensor.
        texts, tokenizer: only for labels.
        templates: a label a prompt: the frame it was made from. Means of ablations can be taken template by template;
            default: the family stands for it.
        vocab_size: checked against, where given.

    Raises:
        BadInput: an empty prompt, an id out of range, or lists of unequal length; the message names the prompt.
    """

    ids: Tensor
    lengths: Tensor
    answers: Tensor | None
    foils: Tensor | None
    families: list[str]
    roles: dict[str, Tensor]
    texts: list[str]
    tokens: list[list[str]] = field(repr=False)
    templates: list[str] | None = None
    bos: str = "as given"
    numbers: list[int] | None = field(default=None, repr=False)

    def __init__(
        self,
        ids: Tensor | Sequence[Sequence[int]],
        answers: Tensor | Sequence[int] | None = None,
        foils: Tensor | Sequence[int] | None = None,
        families: Sequence[Any] | None = None,
        roles: Mapping[str, Tensor | Sequence[int]] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        texts: Sequence[str] | None = None,
        tokenizer: Any = None,
        vocab_size: int | None = None,
        templates: Sequence[Any] | None = None,
    ) -> None:
        rows = _rows(ids, lengths)
        if not rows:
            raise BadInput("There are no prompts. Give at least one.")
        self.lengths = torch.tensor([len(r) for r in rows])
        for i, row in enumerate(rows):
            if len(row) == 0:
                raise BadInput(f"Prompt {i} is empty: it has no tokens. Remove it or give it text.")
            low, high = int(row.min()), int(row.max())
            if low < 0 or (vocab_size is not None and high >= vocab_size):
                bad = low if low < 0 else high
                end = "" if vocab_size is None else f" 0 to {vocab_size - 1}"
                raise BadInput(f"Prompt {i} has token id {bad}, outside the vocabulary{end}.")
        self.ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        n = len(rows)
        self.tokens = [token_texts(tokenizer, row) for row in rows]
        self.texts = list(texts) if texts is not None else ["".join(t) for t in self.tokens]
        self.answers = _column("answers", answers, n, vocab_size)
        self.foils = _column("foils", foils, n, vocab_size)
        self.families = [str(f) for f in (families if families is not None else range(n))]
        if len(self.families) != n:
            raise BadInput(f"There are {n} prompts but {len(self.families)} families. Give one label a prompt.")
        self.templates = None if templates is None else [str(t) for t in templates]
        if self.templates is not None and len(self.templates) != n:
            raise BadInput(f"There are {n} prompts but {len(self.templates)} templates. Give one label a prompt.")
        self.roles = {"END": self.lengths - 1}
        for name, positions in (roles or {}).items():
            self.roles[name] = self._role(name, positions)
        self.bos = "as given"
        self.numbers = None

    def _role(self, name: str, positions: Tensor | Sequence[int]) -> Tensor:
        column = _column(f"positions of role {name}", positions, len(self), None)
        assert column is not None
        column = torch.where(column < 0, column + self.lengths, column)
        for i, (p, length) in enumerate(zip(column.tolist(), self.lengths.tolist(), strict=True)):
            if not 0 <= p < length:
                raise BadInput(f"Role {name} of prompt {i} is at position {p}, but the prompt has {length} tokens.")
        return column

    def __len__(self) -> int:
        return len(self.ids) if hasattr(self, "ids") else 0

    def __getitem__(self, which: Sequence[int] | Tensor | slice | int) -> Prompts:
        """Some of the prompts, as `Prompts` of their own."""
        if isinstance(which, int):
            which = [which]
        index = torch.arange(len(self))[which] if isinstance(which, slice) else torch.as_tensor(which)
        new = object.__new__(Prompts)
        new.lengths = self.lengths[index]
        new.ids = self.ids[index][:, : int(new.lengths.max())]
        new.answers = None if self.answers is None else self.answers[index]
        new.foils = None if self.foils is None else self.foils[index]
        new.families = [self.families[i] for i in index.tolist()]
        new.templates = None if self.templates is None else [self.templates[i] for i in index.tolist()]
        new.roles = {name: column[index] for name, column in self.roles.items()}
        new.texts = [self.texts[i] for i in index.tolist()]
        new.tokens = [self.tokens[i] for i in index.tolist()]
        new.bos = self.bos
        new.numbers = None
        return new

    def part(self, which: Sequence[int]) -> Prompts:
        """As `[which]`, for work that is done in parts: messages count its prompts as they count those of the whole."""
        new = self[which]
        new.numbers = [self.number(i) for i in which]
        return new

    def number(self, i: int) -> int:
        """How messages count a prompt: from 0, among all prompts that these are a part of."""
        return i if self.numbers is None else self.numbers[i]

    def padded(self, which: Sequence[int]) -> Prompts:
        """A part of the prompts, padded to the longest of all of them, so that their results have the same axes."""
        new = self.part(which)
        new.ids = torch.nn.functional.pad(new.ids, (0, self.n_positions - new.n_positions))
        return new

    def cut(self, lengths: int | Tensor) -> Prompts:
        """The first tokens of each prompt, at most `lengths` (one number, or one a prompt); texts stay as labels.

        Raises:
            BadInput: nothing would be left, or a role lies behind the cut.
        """
        new = self.part(range(len(self)))
        new.lengths = torch.minimum(self.lengths, torch.as_tensor(lengths).expand(len(self)))
        if int(new.lengths.min()) < 1:
            raise BadInput("A prompt cannot be cut to no token at all.")
        kept = torch.arange(self.n_positions) < new.lengths[:, None]
        new.ids = self.ids.where(kept, torch.zeros((), dtype=self.ids.dtype))[:, : int(new.lengths.max())]
        new.tokens = [row[:n] for row, n in zip(self.tokens, new.lengths.tolist(), strict=True)]
        new.roles = {"END": new.lengths - 1}
        for name, column in self.roles.items():
            if name != "END":
                new.roles[name] = new._role(name, column)
        return new

    @property
    def n_positions(self) -> int:
        return self.ids.shape[1]

    @property
    def mask(self) -> Tensor:
        """[prompt, position], true at real tokens."""
        return torch.arange(self.n_positions) < self.lengths[:, None]

    @property
    def ragged(self) -> bool:
        return bool((self.lengths != self.n_positions).any())

    def at(self, read: Read) -> Tensor:
        """Positions [prompt] of a role or an index; negative indices count from each prompt's last real token.

        Raises:
            BadInput: no such role, or an index outside one of the prompts.
        """
        if isinstance(read, str):
            if read not in self.roles:
                raise BadInput(f"There is no role {read!r}. {did_you_mean(read, list(self.roles))}")
            return self.roles[read]
        column = self.lengths + read if read < 0 else torch.full_like(self.lengths, read)
        bad = ((column < 0) | (column >= self.lengths)).nonzero()
        if len(bad):
            i = int(bad[0])
            raise BadInput(
                f"Position {read} is outside prompt {self.number(i)}, which has {int(self.lengths[i])} tokens."
            )
        return column

    def hash(self) -> str:
        """A short fingerprint of everything that can change a result."""
        digest = hashlib.sha256()
        parts = [self.ids, self.lengths, self.answers, self.foils, *self.roles.values()]
        for part in parts:
            digest.update(b"-" if part is None else part.numpy().tobytes())
        digest.update("|".join([*self.roles, *self.families, *(self.templates or [])]).encode())
        return digest.hexdigest()[:16]


def _rows(ids: Tensor | Sequence[Sequence[int]], lengths: Tensor | Sequence[int] | None) -> list[Tensor]:
    if isinstance(ids, Tensor):
        if ids.dim() == 1:
            ids = ids[None]
        if ids.dim() != 2 or ids.is_floating_point():
            kind = f"{ids.dtype} of shape {tuple(ids.shape)}"
            raise BadInput(f"ids must be integers [prompt, position], not {kind}.")
        ids = ids.detach().cpu().long()
        ends = [ids.shape[1]] * len(ids) if lengths is None else [int(n) for n in lengths]
        if len(ends) != len(ids):
            raise BadInput(f"There are {len(ids)} prompts but {len(ends)} lengths.")
        return [row[:n] for row, n in zip(ids, ends, strict=True)]
    try:
        return [torch.as_tensor(list(row), dtype=torch.long) for row in ids]
    except (TypeError, ValueError) as error:
        raise BadInput(f"ids must be one sequence of integers a prompt: {error}") from None


def _column(what: str, values: Any, n: int, vocab_size: int | None) -> Tensor | None:
    if values is None:
        return None
    column = torch.as_tensor(values).detach().cpu().long().reshape(-1)
    if len(column) == 1 and n > 1:
        column = column.expand(n).clone()
    if len(column) != n:
        raise BadInput(f"There are {n} prompts but {len(column)} {what}. Give one a prompt.")
    if vocab_size is not None:
        for i, v in enumerate(column.tolist()):
            if not 0 <= v < vocab_size:
                raise BadInput(f"Prompt {i}: {what} has token id {v}, outside the vocabulary 0 to {vocab_size - 1}.")
    return column


def _require_text(what: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(
            f"{what} ({_excerpt(text)}) is no valid text: it has half of a surrogate pair. Remove it."
        ) from None


def encoded(tokenizer: Any, text: str, add_special_tokens: bool = False) -> list[int]:
    """The ids of a text.

    Raises:
        BadInput: the tokenizer fails on it.
    """
    try:
        return list(tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))
    except Exception as error:  # noqa: BLE001 - what other people's code makes of odd tokenizers
        raise BadInput(
            f"The tokenizer cannot read {_excerpt(text)}: {prose(str(error), 200)}. Give token ids."
        ) from None


def single_token(tokenizer: Any, token: Token, what: str, vocab_size: int) -> int:
    """The id of a text that must be exactly one token.

    Raises:
        BadInput: several tokens, none, or one the tokenizer does not know; the message shows the pieces.
    """
    if isinstance(token, int):
        if not 0 <= token < vocab_size:
            raise BadInput(f"{what} is token id {token}, outside the vocabulary 0 to {vocab_size - 1}.")
        return token
    _require_text(what, token)
    ids = encoded(tokenizer, token)
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return int(ids[0])
    if len(ids) == 1 or not ids:
        raise BadInput(f"{what} {_excerpt(token)} is not in the tokenizer's vocabulary.")
    pieces = prose(" + ".join(shown(t) for t in token_texts(tokenizer, ids)), 200)
    hint = ""
    if not token.startswith(" ") and len(encoded(tokenizer, " " + token)) == 1:
        hint = f" With a leading space, {_excerpt(' ' + token)}, it is one."
    raise BadInput(
        f"{what} {_excerpt(token)} is {len(ids)} tokens ({pieces}); scoring its first one alone would mislead.{hint} "
        "Choose a word that is a single token, or give a token id."
    )


def tokenise(
    tokenizer: Any,
    texts: str | Sequence[str],
    answers: Token | Sequence[Token] | None = None,
    foils: Token | Sequence[Token] | None = None,
    families: Sequence[Any] | None = None,
    roles: Mapping[str, Any] | None = None,
    bos: bool | None = None,
    vocab_size: int = 2**31,
    max_length: int | None = None,
    templates: Sequence[Any] | None = None,
) -> Prompts:
    """`Prompts` from text; see `Model.prompts`."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if tokenizer is None:
        raise BadInput("This model has no tokenizer. Give one to Model(...), or make cutaway.Prompts(ids=...).")
    rows = []
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise BadInput(f"Prompt {i} is empty. Give it text.")
        _require_text(f"Prompt {i}", text)
        ids = _encode(tokenizer, text, bos)
        if max_length is not None and len(ids) > max_length:
            raise BadInput(
                f"Prompt {i} ({_excerpt(text)}) has {len(ids)} tokens, more than the model's context of {max_length}. "
                "Shorten it."
            )
        rows.append(ids)
    n = len(texts)
    names = {}
    for kind, given in (("answer", answers), ("foil", foils)):
        tokens = _per_prompt(given, n, kind)
        if tokens is not None:
            names[kind] = [
                single_token(tokenizer, t, f"Prompt {i} ({_excerpt(texts[i])}): the {kind}", vocab_size)
                for i, t in enumerate(tokens)
            ]
    prompts = Prompts(
        ids=rows,
        answers=names.get("answer"),
        foils=names.get("foil"),
        families=families,
        texts=texts,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        templates=templates,
    )
    for name, where in (roles or {}).items():
        prompts.roles[name] = prompts._role(name, _find_role(prompts, name, where))
    first = {int(row[0]) for row in rows}
    has = tokenizer.bos_token_id is not None and first == {tokenizer.bos_token_id}
    prompts.bos = ("added by the tokenizer" if bos is None else "asked for") if has else "none"
    return prompts


def _encode(tokenizer: Any, text: str, bos: bool | None) -> list[int]:
    ids = encoded(tokenizer, text, add_special_tokens=bos is None)
    if bos:
        if tokenizer.bos_token_id is None:
            raise BadInput("bos=True, but this tokenizer has no BOS token. Leave bos out.")
        ids = [tokenizer.bos_token_id, *ids]
    return ids


def _per_prompt(given: Any, n: int, what: str) -> list[Token] | None:
    if given is None:
        return None
    tokens = [given] * n if isinstance(given, str | int) else [t if isinstance(t, str) else int(t) for t in given]
    if len(tokens) == 1:
        tokens = tokens * n
    if len(tokens) != n:
        raise BadInput(f"There are {n} prompts but {len(tokens)} {what}s. Give one a prompt.")
    return tokens


def _find_role(prompts: Prompts, name: str, where: Any) -> list[int]:
    """Positions from indices, or from a token's text that each prompt must hold exactly once."""
    given = [where] * len(prompts) if isinstance(where, str | int) else list(where)
    if len(given) != len(prompts):
        raise BadInput(f"There are {len(prompts)} prompts but {len(given)} positions of role {name}.")
    found = []
    for i, (w, tokens) in enumerate(zip(given, prompts.tokens, strict=True)):
        if not isinstance(w, str):
            found.append(int(w))
            continue
        hits = [p for p, t in enumerate(tokens) if t == w]
        if len(hits) != 1:
            seen = f"at positions {hits}" if hits else f"in {[shown(t) for t in tokens]}"
            raise BadInput(
                f"Role {name} of prompt {i}: the token {w!r} must occur exactly once and occurs {len(hits)} times "
                f"{seen}. Give its index."
            )
        found.append(hits[0])
    return found


__all__ = ["Prompts", "Read", "Token", "single_token", "tokenise"]
