"""What a request gets that is not answered: what is wrong, why, and what to do."""

from __future__ import annotations

import re
from typing import Any


class Refusal(Exception):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, what: str, why: str, do: str) -> None:
        super().__init__(what)
        self.status = status
        self.parts = {"what": what, "why": why, "do": do}

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"error": self.parts}


def bad(what: str, why: str, do: str) -> Refusal:
    """A question that cannot be understood."""
    return Refusal(400, what, why, do)


def parted(message: str) -> tuple[str, str]:
    """A library's message as its first sentence, which says what is wrong, and the rest."""
    found = re.fullmatch(r"(.*?[^.\s]\.)\s+([A-Z].*)", message, re.DOTALL)
    return (found[1], found[2]) if found else (message, "")
