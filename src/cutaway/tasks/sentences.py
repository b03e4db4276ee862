"""Sentences with one target token each: found by its text, its index or a role, and what they share.

A text names a token by its word: ` her`, `her` and `Her` are the word "her", and `her.` is found where the tokenizer
splits the full stop off. A sentence must hold exactly one; the first of several is never taken silently.

In a causal decoder a token's state depends on the tokens up to it and on nothing after. Sentences that agree up to
their target therefore hold the same measurement twice, and count as one.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import json_line
from ..errors import BadInput
from ..prompts import Prompts
from ..tokens import shown
from ..wording import prose, several

if TYPE_CHECKING:
    from ..model import Model

FIELDS: dict[str, Any] = {
    "text": str,
    "target": (str, int, type(None)),
    "control": (str, int),
    "family": (str, int),
    "type": str,
}


def word(token: str) -> str:
    """What a token is counted and looked up as: its text without white space around it, in lower case."""
    return token.strip().casefold()


@dataclass(frozen=True, eq=False)
class Sentences:
    """Tokenised sentences and where their targets are.

    Attributes:
        prompts: all of them. Its families are as given, or one a sentence.
        targets: position of the target in each, None in a sentence that has none and only offers controls.
        types: what each target is an example of, "" where there is none.
        controls: position of a control token given by the user in each, or None.
    """

    prompts: Prompts
    targets: tuple[int | None, ...]
    types: tuple[str, ...]
    controls: tuple[int | None, ...] | None = None
    said: str = "sentences"

    def __post_init__(self) -> None:
        for i, at in enumerate(self.targets):
            if at == 0:
                raise BadInput(
                    f"{named(self.prompts, i)} has its target at position 0, where many models keep a vector unlike "
                    "all others. Put a word or a BOS token before it."
                )
        if not any(at is not None for at in self.targets):
            raise BadInput("None of these sentences has a target.")

    def __len__(self) -> int:
        return len(self.prompts)

    def prefix(self, sentence: int, position: int) -> tuple[int, ...]:
        """All that a token's state depends on: the ids up to it, itself included."""
        return tuple(self.prompts.ids[sentence, : position + 1].tolist())

    def token(self, sentence: int, position: int) -> str:
        return self.prompts.tokens[sentence][position]


def named(prompts: Prompts, i: int) -> str:
    """A sentence in a message, counted from 1."""
    return f"Sentence {i + 1} (“{prose(prompts.texts[i])}”)"


def sentences(
    model: Model,
    rows: Sequence[str | Mapping[str, Any]],
    targets: Sequence[str] = (),
    *,
    control: str | None = None,
    bos: bool | None = None,
) -> Sentences:
    """Sentences with their targets.

    Args:
        rows: texts, or mappings with `text` and perhaps `target` (a word, or an index, negative from the end; None for
            a sentence that has no target and only offers controls), `control` (likewise), `family` and `type`.
        targets: words; exactly one token of each sentence that does not name its own target must be one of them.
        control: a word that must occur exactly once in each sentence that has a target and names no control.

    Raises:
        BadInput: a sentence with no target or several, an index outside it, a target at position 0, a sentence without
            a target in which one of the words occurs.
    """
    given = [{"text": row} if isinstance(row, str) else row for row in rows]
    families = [str(row.get("family", f"line {n}")) for n, row in enumerate(given, 1)]
    prompts = model.prompts([row["text"] for row in given], families=families, bos=bos)
    wanted = [word(t) for t in targets]
    places = [_target(prompts, i, row, wanted) for i, row in enumerate(given)]
    kinds = tuple(
        "" if at is None else row.get("type") or word(prompts.tokens[i][at])
        for i, (row, at) in enumerate(zip(given, places, strict=True))
    )
    controls = None
    if control is not None or any("control" in row for row in given):
        asked = [None if at is None else row.get("control", control) for row, at in zip(given, places, strict=True)]
        controls = tuple(None if c is None else _place(prompts, i, c, "control") for i, c in enumerate(asked))
    return Sentences(prompts, tuple(places), kinds, controls)


def _target(prompts: Prompts, i: int, row: Mapping[str, Any], wanted: list[str]) -> int | None:
    own = row.get("target", "")
    if own is None:
        hits = _hits(prompts, i, wanted)
        if hits:
            raise BadInput(
                f"{named(prompts, i)} is to offer controls and has the target {prompts.tokens[i][hits[0]]!r} at "
                f"position {hits[0]}. Give it as a sentence with a target, or take the word out."
            )
        return None
    if own == "" and not wanted:
        raise BadInput(
            f"{named(prompts, i)} says nothing of its target, and no target word is given. Name one, as in: "
            '--target her, or give the line a "target".'
        )
    return _place(prompts, i, wanted if own == "" else own, "target")


def of_role(prompts: Prompts, role: str, control: str | None = None) -> Sentences:
    """Prompts of a task, the target being the token of a role, and its type the role's name.

    Raises:
        BadInput: there is no such role, or it is at position 0.
    """
    given = None if control is None else tuple(prompts.at(control).tolist())
    return Sentences(prompts, tuple(prompts.at(role).tolist()), (role,) * len(prompts), given, "prompts")


def read_sentences(path: Path) -> list[dict[str, Any]]:
    """The lines of a file: JSON objects with `text` and more in a .jsonl file, else a sentence a line.

    Raises:
        BadInput: it cannot be read, is empty, or a line is not of the form; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The file of sentences {path} cannot be read: {error}.") from None
    rows = [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise BadInput(f"{path} has no sentences. Give one a line.")
    if path.suffix != ".jsonl":
        return [{"text": text} for _, text in rows]
    return [_object(text, f"{path}, line {n}") for n, text in rows]


def _object(text: str, where: str) -> dict[str, Any]:
    value = json_line(text, where)
    if not isinstance(value, dict) or "text" not in value:
        raise BadInput(f'{where} is not an object with a text, such as {{"text": "Mary saw her.", "target": "her"}}.')
    for name, content in value.items():
        if name not in FIELDS:
            raise BadInput(f"{where} has a field {name!r}. Known: {', '.join(FIELDS)}.")
        if not isinstance(content, FIELDS[name]) or isinstance(content, bool):
            raise BadInput(f"{where}: {name} cannot be {json.dumps(content)}.")
    return value


def _place(prompts: Prompts, i: int, given: str | int | Sequence[str], what: str) -> int:
    """A position from an index or from words."""
    if isinstance(given, int):
        length = int(prompts.lengths[i])
        at = given + length if given < 0 else given
        if not 0 <= at < length:
            raise BadInput(f"{named(prompts, i)} has its {what} at index {given}, and {several(length, 'token')}.")
        return at
    return find_once(prompts, i, [word(given)] if isinstance(given, str) else list(given), what)


def _hits(prompts: Prompts, i: int, words: Sequence[str]) -> list[int]:
    return [p for p, token in enumerate(prompts.tokens[i]) if word(token) in words]


def find_once(prompts: Prompts, i: int, words: Sequence[str], what: str) -> int:
    """The position of the only token of a sentence that is one of these words.

    Raises:
        BadInput: there is none, or several.
    """
    hits = _hits(prompts, i, words)
    if len(hits) == 1:
        return hits[0]
    sought = " or ".join(repr(w) for w in words)
    if hits:
        raise BadInput(
            f"{named(prompts, i)} has the {what} {sought} {len(hits)} times, at positions "
            f"{', '.join(map(str, hits))}, and it must be there once: which is meant would be a guess. Shorten the "
            f'sentence, or give it in a .jsonl file with its position: {{"text": ..., "{what}": {hits[0]}}}.'
        )
    tokens = " ".join(shown(t) for t in prompts.tokens[i])
    raise BadInput(
        f"{named(prompts, i)} has no token that is the {what} {sought}. Its tokens are: {tokens}. Take the sentence "
        'out, name another word, or give a position in a .jsonl file ("target": null if it only offers controls).'
    )


def joined(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """A group for each item: items that share a key, directly or through others, are in one group."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    holder: dict[Hashable, int] = {}
    for i, mine in enumerate(keys):
        for key in mine:
            parent[root(i)] = root(holder.setdefault(key, i))
    return [root(i) for i in range(len(keys))]


def read_frequencies(path: Path) -> dict[str, float]:
    """A table of word frequencies: a JSON object, or lines of a word and a number with a tab or comma between.

    Raises:
        BadInput: it cannot be read, or a line has no number that is finite and not negative.
    """
    try:
        text = path.read_text(encoding="utf-8")
        pairs = list(json.loads(text).items()) if path.suffix == ".json" else _lines(text)
        table = {str(name): float(value) for name, value in pairs}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise BadInput(
            f"The table of frequencies {path} cannot be read ({error}). Give a word and a number a line, with a tab or "
            "a comma between them, or a JSON object of numbers."
        ) from None
    return counts(table)


def _lines(text: str) -> list[tuple[str, str]]:
    rows = [row for row in text.splitlines() if row.strip()]
    found = []
    for row in rows:
        name, _, value = row.rpartition("\t" if "\t" in row else ",")
        found.append((name, value))
    return found


def counts(table: Mapping[str, float]) -> dict[str, float]:
    """A table by word: tokens that are the same word are added up."""
    found: dict[str, float] = {}
    for name, value in table.items():
        if not 0 <= float(value) < float("inf"):
            raise BadInput(f"The frequency of {prose(name, 40)!r} is {value}. Give finite numbers from 0 on.")
        found[word(name)] = found.get(word(name), 0.0) + float(value)
    return found


def counted(prompts: Prompts) -> dict[str, float]:
    """How often each word occurs in the sentences; sentences that are equal count once."""
    seen = {
        tuple(row[: int(n)].tolist()): i for i, (row, n) in enumerate(zip(prompts.ids, prompts.lengths, strict=True))
    }
    found: dict[str, float] = {}
    for i in seen.values():
        for token in prompts.tokens[i]:
            found[word(token)] = found.get(word(token), 0.0) + 1.0
    return found


__all__ = [
    "Sentences",
    "counted",
    "counts",
    "find_once",
    "joined",
    "named",
    "of_role",
    "read_frequencies",
    "read_sentences",
    "sentences",
    "word",
]
