"""A token on a page: its text with nothing invisible; a special one in a border, with its literal text."""

from __future__ import annotations

from ..tokens import special
from .nodes import Node, node


def token_span(text: str, literal: str | None = None) -> Node:
    """A token that is shown as `text`; `literal` is the token itself, where `text` is a shortened form of it."""
    chip = " special" if special(text if literal is None else literal) else ""
    return node("span", text, class_=f"token{chip}", dir="auto")
