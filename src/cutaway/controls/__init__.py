"""Controls: random vectors of a given norm, the ladder made for a direction, closed-form nulls, p-values from draws."""

from .compare import VECTOR, Measure, against
from .draws import (
    covariance_units,
    difference_units,
    gaussian,
    generator,
    norm_matched,
    orthogonal_units,
    random_units,
    unit,
)
from .ladder import FIXED, GENERALISATION, NULL, RUNGS, Control, Material, ladder, without
from .nulls import empirical_p, null_unit, pair_flip_probability

__all__ = [
    "FIXED",
    "GENERALISATION",
    "NULL",
    "RUNGS",
    "VECTOR",
    "Control",
    "Material",
    "Measure",
    "against",
    "covariance_units",
    "difference_units",
    "empirical_p",
    "gaussian",
    "generator",
    "ladder",
    "norm_matched",
    "null_unit",
    "orthogonal_units",
    "pair_flip_probability",
    "random_units",
    "unit",
    "without",
]
