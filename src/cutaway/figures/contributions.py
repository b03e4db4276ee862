"""Attributions as pictures and tables: what every part wrote, adding up, splitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .. import views
from ..views import Cell, Picture, Table, Term, num, plus
from ..wording import number, several, shown_text, signed

Terms = list[tuple[str, float]]
SOURCES = 8
"""Source tokens that a head opens into; the others are one term, so that the sum stays."""


def largest(terms: xr.DataArray, top: int) -> Terms:
    """The terms of one prompt in the model's order; beyond `top`, the small ones as one, so that the sum stays."""
    names, values = terms.term.values, terms.values
    if len(values) <= top + 1:
        return [(str(n), float(v)) for n, v in zip(names, values, strict=True)]
    kept = sorted(np.argsort(-np.abs(values))[:top])
    chosen = [(str(names[i]), float(values[i])) for i in kept]
    return [*chosen, (several(len(values) - top, "smaller term"), float(values.sum() - values[kept].sum()))]


def contributions(terms: xr.DataArray, prompt: int, top: int = 14, code: str = "") -> Picture:
    """The terms of one prompt as bars that add up."""
    one = terms.isel(prompt=prompt)
    chosen, total = largest(one, top), float(one.sum())
    quantity = shown_text(str(one["quantity"].values))
    title = f"{quantity} = {signed(total)} {terms.attrs['units']}, by {terms.attrs['by']}"
    caption = (
        f"{quantity} = {signed(total)} {terms.attrs['units']}, by {terms.attrs['by']}: each bar starts where "
        "the one above it ends; blue adds, red takes away."
    )
    index = {str(name): i for i, name in enumerate(one.term.values)}
    places = [place_of(one, index[name]) if name in index else {} for name, _ in chosen]
    picture = views.waterfall(chosen, total, title, str(terms.attrs["units"]), places)
    return Picture(picture, caption, views.spoken(chosen, total), code=code, places={"prompt": prompt})


def contribution_table(terms: xr.DataArray, prompt: int, top: int | None = None) -> Table:
    """The terms of one prompt with what they are made of and what removing them from the readout would do."""
    one = terms.isel(prompt=prompt)
    order = list(range(one.sizes["term"]))
    if top is not None:
        order = sorted(order, key=lambda i: -abs(float(one[i])))[:top]
    rows: list[list[str | Cell]] = [
        [
            str(one.term.values[i]),
            num(one["dot"].values[i], 4),
            plus(one.values[i], 4),
            plus(one["removal_frozen"].values[i]),
            plus(one["removal_true"].values[i]),
            plus(one["removal_difference"].values[i]),
        ]
        for i in order
    ]
    if top is None:
        rows.append(["sum", "", plus(float(one.sum()), 4), "", "", ""])
    which = (
        "Terms" if top is None or top >= one.sizes["term"] else f"The {len(order)} largest of {one.sizes['term']} terms"
    )
    return Table(
        f"{which} by {terms.attrs['by']}; contribution = inner product x 1/s, 1/s = {number(one['inv_norm'], 6)}. "
        "Removal: change of the readout without the term, the norm's scale held or taken anew.",
        ["term", "inner product", "contribution", "removed, scale held", "removed, scale anew", "difference"],
        rows,
        ["term"],
    )


def place_of(terms: xr.DataArray | xr.Dataset, i: int) -> dict[str, int]:
    """Where a term stands: its layer, head, neuron and source position, as far as it has them."""
    return {mine: int(terms[name].values[i]) for name, mine in _PLACES.items() if int(terms[name].values[i]) >= 0}


_PLACES = {"layer": "layer", "head": "head", "neuron": "neuron", "key": "position"}


def split_terms(
    arrays: Mapping[str, Any], values: Any, tokens: Sequence[str] = (), between: tuple[str, str] | None = None
) -> list[Term]:
    """`by_layer`, `by_component`, `by_head` and `by_source` of `arrays` as one tree: each term with what adds up to it.

    Args:
        arrays: whichever of the four there are; the finest that is missing is where opening ends.
        values: from one of them to its values, [term].
        tokens: texts of source positions. between: names of the ends of the terms' intervals.
    """
    made = {by: _terms(arrays[f"by_{by}"], values, tokens, between) for by in _DEPTHS if f"by_{by}" in arrays}
    chosen = [made[by] for by in _DEPTHS if by in made]
    if not chosen:
        return []
    finer = chosen[-1]
    for coarse in reversed(chosen[:-1]):
        near = _by_place(finer)
        finer = [_opened(term, near.get(_place(term, "head" in term.places), [])) for term in coarse]
    return finer


_DEPTHS = ("layer", "component", "head", "source")


def _terms(data: Any, values: Any, tokens: Sequence[str], between: tuple[str, str] | None) -> list[Term]:
    numbers = values(data)
    low, high = (data[name].values if between else np.full(len(numbers), np.nan) for name in between or ("", ""))
    made = []
    where = {mine: data[name].values.tolist() for name, mine in _PLACES.items()}  # all at once: an array's are slow
    kinds = data["kind"].values.tolist()
    for i, name in enumerate(data["term"].values):
        place: dict[str, int | str] = {mine: at[i] for mine, at in where.items() if at[i] >= 0}
        key = place.get("position")
        shown = f"from {key} {tokens[int(key)]}" if kinds[i] == "source" and key is not None and tokens else str(name)
        if "." in str(name) and "head" not in place:
            place["term"] = str(name)
        made.append(Term(shown, float(numbers[i]), low=float(low[i]), high=float(high[i]), places=place))
    return made


def _place(term: Term, by_head: bool) -> tuple[object, ...]:
    return (term.places.get("layer"), term.places.get("head")) if by_head else (term.places.get("layer"),)


def _by_place(terms: Sequence[Term]) -> dict[tuple[object, ...], list[Term]]:
    """Terms by layer, and by layer and head: only these can lie in a term there."""
    found: dict[tuple[object, ...], list[Term]] = {}
    for term in terms:
        for by_head in (False, True):
            found.setdefault(_place(term, by_head), []).append(term)
    return found


def _opened(term: Term, finer: Sequence[Term]) -> Term:
    """A term with those finer terms that lie in it, if they add up to it; many sources end in one for the rest."""
    inside = [part for part in finer if _inside(part, term)]
    total = sum(part.value for part in inside)
    if len(inside) < 2 or abs(total - term.value) > 1e-5 + 1e-4 * sum(abs(part.value) for part in inside):
        return term
    if "head" in term.places and len(inside) > SOURCES + 1:
        kept = sorted(sorted(range(len(inside)), key=lambda i: -abs(inside[i].value))[:SOURCES])
        rest = total - sum(inside[i].value for i in kept)
        inside = [*(inside[i] for i in kept), Term(several(len(inside) - SOURCES, "smaller source"), rest)]
    return Term(term.name, term.value, inside, term.low, term.high, term.places)


def _inside(part: Term, whole: Term) -> bool:
    mine, other = part.places, whole.places
    if part.name == whole.name or mine.get("layer") != other.get("layer") or "layer" not in other:
        return False
    if "head" in other:
        return mine.get("head") == other["head"] and "position" in mine
    component = str(other.get("term", ""))
    if component:
        attends = component.endswith((".attn", ".mixer"))
        return attends and (part.name.startswith(component) or "head" in mine)
    return True


def splitting(
    terms: Sequence[Term], total: float, title: str, unit: str, caption: str, code: str = "", prompt: int | None = None
) -> Picture:
    """The tree as a figure: bars that add up and open."""
    words = views.spoken([(term.name, term.value) for term in terms], total)
    table = views.splitting_table(terms, f"{title}, with the parts of every term.")
    places = {} if prompt is None else {"prompt": prompt}
    return Picture(views.splitting(terms, total, title, unit), caption, words, table, code, "splitting", places=places)
