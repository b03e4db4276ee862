"""Tokens at the labels of a grid: those of one prompt, the first of the longest, and in words whose they are."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from ..wording import label, prose

Pairs = Sequence[tuple[str, str]]
AXES = ("position", "query", "key", "read")
CORRUPTED = {"denoise": "→ of the corrupted {}", "noise": "→ of the corrupted prompt"}
FEW = 6
"""Labels that are named in a sentence."""


def with_tokens(data: xr.Dataset, found: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """`data`, which is `found` without its prompts, with an example's tokens at every axis of tokens.

    Coordinates `{axis}_here`: the token; `{axis}_there`: that of the other run with an arrow, "" where it is the same.
    Of `denoise` and `noise` clean → corrupted, of any other patch the base's ← the one whose value is put in. The
    attribute `tokens` says so.
    """
    said: list[str] = []
    if not any(axis in data["effect"].dims for axis in AXES):
        return data
    for axis in AXES:
        before = "" if axis == "position" else f"{axis}_"
        own, other = (found.coords.get(f"{before}{run}_token") for run in ("input", "source"))
        if axis not in data["effect"].dims or own is None or own.dims != ("prompt", axis):
            continue
        how = str(found.attrs.get("how", "")) if other is not None else ""
        clean_first = how in ("denoise", "noise")
        first, second = (other, own) if other is not None and how == "denoise" else (own, other)
        example = int((first.values != "").sum(1).argmax())  # the first of the longest
        here = [str(t) for t in first.values[example]]
        there = here if second is None else [str(t) for t in second.values[example]]
        arrow = "→" if clean_first else "←"
        data = data.assign_coords(
            {f"{axis}_here": (axis, here_names(here)), f"{axis}_there": (axis, _others(here, there, arrow))}
        )
        said = said or [_whose(found, how, example)]
        if here != there:
            said.append(CORRUPTED.get(how, "← that whose value is put in").format(_text(found, example)))
        said += _elsewhere(first, axis, example)
    return data.assign_attrs(tokens="; ".join(dict.fromkeys(said))) if said else data


def beneath(data: xr.Dataset | xr.DataArray, axis: str) -> list[tuple[str, str]] | None:
    """The token at each label of an axis and the other run's, as they are drawn; None where they are not known."""
    if f"{axis}_here" in data.coords:
        return [(str(a), str(b)) for a, b in zip(*(data[f"{axis}_{w}"].values for w in ("here", "there")), strict=True)]
    if axis == "position" and "clean_token" in data.coords:
        clean, other = ([str(t) for t in data[f"{run}_token"].values] for run in ("clean", "other"))
        return list(zip(here_names(clean), _others(clean, other, "→"), strict=True))
    return None


def told_of(data: xr.Dataset, axes: tuple[str, ...]) -> str:
    """What a caption says of the tokens; "" where there are none."""
    if any(f"{axis}_here" in data.coords for axis in axes):
        return f"; tokens: {data.attrs['tokens']}"
    pairs = [pair for axis in axes for pair in beneath(data, axis) or ()]
    if not pairs:
        return ""
    return "; tokens: of the first prompt" + (", → of the other run" if any(there for _, there in pairs) else "")


def named_by(labels: Sequence[str], tokens: Pairs | None) -> list[str]:
    """Labels with their tokens, where these are known."""
    if not tokens:
        return list(labels)
    return [" ".join(filter(None, [name, *pair])) for name, pair in zip(labels, tokens, strict=True)]


def here_names(tokens: list[str]) -> list[str]:
    """Tokens as they are written under a label; nothing where a prompt has none."""
    return [label(t, 12) if t else "" for t in tokens]


def _others(here: list[str], there: list[str], arrow: str) -> list[str]:
    return ["" if a == b or not b else f"{arrow} {label(b, 12)}" for a, b in zip(here, there, strict=True)]


def _text(found: xr.Dataset | xr.DataArray, example: int) -> str:
    return f"“{prose(str(found['text'].values[example]), 60)}”" if "text" in found.coords else "the prompt"


def _whose(found: xr.Dataset | xr.DataArray, how: str, example: int) -> str:
    """Whose tokens they are; where these are not the base's, their text is not in the result."""
    count, text = found.sizes["prompt"], "" if how == "denoise" else _text(found, example)
    if count == 1:
        return f"of {text or 'the clean prompt'}"
    which = "the first" if example == 0 else f"prompt {example}"
    return f"of {which} of {count} prompts{', ' if text else ''}{text}"


def _elsewhere(tokens: xr.DataArray, axis: str, example: int) -> list[str]:
    """Where other prompts have other tokens."""
    differ = (tokens.values != tokens.values[example]).any(0)
    at = [str(v) for v in tokens[axis].values[differ]] if axis in tokens.coords else []
    if not at:
        return []
    return [f"other prompts have others at {', '.join(at)}" if len(at) <= FEW else "other prompts have others"]
