"""Rotations as curves over blocks: how far each block turns a token's vector, and how far its size alone would."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .. import views
from ..views import Curve, Picture
from ..wording import several

SINGLE = 120
"""Tokens drawn as thin lines at most."""


def turning_figure(found: xr.Dataset, space: str) -> tuple[Picture, dict[str, list[float]], list[str]]:
    """The figure of one space; the means by name and the ticks, in degrees, for a plot."""
    one = found.sel(space=space)
    rows = {what: _rows(one[what]) for what in ("angle", "null")}
    kept = np.isfinite(rows["angle"]).all(1)
    angle, null = rows["angle"][kept], rows["null"][kept]
    ticks = [f"L{k}" for k in one["layer"].values]
    means = {"angle": angle.mean(0).tolist(), "orthogonal update": null.mean(0).tolist()}
    each = angle[:: max(1, -(-len(angle) // SINGLE))].tolist()
    curves = [Curve("angle", means["angle"], each=each), Curve("orthogonal update", means["orthogonal update"])]
    title = f"Angle by which each block turns a token, {space}"
    drawn = views.bands(curves, ticks, title, "degrees", axis="block")
    caption = (
        f"Mean over {several(len(angle), 'token')}, and a thin line for each of {len(each)}; dashed: what an update of "
        "the same size, orthogonal to the vector, would turn it by."
    )
    words = " ".join(views.spoken_line(name, line, ticks, False) for name, line in means.items())
    return Picture(drawn, caption, words), means, ticks


def _rows(data: xr.DataArray) -> np.ndarray:
    """[token, layer], in degrees."""
    return np.degrees(data.transpose(..., "layer").values.reshape(-1, data.sizes["layer"]))
