"""Texts from a file: plain text with blank lines between them, or JSON Lines with a family each."""

from __future__ import annotations

import re
from pathlib import Path

from ..disk import json_line
from ..errors import BadInput


def read_texts(path: str | Path) -> tuple[list[str], list[str]]:
    """(texts, families). A `.jsonl` file holds one {"text": ..., "family": ...} a line, family where texts belong
    together; any other file is plain text, with blank lines between texts, each its own family.

    Raises:
        BadInput: it cannot be read, holds no text, or a line is not of that form; the message names the line.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The texts of {path} cannot be read: {error}.") from None
    if path.suffix in (".jsonl", ".ndjson"):
        lines = [(i, line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
        rows = [_row(path, i, line) for i, line in lines]
        texts, families = [r[0] for r in rows], [r[1] for r in rows]
    else:
        texts = [part.strip() for part in re.split(r"\n\s*\n", content.replace("\r\n", "\n")) if part.strip()]
        families = [str(i) for i in range(len(texts))]
    if not texts:
        raise BadInput(f"{path} holds no text. Put blank lines between texts, or one JSON object a line (.jsonl).")
    return texts, families


def _row(path: Path, i: int, line: str) -> tuple[str, str]:
    row = json_line(line, f"{path}: line {i}")
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise BadInput(f'{path}: line {i} has no text. Write {{"text": "..."}}, with "family" where texts go together.')
    unknown = sorted(set(row) - {"text", "family"})
    if unknown:
        raise BadInput(f"{path}: line {i} has the field {unknown[0]!r}; known: text, family.")
    return row["text"], str(row.get("family", f"line {i}"))
