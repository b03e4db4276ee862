"""The page of one sweep: its grid with intervals and corrected tests, and how it was made."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ..errors import BadInput
from ..figures import effect_grid, share_unit
from ..saving import document, open_result
from ..views import interval, num, plus
from ..wording import capital, number, several, shown_text, signed
from .page import Cell, Content, Picture, Section, Table, Verbatim, render

FACETS = 12
"""Grids drawn of a sweep over three axes; the result has all."""

_HOW = {
    "denoise": "the clean value put into the corrupted run",
    "noise": "the corrupted value put into the clean run",
    "zero": "zero in its place",
    "mean": "the mean over corrupted runs in its place",
    "resample": "another prompt's value in its place",
}

_ENDS = {"denoise": ("restores", "clean"), "noise": ("breaks", "corrupted")}


def sweep_page(found: xr.Dataset, facts: Mapping[str, Any]) -> str:
    """The page. `found` is as `studies.effects.effects` makes it; `facts` is the document that goes with it."""
    title, subtitle, sections = sweep_sections(found, facts)
    return render(title, subtitle, sections, facts)


def sweep_sections(found: xr.Dataset, facts: Mapping[str, Any]) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of the page."""
    settings = facts["settings"]
    how, site, metric = (str(settings[key]) for key in ("how", "site", "metric"))
    shares = bool(np.isfinite(found["share"]).all())
    unit = share_unit(how, metric) if shares else f"change of {metric}"
    caption = f"{site}: {_HOW.get(how, how)}. Means over {found.attrs['families']} families of prompts"
    warnings = [str(found.attrs.get(key, "")) for key in ("warning", "no_share")]
    notes = [capital(str(text)) for text in (settings.get("note", ""), *warnings) if text]
    pictures: list[Picture | Table | Verbatim] = [
        effect_grid(
            part,
            f"{how} {site}{where}",
            caption,
            unit,
            "share" if shares else "effect",
            code=str(facts.get("python") or ""),
        )
        for where, part in _facets(found)
    ]
    rows = [[str(k), str(v)] for k, v in found.attrs.items()]
    chosen = [[str(k), str(v)] for k, v in settings.items() if v is not None]
    made: list[Picture | Table | Verbatim] = [
        Table("Run card", ["what", "value"], rows, ["what", "value"]),
        Table("Settings", ["what", "value"], chosen, ["what", "value"]),
    ]
    if facts.get("command"):
        made.append(Verbatim("The command that made this", str(facts["command"])))
    says = (
        "Patching asks what one part can restore or break while everything else stays in the other run. A part that "
        "another one stands in for can show nothing: small is not unused. Intervals and tests are over families of "
        "these prompts and do not speak for others."
    )
    sections = [
        Section("What was found", [_plainly(found, settings), *notes], pictures),
        Section("The largest", parts=[_largest(found)]),
        Section("What this does not say", [says]),
        Section("How this was made", parts=made, folded=True),
    ]
    count = several(int(found.attrs["prompts"]), "prompt")
    subtitle = f"Sweep of {site} · {settings['task']} · {found.attrs['model']} · {found.attrs['dtype']} · {count}"
    return shown_text(headline(found, settings)), subtitle, sections


def sweep_document(found: xr.Dataset, settings: Mapping[str, Any], command: str, python: str) -> dict[str, Any]:
    """What goes with a sweep as JSON. `command`, `python`: what makes it again."""
    return document("patch", settings=settings, result=found, command=command, python=python)


def open_sweep(folder: Any) -> Content:
    """What the page of a saved sweep is rendered from: title, subtitle, sections, facts.

    Raises:
        BadInput: it is no result folder, or holds something else.
    """
    arrays, facts = open_result(folder)
    if facts["kind"] != "patch" or "sweep" not in arrays:
        raise BadInput(f"{folder} holds a result of {facts['kind']!r}, not a sweep.")
    return *sweep_sections(arrays["sweep"], facts), facts


def headline(found: xr.Dataset, settings: Mapping[str, Any]) -> str:
    """The largest cell, in plain words, and how many differ from zero."""
    effect, p = found["effect"], found["p_corrected"].values
    at = np.unravel_index(int(np.nanargmax(np.abs(effect.values))), effect.shape)
    where = "".join(_named(str(d), effect[d].values[i]) for d, i in zip(effect.dims, at, strict=True))
    one = found.isel({str(d): int(i) for d, i in zip(effect.dims, at, strict=True)})
    moved = int((p <= 1 - float(found.attrs.get("level", 0.95)) + 1e-12).sum())
    how, metric = str(settings["how"]), str(settings["metric"])
    size = f"{signed(one['effect'])} [{signed(one['low'])}, {signed(one['high'])}]"
    way = _ENDS.get(how)
    if way is not None and np.isfinite(one["share"]):
        said = f"{way[0]} most, {number(one['share'])} of the way to the {way[1]} run ({metric} {size})"
    else:
        said = f"{way[0] if way else 'is missed'} most, {metric} {size}"
    return f"{settings['site']} of {where} {said}; {moved} of {p.size} cells differ from 0"


def _plainly(found: xr.Dataset, settings: Mapping[str, Any]) -> str:
    base, level = float(found["base"].mean()), 100 * float(found.attrs.get("level", 0.95))
    return (
        f"Without an edit, {settings['metric']} is {signed(base)} on average. Below: what each edit changes, with "
        f"{level:g} % t intervals over families; framed and starred cells differ from 0 by a sign-flip max-T test over "
        "the whole grid."
    )


def _named(dim: str, value: Any) -> str:
    """A cell's place in a sentence: `L3H2`, `L3 at S2`."""
    letter = {"layer": "L", "head": "H", "kv_head": "H"}.get(dim)
    return f" at {value}" if letter is None else f"{letter}{value}"


def _facets(found: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """The grid, or one for each value of its further axes."""
    dims = [str(d) for d in found["effect"].dims]
    further = sorted(dims, key=lambda d: d in ("layer", "head", "kv_head"))[: max(0, len(dims) - 2)]
    chosen = itertools.islice(itertools.product(*(range(found.sizes[d]) for d in further)), FACETS)
    made = []
    for at in chosen:
        place = dict(zip(further, at, strict=True))
        names = ", ".join(str(found[d].values[i]) for d, i in place.items())
        made.append((f" at {names}" if names else "", found.isel(place)))
    return made


def _largest(found: xr.Dataset, top: int = 12) -> Table:
    effect = found["effect"]
    dims = [str(d) for d in effect.dims]
    order = np.argsort(-np.abs(np.nan_to_num(effect.values)), axis=None)[:top]
    order = order[: max(1, np.count_nonzero(effect.values.flat[order]))]  # what is exactly 0 is in the grid
    rows: list[list[str | Cell]] = []
    places: list[dict[str, str | int]] = []
    for k in order:
        at = np.unravel_index(int(k), effect.shape)
        one = found.isel({d: int(i) for d, i in zip(dims, at, strict=True)})
        values = {d: str(effect[d].values[i]) for d, i in zip(dims, at, strict=True)}
        rows.append(
            [*values.values(), interval(one, ("effect", "low", "high")), num(one["p_corrected"], 2), plus(one["share"])]
        )
        places.append({d: v for d, v in values.items() if d in ("layer", "head", "position")})
    columns = [*dims, "effect [95 % interval]", "p corrected", "share"]
    caption = f"The {len(rows)} largest of {effect.size} cells; p by sign-flip max-T over all of them."
    return Table(caption, columns, rows, ["position"], places=places)
