"""A question: on this prompt (or pair), at this place, make this edit, measure this metric. Checked before it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import BadInput, did_you_mean
from ..sites import SITES, Place, parse_place
from .limits import CHARACTERS, TYPED
from .refusal import Refusal, bad, parted

KINDS = ("tokens", "lens", "attribution", "attention", "compare", "edit", "grid")
EDITS = ("patch", "zero", "add", "remove")
METRICS = ("logit_diff", "log_prob", "prob", "kl")
GRIDS = ("resid_pre", "attn_out", "mlp_out", "z")
EDITED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k", "v", "z", "pattern")
"""Sites whose activations are vectors, so that directions of the same length are a control; and a pattern's entries."""
FROM = "<-"
"""Before the key in the written place of a pattern's entry: L4H1.pattern@5<-4, the weight of query 5 on key 4."""


@dataclass(frozen=True)
class Question:
    """What is asked. Which fields matter depends on `kind`.

    `text` is the prompt that is looked at or edited; `other` the one it is compared with or patched from. `toward` and
    `against` are tokens that name a direction; without them it is the difference of the two prompts at the place.
    `scale` is in lengths of what stands at the place.
    """

    kind: str
    text: str
    other: str = ""
    answer: str = ""
    foil: str = ""
    place: str = ""
    edit: str = ""
    toward: str = ""
    against: str = ""
    scale: float = 1.0
    metric: str = "logit_diff"
    site: str = "resid_pre"
    prompt: str = "A"

    @property
    def at(self) -> Place:
        return parse_place(self.place.partition(FROM)[0])

    @property
    def key(self) -> int | None:
        """The key of a pattern's entry."""
        _, written, key = self.place.partition(FROM)
        return int(key) if written else None

    def facts(self) -> dict[str, Any]:
        """What was asked, without what was left as it is."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def parse(given: Any) -> Question:
    """A question from JSON.

    Raises:
        Refusal: it is none; the message says what of it is wrong.
    """
    if not isinstance(given, Mapping):
        raise bad(
            "The question is not a JSON object.",
            "Questions have named fields.",
            'Send {"kind": "lens", "text": "..."}.',
        )
    known = {f.name: f for f in fields(Question)}
    for name, value in given.items():
        if name not in known:
            raise bad(
                f"There is no field {name!r}.", "A question has a fixed set of fields.", did_you_mean(name, [*known])
            )
        number = name == "scale"
        fits = isinstance(value, int | float) and not isinstance(value, bool) if number else isinstance(value, str)
        if not fits or (number and not abs(value) <= 1e4):
            want = "a number of size at most 10000" if number else "text"
            raise bad(f"The field {name!r} is not {want}.", "Fields have one type.", f"Give {want}.")
        if isinstance(value, str):
            _check_text(name, value)
    if "kind" not in given or "text" not in given:
        raise bad("A question needs kind and text.", "One of the two is missing.", "Give both.")
    question = Question(**{**given, "scale": float(given.get("scale", 1.0))})
    _one_of("kind", question.kind, KINDS)
    _one_of("metric", question.metric, METRICS)
    _one_of("site", question.site, GRIDS)
    _one_of("prompt", question.prompt, ("A", "B"))
    if not question.text:
        raise bad("The prompt is empty.", "There is nothing to predict after no tokens.", "Type a prompt.")
    if question.kind in ("compare", "grid") and not question.other:
        raise bad("There is no second prompt.", f"A {question.kind} needs two.", "Type a second prompt.")
    if question.kind == "edit":
        _check_edit(question)
    return question


def _check_text(name: str, value: str) -> None:
    longest = CHARACTERS if name in ("text", "other") else TYPED
    if len(value) > longest:
        what = {"text": "prompt", "other": "other prompt"}.get(name, f"field {name!r}")
        raise Refusal(
            413, f"The {what} has {len(value):,} characters.", f"At most {longest:,} are taken.", "Shorten it."
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise bad(f"The field {name!r} is no valid text.", "It has half of a surrogate pair.", "Remove it.") from None


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise bad(f"There is no {name} {value!r}.", f"A {name} is one of a few.", did_you_mean(value, list(known)))


def _check_edit(question: Question) -> None:
    _one_of("edit", question.edit, EDITS)
    _, written, key = question.place.partition(FROM)
    try:
        place = question.at
    except BadInput as error:
        what, rest = parted(str(error))
        why = f"{rest} An edit is made at one place.".strip()
        raise bad(what, why, "Choose a cell, a head or a token, or type a place such as L3.resid_post@-1.") from None
    if written or place.site == "pattern":
        _check_entry(question, place, key)
    if place.site not in EDITED or not SITES[place.site].per_layer:
        raise bad(
            f"Nothing is edited at {place.site} here.",
            "Edits here change vectors of a layer.",
            did_you_mean(place.site, list(EDITED)),
        )
    if place.layer is None:
        raise bad(f"{question.place!r} names no layer.", "An edit is made in one layer.", f"Write L0.{place.site}.")
    if question.edit == "patch" and not question.other:
        raise bad(
            "There is no second prompt to patch from.",
            "A patch takes what the other prompt has there.",
            "Type a second prompt.",
        )
    if question.edit in ("add", "remove") and not (question.toward or question.other):
        raise bad(
            "No direction is given.",
            "A vector to add or remove needs one.",
            "Give a token, or a second prompt: then it is their difference.",
        )


def _check_entry(question: Question, place: Place, key: str) -> None:
    """One weight of a pattern: a layer, a head, a query and a key."""
    whole = place.site == "pattern" and None not in (place.layer, place.head) and isinstance(place.at, int)
    if not whole or not key.strip().isascii() or not key.strip().isdigit():
        raise bad(
            f"{question.place!r} is not one entry of a pattern.",
            "Of a pattern one weight is changed: of a head, from a query to a key.",
            f"Write L0H0.pattern@5{FROM}4, or press a cell of an attention map.",
        )
    if question.edit not in ("zero", "patch"):
        raise bad(
            f"A weight of a pattern has no direction to {question.edit}.",
            "It is one number.",
            "Ablate it, or patch it from the other prompt.",
        )


__all__ = ["EDITS", "GRIDS", "KINDS", "METRICS", "Question", "asdict", "parse"]
