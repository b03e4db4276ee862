"""A task from a file: one pair of prompts a line, as JSON.

    {"clean": "When Mary and John ...", "corrupt": "...", "answer": " Mary", "foil": " John", "family": "1",
     "roles": {"S2": 10}}

`clean` and `corrupt` are needed; `foil` is not for metrics that need none. A family is a label of lines that are not
independent of each other; default: each line its own. A role is an index (BOS counted, negative from the end) or a
token's text that occurs once; it names the same position in both prompts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import json_line
from ..errors import BadInput
from ..prompts import Prompts
from .task import Task, with_templates

if TYPE_CHECKING:
    from ..model import Model

FIELDS = {"clean": str, "corrupt": str, "answer": (str, int), "foil": (str, int), "family": (str, int), "roles": dict}


def pairs(model: Model, path: Path, bos: bool | None = None, text: str | None = None) -> Task:
    """The task of a JSONL file of pairs, or of its `text` where that is at hand.

    Raises:
        BadInput: the file cannot be read, a line is no such object (the message names the line), a field is in some
            lines only, or an answer is no single token.
    """
    lines = read_pairs(path, text)
    columns: dict[str, list[Any] | None] = {
        name: [line[name] for line in lines] if name in lines[0] else None for name in ("answer", "foil", "family")
    }
    roles = {name: [line["roles"][name] for line in lines] for name in lines[0].get("roles", {})}

    def made(which: str) -> Prompts:
        texts = [line[which] for line in lines]
        return model.prompts(texts, columns["answer"], columns["foil"], columns["family"], roles, bos)

    clean, corrupt = made("clean"), made("corrupt")
    templates = [""] * len(lines)
    return Task(
        path.stem,
        f"the pairs of {path.name}",
        with_templates(clean, templates),
        {"corrupt": with_templates(corrupt, templates)},
        {"corrupt": "as given in the file"},
        tuple(templates),
    )


def read_pairs(path: Path, text: str | None = None) -> list[dict[str, Any]]:
    """The objects of the file, checked."""
    try:
        text = path.read_text(encoding="utf-8") if text is None else text
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The file of pairs {path} cannot be read: {error}.") from None
    lines = []
    for n, row in enumerate(text.splitlines(), 1):
        if row.strip():
            lines.append(_checked(row, n, path))
    if not lines:
        raise BadInput(f"{path} has no pairs. Give one JSON object a line, with at least clean and corrupt.")
    first, first_roles = set(lines[0]), set(lines[0].get("roles", {}))
    for n, line in enumerate(lines, 1):
        if set(line) != first or set(line.get("roles", {})) != first_roles:
            raise BadInput(f"{path}: pair {n} has other fields or roles than the first. Give all pairs the same.")
    return lines


def _checked(row: str, n: int, path: Path) -> dict[str, Any]:
    where = f"{path}, line {n}"
    value = json_line(row, where)
    if not isinstance(value, dict):
        raise BadInput(f'{where} is not an object such as {{"clean": "...", "corrupt": "..."}}.')
    for name in ("clean", "corrupt"):
        if name not in value:
            raise BadInput(f"{where} has no {name!r}.")
    for name, content in value.items():
        kinds: Any = FIELDS.get(name)
        if kinds is None:
            raise BadInput(f"{where} has a field {name!r}. Known: {', '.join(FIELDS)}.")
        if not isinstance(content, kinds) or isinstance(content, bool):
            raise BadInput(f"{where}: {name} cannot be {json.dumps(content)}.")
    for role, place in value.get("roles", {}).items():
        if not isinstance(place, int | str) or isinstance(place, bool):
            raise BadInput(f"{where}: role {role} cannot be at {json.dumps(place)}. Give an index or a token's text.")
    return value
