"""Numbers for the script with every bit that they have, in few characters."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import ArrayLike


def packed(values: ArrayLike) -> str:
    """All numbers of an array, row by row: `f4:` or `f8:`, then little-endian floats in base64.

    Four bytes where that loses nothing, as of anything that came from float32; else eight.
    """
    whole = np.asarray(values, dtype="<f8").ravel()
    single = whole.astype("<f4")
    short = np.array_equal(single.astype("<f8"), whole, equal_nan=True)
    return f"{'f4' if short else 'f8'}:{base64.b64encode((single if short else whole).tobytes()).decode()}"
