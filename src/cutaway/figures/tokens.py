"""Tables of next tokens."""

from __future__ import annotations

from .. import views
from ..tokens import shown
from ..views import Cell, Table
from ..wording import number, percent


def next_token_table(tokens: list[str], ids: list[int], logits: list[float], probabilities: list[float]) -> Table:
    """The model's first choices."""
    rows: list[list[str | Cell]] = [
        [str(k), str(i), shown(t), number(x, 4), Cell(percent(p), views.shade_of(p))]
        for k, (t, i, x, p) in enumerate(zip(tokens, ids, logits, probabilities, strict=True))
    ]
    return Table("Next token; ranks count from 0.", ["rank", "id", "token", "logit", "probability"], rows, ["token"])
