"""The change that a question asks for, changes that mean nothing to set beside it, and the Python that makes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..edits.cells import Edit
from ..edits.making import ablate, add, patch
from ..edits.removals import project_out
from ..errors import BadInput
from ..prompts import Prompts
from ..sites import SITES, Place
from ..wording import prose, quoted
from .control import OTHER_WORD, SAME_LENGTH, other_words, patched_from, same_length, same_weight
from .limits import DRAWS
from .question import Question
from .subject import Subject


def where_of(question: Question, base: Prompts) -> dict[str, Any]:
    """The place of an edit, as what makes edits is told it.

    Raises:
        BadInput: a weight of a token on one that comes later.
    """
    place = question.at
    where: dict[str, Any] = {"layers": place.layer}
    if place.head is not None:
        where["heads"] = place.head
    if question.key is None:
        return where | {"positions": "all" if place.at is None else place.at}
    query = int(base.at(place.at)[0])  # type: ignore[arg-type]
    if question.key > query:
        raise BadInput(
            f"Token {query} cannot look at token {question.key}, which comes later, so there is no weight to change. "
            "Choose a key that is not after the query."
        )
    return where | {"queries": query, "keys": question.key}


def value_at(trace: Any, place: Place, key: int | None = None) -> Tensor:  # [position, (head,) width]; of a pattern [1]
    """What stands at the place of an edit in a run of one prompt."""
    if key is None:
        return trace[place.site, place.layer][0]
    return trace[place.site, place.layer][0, place.head, trace.prompts.at(place.at)[0], key]


def edit_of(
    subject: Subject, question: Question, trace: Any, source: Prompts | None, where: dict[str, Any]
) -> tuple[Edit, str, str]:
    """The edit, the Python that makes it, and what is said of it after the place."""
    place = question.at
    written_where = ", ".join(f"{k}={v!r}" for k, v in where.items())
    if question.edit == "patch":
        assert source is not None
        line = f"edit = cutaway.patch({place.site!r}, source, {written_where})"
        return patch(place.site, source, **where), line, f" with its value in “{prose(question.other, 60)}”"
    if question.edit == "zero":
        return ablate(place.site, **where), f"edit = cutaway.ablate({place.site!r}, {written_where})", ""
    vector, how, named = _direction(subject, question, trace, source)
    if question.edit == "remove":
        line = f"edit = cutaway.project_out({place.site!r}, v, {written_where})"
        return project_out(place.site, vector, **where), f"{how}\n{line}", f" {named}"
    size = _size(value_at(trace, place), place)
    scale = question.scale * size / max(float(vector.norm()), 1e-12)
    unit = f"scale = {scale:.6g}  # {question.scale:g} x the mean length there / the vector's own"
    line = f"{how}\n{unit}\nedit = cutaway.add({place.site!r}, v, scale, {written_where})"
    return add(place.site, vector, scale, **where), line, f" {question.scale:+g} lengths of {named}"


def _size(here: Tensor, place: Place) -> float:
    """How long what stands at the place is, on average over the positions that are edited."""
    some = here if place.head is None else here[:, place.head]
    some = some if place.at is None else some[place.at][None]  # type: ignore[index]
    return float(some.float().norm(dim=-1).mean())


def _direction(subject: Subject, question: Question, trace: Any, source: Prompts | None) -> tuple[Tensor, str, str]:
    place, model = question.at, subject.model
    if question.toward:
        if SITES[place.site].axes != ("prompt", "position", "d_model"):
            raise BadInput(
                f"A token's direction lies in the stream, not in {place.site}. Choose a place in the stream "
                "(resid_pre, resid_post, attn_out, mlp_out), or leave the token out and give a second prompt."
            )
        toward = subject.token(question.toward)
        against = [subject.token(question.against)] if question.against else None
        vector = model.directions([toward], against)[0]
        named = f"the direction of {quoted(subject.text(toward))}"
        named += f" against {quoted(subject.text(against[0]))}" if against else ""
        return vector, f"v = m.directions([{toward!r}]" + (f", [{against[0]!r}])[0]" if against else ")[0]"), named
    assert source is not None
    if not isinstance(place.at, int):
        raise BadInput("The difference of two prompts needs one position. Write it after the place, as in @-1.")
    other = subject.trace(question.other)
    mine, theirs = value_at(trace, place)[place.at], value_at(other, place)[place.at]
    index = f"[0, {place.at}]"
    if place.head is not None:
        mine, theirs, index = mine[place.head], theirs[place.head], f"[0, {place.at}, {place.head}]"
    vector = (theirs - mine).flatten()
    if not bool(vector.norm() > 0):
        raise BadInput(f"The two prompts have the same value at {place}, so their difference has no direction.")
    here = f"{place.site!r}, {place.layer}"
    how = f"v = m.trace(source)[{here}]{index} - m.trace(base)[{here}]{index}"
    return vector, how, f"the difference to “{prose(question.other, 60)}”"


def controls_of(
    subject: Subject, question: Question, base: Prompts, source: Prompts | None, change: Tensor, where: dict[str, Any]
) -> tuple[dict[str, Edit], list[str]]:
    """The edits that mean nothing, by name, and the Python that makes and runs them."""
    place, model = question.at, subject.model
    named = ", ".join(f"{k}={v!r}" for k, v in where.items())
    if question.key is None:
        made: dict[str, Edit] = {SAME_LENGTH: same_length(place.site, change, DRAWS, **where)}
        at = f"[{place.site!r}, {place.layer}][0]"
        lines = [
            f"change = m.trace(base, edits=edit){at} - m.trace(base){at}",
            f"controls = {{{SAME_LENGTH!r}: control.same_length({place.site!r}, change, {DRAWS}, {named})}}",
        ]
    else:
        query = where["queries"]
        made = same_weight(float(change), place.layer, place.head, query, question.key, model.n_heads, DRAWS)  # type: ignore[arg-type]
        entry = f"{place.head}, {query}, {question.key}"
        at = f"['pattern', {place.layer}][0, {entry}]"
        lines = [
            f"by = float(m.trace(base, edits=edit){at} - m.trace(base){at})",
            f"controls = control.same_weight(by, {place.layer}, {entry}, m.n_heads, {DRAWS})",
        ]
    if question.edit == "patch" and source is not None and isinstance(place.at, int | None):
        words = other_words(model, base, source, DRAWS)
        if words:
            made[OTHER_WORD] = patched_from(place.site, words, **where)
            lines += [
                f"words = control.other_words(m, base, source, {DRAWS})",
                f"controls[{OTHER_WORD!r}] = control.patched_from({place.site!r}, words, {named})",
            ]
    return made, [
        "from cutaway.explorer import control",
        *lines,
        "draws = {name: cutaway.sweep(m, base, one, metric=metrics) for name, one in controls.items()}",
        "for name, one in draws.items():",
        f'    print(name, one["effect"].sel(metric={question.metric!r}).values.ravel())',
    ]
