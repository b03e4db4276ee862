"""Sentences on a page: numbers with an exponent stay in one line."""

from __future__ import annotations

import re

from .nodes import Node, node

_NUMBER = re.compile(r"([\[(]?[-+]?\d[\d.]*e[-+]\d+[\]),.;:%°]*)")


def sentence(text: str) -> list[Node | str]:
    """The text, and numbers such as 8.7e-07, which may be broken behind their hyphen, as elements that are not."""
    parts = _NUMBER.split(text)
    return [node("span", part, class_="unbroken") if i % 2 else part for i, part in enumerate(parts) if part]
