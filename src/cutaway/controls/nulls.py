"""What chance alone would do: the closed-form null of a readout edit, and p-values from draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

Array = NDArray[np.float64]


def pair_flip_probability(margin: ArrayLike, norm: ArrayLike, readout: ArrayLike, width: int) -> Array:
    """Chance that an isotropic vector turns a linear pair margin negative.

    The margin m = <w, c(x)> of answer against argument changes by <w, v>. For v uniform on the sphere of radius r this
    is r |w| times the cosine of a random angle, whose square has a Beta(1/2, (d-1)/2) distribution, so the chance is
    exact; in many dimensions it is close to Phi(-m sqrt(d) / (r |w|)), and it goes to 1/2 as r grows. It is the null
    of this PAIR: that another token comes out on top is another matter.

    Args:
        margin: m. norm: r. readout: |w|, of the centred readout direction where the norm centres. width: d.
    """
    m = np.asarray(margin, dtype=np.float64)
    reach = np.asarray(norm, dtype=np.float64) * np.asarray(readout, dtype=np.float64)  # the largest change there is
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.where(reach == 0, np.sign(m) * np.inf, m / reach)
    beyond = 0.5 * betainc((width - 1) / 2, 0.5, 1 - np.clip(cosine, -1, 1) ** 2)
    return np.where(cosine >= 0, beyond, 1 - beyond)


def null_unit(norm: ArrayLike, readout: ArrayLike, width: int) -> Array:
    """r |w| / sqrt(d): the standard deviation of the change of a linear margin under isotropic vectors of norm r."""
    return np.asarray(norm, dtype=np.float64) * np.asarray(readout, dtype=np.float64) / np.sqrt(width)


def empirical_p(observed: ArrayLike, draws: ArrayLike, side: str = "greater") -> Array:
    """(1 + number of draws at least as extreme) / (1 + draws), never 0 (Phipson and Smyth 2010).

    Args:
        observed: [...]. draws: [draw, ...]; NaN draws are left out.
        side: `"greater"`, `"less"` or `"two"` (larger in size).
    """
    one, many = np.asarray(observed, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if side == "two":
        one, many = np.abs(one), np.abs(many)
    slack = 1e-12 * np.abs(one)  # a draw that is equal but for rounding counts
    reached = many <= one + slack if side == "less" else many >= one - slack
    there = np.isfinite(many)
    p = (1 + (reached & there).sum(0)) / (1 + there.sum(0))
    return np.where(np.isfinite(one) & there.any(0), p, np.nan)
