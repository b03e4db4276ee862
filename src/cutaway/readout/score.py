"""The score of an update vector: does adding it bring the answer where the argument had the say, and does subtracting
it bring the argument back where the answer had it?

For each item, relative to the layer at which the model itself switches: of the layers before it where the argument has
the say, the share that become the answer when the vector is added; of the layers from it on where the answer has the
say, the share that fall back to the argument when it is subtracted. The item is the unit; layers are not independent of
each other. Items whose model never switches have no such layers: they are counted, not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import BadInput
from ..trace import Trace
from .editing import Scales, readout_edit
from .stages import NEVER, READINGS, stages

SHARES = ("before", "after", "score")


def readout_score(
    trace: Trace,
    vectors: Any,
    scale: Any = 1.0,
    reading: str = "pair",
    stage: xr.Dataset | None = None,
    anywhere: bool = False,
    parts: Sequence[str] = ("before", "after"),
) -> xr.Dataset:
    """The score of every vector on every item.

    Args:
        vectors, scale: as in `readout_edit`; `scale` is the strength, subtracted from the switch on.
        reading: `pair`, the larger logit of answer and argument; `top`, the whole vocabulary.
        stage: what `stages` found in this run, where it is at hand.
        anywhere: count every layer where the argument (the answer) has the say, also of items that never switch: for
            prompts on which the model keeps to the one or the other.
        parts: of `before` and `after`, those that are computed; the others are NaN.

    Returns:
        Dataset over prompt and vector (and scale) where they are axes: `before` (NaN where no layer before the switch
        has the argument), `after`, and `score`, the mean of those that exist; over prompt: `switch`, -1 where the model
        never does (all shares NaN), `n_before` and `n_after`, the layers counted.

    Raises:
        BadInput: an unknown reading, or as `readout_edit`.
    """
    if reading not in READINGS:
        raise BadInput(f"There is no reading {reading!r}. Known: {', '.join(READINGS)}.")
    stage = stages(trace) if stage is None else stage
    at = stage["switch"].sel(reading=reading).values  # [prompt]
    layers = stage["layer"].values
    if reading == "top":
        argument = stage["top_token"].values == trace.prompts.foils.numpy()[:, None]  # type: ignore[union-attr]
        answer = stage["top_token"].values == trace.prompts.answers.numpy()[:, None]  # type: ignore[union-attr]
    else:
        answer = stage["margin"].values > 0
        argument = ~answer
    there = (at != NEVER)[:, None]
    before, after = argument & there & (layers < at[:, None]), answer & there & (layers >= at[:, None])
    if anywhere:
        before, after = argument, answer
    measure = ("top_token",) if reading == "top" else ("logit_diff",)
    made: dict[str, np.ndarray] = {}
    dims: tuple[Any, ...] = ()
    coords: dict[Any, Any] = {}
    for name, which, sign in (("before", before, 1.0), ("after", after, -1.0)):
        used = [int(layer) for layer, some in zip(layers, which.any(0), strict=True) if some]
        if not used or name not in parts:
            continue
        cells = which[:, which.any(0)]
        edited = readout_edit(trace, vectors, _times(scale, sign), used, measure=measure, cells=cells)
        became = _became(trace, edited, reading, to_answer=name == "before")
        rest = became.ndim - 2
        weight = cells.reshape(*cells.shape, *(1,) * rest)
        n = weight.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            made[name] = np.where(n > 0, (became & weight).sum(1) / n, np.nan)
        dims = tuple(d for d in edited[measure[0]].dims if d not in ("prompt", "layer"))
        coords = {d: edited[d].values for d in dims}
        if "scale" in coords:
            coords["scale"] = list(Scales.of(scale).labels)  # as given: what is subtracted has them negative
    made = made or {"before": np.full(len(at), np.nan)}
    shape = next(iter(made.values())).shape
    both = [made.get(name, np.full(shape, np.nan)) for name in ("before", "after")]
    counted = sum(np.isfinite(x).astype(float) for x in both)
    with np.errstate(invalid="ignore"):
        score = np.where(counted > 0, np.nansum(both, axis=0) / counted, np.nan)
    data: dict[str, Any] = {n: (("prompt", *dims), x) for n, x in zip(SHARES, (*both, score), strict=True)}
    data |= {"switch": ("prompt", at), "n_before": ("prompt", before.sum(1)), "n_after": ("prompt", after.sum(1))}
    own = {k: stage[k] for k in ("prompt", "text", "family")}
    attrs = {**stage.attrs, "operation": "readout edit", "reading": reading, "anywhere": int(anywhere)}
    attrs["units"] = "share of layers, by item"
    return xr.Dataset(data, {**own, **coords}, attrs)


def _times(scale: Any, sign: float) -> Any:
    if isinstance(scale, dict):
        return {k: sign * v for k, v in scale.items()}
    if isinstance(scale, Sequence | np.ndarray):
        return [_times(s, sign) for s in scale]
    return sign * scale


def _became(trace: Trace, edited: xr.Dataset, reading: str, to_answer: bool) -> np.ndarray:
    if reading == "pair":
        margin = edited["logit_diff"].values
        return margin > 0 if to_answer else margin < 0
    aim = (trace.prompts.answers if to_answer else trace.prompts.foils).numpy()  # type: ignore[union-attr]
    top = edited["top_token"].values
    return top == aim.reshape(-1, *(1,) * (top.ndim - 1))
