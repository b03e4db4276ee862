"""How a token is named: its text, and a form of it in which nothing is invisible."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_SPECIAL = re.compile(
    r"<\|[^|<>]+\|>|</?s>|<(pad|unk|bos|eos|cls|sep|mask|start_of_turn|end_of_turn|(unused|extra_id_|reserved_)\d+)>"
    r"|\[(CLS|SEP|PAD|UNK|MASK|BOS|EOS|INST|/INST)\]",
    re.IGNORECASE,
)
_ID = re.compile("#[0-9]{1,18}")
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "⏎"}


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of one token, its leading space included; `#id` without a tokenizer or for an unknown id."""
    if tokenizer is None:
        return f"#{token_id}"
    raw = tokenizer.convert_ids_to_tokens(int(token_id))
    if raw is None:
        return f"#{token_id}"
    text = tokenizer.decode([int(token_id)], clean_up_tokenization_spaces=False)
    if "\ufffd" in text:  # part of a character: the bytes, not a replacement sign
        return f"⟨{raw}⟩"
    if isinstance(raw, str) and raw.startswith("▁") and not text.startswith(" "):  # sentencepiece drops it in decode
        text = " " + text
    return text.replace("\0", "⟨0x00⟩")  # arrays of text drop a trailing NUL


def token_texts(tokenizer: Any, ids: Any) -> list[str]:
    """`token_text` of each id."""
    return [token_text(tokenizer, int(i)) for i in ids]


def special(text: str) -> bool:
    """Whether a text is of the form that tokenizers give to tokens which stand for no text, such as `<s>`."""
    return _SPECIAL.fullmatch(text) is not None


def read_token(text: str) -> str | int:
    """A token as it is written on the command line: its text, or `#11` for an id."""
    return int(text[1:]) if _ID.fullmatch(text) else text


def shown(text: str) -> str:
    """`text` with white space and invisible characters made visible, safe to print on a terminal."""
    return "".join(_shown_character(c) for c in text) or "∅"


def _shown_character(c: str) -> str:
    if c in _VISIBLE:
        return _VISIBLE[c]
    if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"):
        return f"⟨U+{ord(c):04X}⟩"
    return c
