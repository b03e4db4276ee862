"""The same pictures as PNG, by matplotlib, for slides and papers."""

from __future__ import annotations

import io

import xarray as xr

from ..errors import BadInput
from ..figures import largest
from ..wording import label, shown_text, signed


def contributions_png(terms: xr.DataArray, top: int = 14) -> bytes:
    """The terms of the first prompt as bars that add up."""
    one = terms.isel(prompt=0)
    chosen, total = largest(one, top), float(one.sum())
    figure, axes = _figure(7.5, 0.3 * len(chosen) + 1.4)
    at = 0.0
    for row, (_, value) in enumerate(chosen):
        axes.barh(row, value, left=at, color="#2166ac" if value >= 0 else "#b2182b")
        at += value
        axes.text(1.02, row, signed(value), transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.barh(len(chosen), total, color="#4a4f5a")
    axes.text(1.02, len(chosen), signed(total), transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(range(len(chosen) + 1), [_literal(name) for name, _ in chosen] + ["sum"])
    axes.invert_yaxis()
    axes.axvline(0, color="#5b6270", linewidth=0.8)
    axes.set_xlabel(str(terms.attrs["units"]))
    axes.set_title(_literal(shown_text(str(one["quantity"].values))), fontsize=10)
    return _bytes(figure)


def lens_png(lens: xr.Dataset) -> bytes:
    """The first prompt's lens: first choice in the cell, shaded by its probability from 0 to 1."""
    one = lens.isel(prompt=0, rank=0)
    positions = [p for p, token in enumerate(one["input_token"].values) if token]
    shade = one["probability"].values[:, positions]
    figure, axes = _figure(1.1 * len(positions) + 1.5, 0.32 * len(shade) + 1.4)
    drawn = axes.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (k, p), value in zip(
        ((k, p) for k in range(len(shade)) for p in range(len(positions))), shade.flat, strict=True
    ):
        token = _literal(label(str(one["token"].values[k, positions[p]]), 12))
        axes.text(p, k, token, ha="center", va="center", fontsize=8, color="white" if value > 0.6 else "black")
    names = [f"{p}\n{_literal(label(str(one['input_token'].values[p]), 12))}" for p in positions]
    axes.set_xticks(range(len(positions)), names, fontsize=8)
    axes.set_yticks(range(len(shade)), [f"L{layer}" for layer in one["layer"].values])
    figure.colorbar(drawn, label="probability of the token shown")
    axes.set_title("Logit lens", fontsize=10)
    return _bytes(figure)


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("A .png needs matplotlib. Install it: pip install 'cutaway[plot]'. Or write .svg.") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _literal(text: str) -> str:
    """Text in which a dollar sign is a dollar sign and not mathematics."""
    return text.replace("$", r"\$")


def _bytes(figure: object) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200)  # type: ignore[attr-defined]
    return file.getvalue()
