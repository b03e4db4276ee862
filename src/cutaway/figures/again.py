"""The Python that makes a figure of a result again, from what the result says of itself; "" where that is too little.

A result knows its model's name and weights, its prompts' texts and what was asked. It does not know prompts that were
given as ids, nor the prompts that a patch took its values from.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_BOS = {"added by the tokenizer": "", "asked for": ", bos=True", "none": ", bos=False"}


def traced(some: Any, *lines: str) -> str:
    """A trace `t` of the prompts that `some` is of, one or several, and then these lines."""
    card, bos = some.attrs, _BOS.get(str(some.attrs.get("bos")))
    if bos is None or "text" not in some.coords or "model" not in card:
        return ""
    texts = np.atleast_1d(some["text"].values).tolist()
    asked = "".join(
        f", {name}s={np.atleast_1d(some[f'{name}_id'].values).tolist()}"
        for name in ("answer", "foil")
        if f"{name}_id" in some.coords
    )
    return "\n".join(
        [
            "import cutaway",
            f"m = cutaway.load({str(card['model'])!r}, dtype={str(card['dtype'])!r})  # weights {card['fingerprint']}",
            f"t = m.trace(m.prompts({texts!r}{asked}{bos}))",
            *lines,
        ]
    )


def lens_code(one: Any) -> str:
    """Of one prompt of a lens."""
    of = f", of={one['of_id'].values.tolist()}" if "of_id" in one.coords else ""
    site = "" if one.attrs.get("site") == "resid_post" else f", site={str(one.attrs.get('site'))!r}"
    return traced(one, f"cutaway.show(cutaway.lens(t, top={one.sizes['rank']}{of}{site}))")


def attribution_code(one: Any) -> str:
    """Of one prompt of an attribution."""
    read, card = _read(one.attrs), one.attrs
    if read is None:
        return ""
    within = f", within={str(card['within'])!r}" if "within" in card else ""
    call = f"cutaway.attribute(t, by={str(card['by'])!r}{read}, toward={str(card['toward'])!r}{within})"
    return traced(one, f"cutaway.show({call})")


def cumulative_code(some: Any) -> str:
    """Of some prompts of a cumulative attribution."""
    read = _read(some.attrs)
    if read is None:
        return ""
    return traced(some, f"cutaway.show(cutaway.cumulative(t{read}, toward={str(some.attrs['toward'])!r}))")


def attention_code(one: Any) -> str:
    """Of one prompt of attention patterns."""
    return traced(one, "cutaway.show(cutaway.attention_patterns(t))")


def _read(card: Any) -> str | None:
    """The position that was read, as an argument; None for a role, which the result does not explain."""
    text = str(card.get("read", ""))
    return f", read={text}" if re.fullmatch(r"-?\d+", text) else ", read='END'" if text == "END" else None
