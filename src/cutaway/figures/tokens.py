"""Tables of next tokens."""

from __future__ import annotations

from ..tokens import shown
from ..views import Cell, Table, num, portion


def next_token_table(tokens: list[str], ids: list[int], logits: list[float], probabilities: list[float]) -> Table:
    """The model's first choices."""
    rows: list[list[str | Cell]] = [
        [str(k), str(i), Cell(shown(t), token=True), num(x, 4), portion(p, shaded=True)]
        for k, (t, i, x, p) in enumerate(zip(tokens, ids, logits, probabilities, strict=True))
    ]
    return Table("Next token; ranks count from 0.", ["rank", "id", "token", "logit", "probability"], rows, ["token"])
