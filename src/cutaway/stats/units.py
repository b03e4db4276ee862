"""The unit of every interval and test: the family, a set of prompts that are not independent of each other.

Values come as [prompt, cell...]: the prompt axis first, then any grid (layer, position, head, ...), or no grid at all.
They are averaged within each family first, and each family then counts once, whatever its number of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadInput

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Families = Sequence[Any] | NDArray[Any] | None


@dataclass(frozen=True)
class FamilyMeans:
    """Values averaged within families.

    Attributes:
        means: [family, cell...], in the unit of the values, in the order of `labels`.
        labels: the families' labels as text, sorted.
        sizes: prompts of each family, [family].
    """

    means: Array
    labels: tuple[str, ...]
    sizes: Indices

    @property
    def families(self) -> int:
        return len(self.labels)

    @property
    def prompts(self) -> int:
        return int(self.sizes.sum())


def numbers(values: ArrayLike, name: str = "values") -> Array:
    """`values` as a float64 array with the prompt axis first.

    An array that names its axes (`dims`) must have `prompt` first, and its names are used in messages.

    Raises:
        BadInput: no prompt axis, no prompts or no cells, or a NaN or infinity; the message says where the first one is.
    """
    if hasattr(values, "data_vars"):
        known = ", ".join(map(str, values.data_vars))
        raise BadInput(f"`{name}` is a dataset of several arrays ({known}). Choose one of them, as in found['effect'].")
    dims = [str(dim) for dim in getattr(values, "dims", ())]
    if dims and dims[0] != "prompt":
        raise BadInput(
            f"`{name}` has the axes {', '.join(dims)}: statistics need the prompts first, since they are what varies. "
            "Give it as .transpose('prompt', ...)."
        )
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.size == 0:
        raise BadInput(
            f"`{name}` has shape {array.shape}: statistics need an array with the prompts as its first axis and at "
            "least one number. Give [prompt] or [prompt, cell...]."
        )
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        axes = dims or ["prompt", *(f"cell axis {i}" for i in range(array.ndim - 1))]
        place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, where, strict=True))
        raise BadInput(
            f"`{name}` holds {int((~finite).sum())} of {array.size} values that are not finite, the first "
            f"({array[where]}) at {place}: averaging over them would hide it. Drop those prompts "
            "or cells, or repair the metric, and say how many were dropped."
        )
    return array


def codes(labels: Families, n: int, name: str = "families") -> tuple[tuple[str, ...], Indices]:
    """The sorted labels as text, and for each prompt the index of its label, [prompt]. None: each prompt its own.

    The entries of a labelled array are arrays themselves, whose text holds their coordinates: their value is taken.

    Raises:
        BadInput: not one label a prompt.
    """
    if labels is None:
        return tuple(str(i) for i in range(n)), np.arange(n)
    each = labels if isinstance(labels, Sequence) else np.asarray(labels)
    texts = [str(label.item() if getattr(label, "shape", None) == () else label) for label in each]
    if len(texts) != n:
        raise BadInput(f"`{name}` has {len(texts)} labels for {n} prompts. Give one label a prompt, in the same order.")
    known = sorted(set(texts))
    place = {label: i for i, label in enumerate(known)}
    return tuple(known), np.array([place[text] for text in texts], dtype=np.int64)


def family_means(values: ArrayLike, families: Families = None, name: str = "values") -> FamilyMeans:
    """Average `values` [prompt, cell...] within families: [family, cell...].

    The result does not depend on the order of the prompts, apart from rounding in the sums.

    Raises:
        BadInput: values that are not finite, or not one family label a prompt.
    """
    array = numbers(values, name)
    labels, index = codes(families, len(array))
    sizes = np.bincount(index, minlength=len(labels))
    if len(labels) == len(array):
        means = np.empty_like(array)
        means[index] = array
    else:
        order = np.argsort(index, kind="stable")
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        sums = np.add.reduceat(array[order], starts, axis=0)
        means = sums / sizes.reshape((-1,) + (1,) * (array.ndim - 1))
    return FamilyMeans(means, labels, sizes)


def enough(units: FamilyMeans, least: int = 2, what: str = "an interval") -> FamilyMeans:
    """`units`, if there are at least `least` families.

    Raises:
        BadInput: fewer.
    """
    if units.families < least:
        raise BadInput(
            f"{what} needs at least {least} families and these {units.prompts} prompts are of {units.families}: "
            "prompts of one family are not independent, so nothing says how far another family would differ. "
            "Add families, or report the value without it."
        )
    return units


def fraction(value: float, name: str) -> float:
    """`value`, if it lies strictly between 0 and 1.

    Raises:
        BadInput: it does not.
    """
    if not 0.0 < value < 1.0:
        raise BadInput(f"`{name}` is {value}; it is a probability strictly between 0 and 1, for example 0.05 or 0.95.")
    return float(value)


def draws_at_least(draws: int, least: int = 100) -> int:
    """`draws`, if there are enough for a quantile or a p-value.

    Raises:
        BadInput: fewer than `least`.
    """
    if draws < least:
        raise BadInput(f"`draws` is {draws}; with fewer than {least} the tails are noise. Use 2000 or more.")
    return int(draws)


def standard_error(means: Array) -> Array:
    """Standard error of the mean over families, [cell...]: sd with n - 1, over sqrt(n). Exactly 0 where all are equal.

    The deviations are taken from the first family before the mean is, so that equal values give 0 and not rounding.
    """
    shifted = means - means[0]
    return np.asarray(shifted.std(axis=0, ddof=1) / np.sqrt(len(means)))
