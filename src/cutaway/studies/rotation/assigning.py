"""The assignment problem without its matrix: each row gets a column of its own, and the sum of costs is the smallest.

Up to `PAIRS` costs are one matrix, for `scipy.optimize.linear_sum_assignment`. Above, the same algorithm (shortest
augmenting paths, Crouse 2016) asks for one row at a time and, where costs are equal, chooses as SciPy's does: both give
the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PAIRS = 2**23
"""Costs held at once: 64 MB."""


def assigned(row: Callable[[int], Array], rows: int, columns: int) -> NDArray[np.int64]:  # [row]
    """The column of each row.

    Args:
        row: the finite costs of one row, [column]. rows: at most as many as `columns`.
    """
    if rows * columns > PAIRS:
        return _by_rows(row, rows, columns)
    from scipy.optimize import linear_sum_assignment

    costs = np.empty((rows, columns))
    for i in range(rows):
        costs[i] = row(i)
    return np.asarray(linear_sum_assignment(costs)[1])


def _by_rows(row: Callable[[int], Array], rows: int, columns: int) -> NDArray[np.int64]:
    u, v = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for i in range(rows):
        sink, lowest, path, far, seen = _path(row, i, u, v, row_of)
        own = row_of[seen[:-1]]  # the rows that were reached, each by its column
        u[i] += lowest
        u[own] += lowest - far[seen[:-1]]
        v[seen] -= lowest - far[seen]
        column = sink
        while True:
            at = path[column]
            row_of[column] = at
            column_of[at], column = column, column_of[at]
            if at == i:
                break
    return column_of


def _path(
    row: Callable[[int], Array], i: int, u: Array, v: Array, row_of: NDArray[np.int64]
) -> tuple[int, float, NDArray[np.int64], Array, list[int]]:
    """The shortest path from a row to a free column.

    Returns:
        That column, the path's length, the row before each column, how far each column is, and the columns it settled.
    """
    left = np.arange(len(v))[::-1].copy()  # in SciPy's order
    path, far, seen = np.full(len(v), -1), np.full(len(v), np.inf), []
    lowest = 0.0
    while True:
        reached = (lowest + row(i)[left] - u[i]) - v[left]
        nearer = reached < far[left]
        path[left[nearer]] = i
        far[left[nearer]] = reached[nearer]
        here = far[left]
        lowest = float(here.min())
        nearest = np.flatnonzero(here == lowest)
        free = nearest[row_of[left[nearest]] == -1]
        index = int(free[-1] if len(free) else nearest[0])
        column = int(left[index])
        seen.append(column)
        if row_of[column] == -1:
            return column, lowest, path, far, seen
        i = int(row_of[column])
        left[index] = left[-1]
        left = left[:-1]
