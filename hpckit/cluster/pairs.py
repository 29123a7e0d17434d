"""Distances between points, in ticks; a pair's bits depend on nothing but the pair.

Each pair is one loop over its coordinates in float64, in their order: D[o, j] = D[j, o], and equal
points are at distance 0. A matrix product would round differently in blocks of different shapes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hpckit import native
from hpckit.cluster import quantization
from hpckit.cluster.metrics import AnyMetric, Kernel, definition

LANES = 64  # columns that the kernels take together
_ROWS = 32  # points that are computed together: their part of the table stays in the cache
_VALUES = 2**20  # of a callable, kept in float64 at once


class Pairs(ABC):
    """Distances of any points, the rows, to some that are fixed, the columns.

    scale : what `largest` returns is in units of 2**scale
    """

    scale: int

    @abstractmethod
    def largest(self, rows: np.ndarray) -> float:
        """No less than the largest distance of these points to the columns."""

    @abstractmethod
    def fill(self, rows: np.ndarray, exponent: int, out: np.ndarray, *, wide: bool = False) -> None:
        """Distances of these points to all columns, ticks of 2**exponent, into rows of `out`."""


def pairs_of(
    points: np.ndarray, metric: AnyMetric, columns: np.ndarray, *, by_candidate: bool
) -> Pairs:
    """Distances of points (n, d) float64 to `columns`; rows are candidates if `by_candidate`.

    Raises `ConfigError` where cosine meets a point that is zero.
    """
    if isinstance(metric, str):
        found = definition(metric)
        assert found is not None and found.kernel is not None  # `Metric.fastest` says so
        return _ByKernel(points, found.kernel, columns)
    return _ByFunction(points, metric, columns, by_candidate)


class _ByKernel(Pairs):
    """By the kernels, which are symmetric.

    Points are scaled by a power of two, so that squares do not overflow. The largest distance is
    not searched for, but bounded (`metrics.Kernel.bound`).
    """

    def __init__(self, points: np.ndarray, kernel: Kernel, columns: np.ndarray) -> None:
        self._x, exponent = kernel.prepared(points)
        self.scale = kernel.degree * exponent
        self._kernel = getattr(native.load("hpckit.cluster.kernels.metrics"), kernel.name)
        self._factor = kernel.factor(points.shape[1])
        self._bound = self._factor * kernel.bound(self._x)
        self._size = len(columns)
        self._y = np.zeros((-(-self._size // LANES), points.shape[1], LANES))
        for block, start in zip(self._y, range(0, self._size, LANES), strict=True):
            block[:, : self._size - start] = self._x[columns[start : start + LANES]].T

    def largest(self, rows: np.ndarray) -> float:
        return self._bound

    def fill(self, rows: np.ndarray, exponent: int, out: np.ndarray, *, wide: bool = False) -> None:
        ticks = math.ldexp(self._factor, self.scale - exponent), quantization.rounding(wide)
        stride = out.strides[0] // out.itemsize
        columns = native.address(self._y), self._size, self._x.shape[1]
        for start in range(0, len(rows), _ROWS):
            x = self._x[rows[start : start + _ROWS]]
            self._kernel(
                native.address(x), len(x), *columns, *ticks, native.address(out[start:]), stride
            )


class _ByFunction(Pairs):
    """By a function of two points; what numba has compiled stays compiled."""

    scale = 0

    def __init__(
        self, points: np.ndarray, metric: Callable, columns: np.ndarray, by_candidate: bool
    ) -> None:
        self._x = points
        self._y = points[columns]
        self._by_candidate = by_candidate
        self._values = _each_pair(metric)

    def largest(self, rows: np.ndarray) -> float:
        return max((quantization.largest(values) for _, values in self._pieces(rows)), default=0.0)

    def fill(self, rows: np.ndarray, exponent: int, out: np.ndarray, *, wide: bool = False) -> None:
        for start, values in self._pieces(rows):
            quantization.to_ticks(
                values, exponent, out[start : start + len(values), : len(self._y)], wide=wide
            )

    def _pieces(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        step = _VALUES // max(1, len(self._y)) + 1
        for start in range(0, len(rows), step):
            x = self._x[rows[start : start + step]]
            values = np.empty((len(x), len(self._y)))
            if self._by_candidate:
                self._values(self._y, x, values.T)
            else:
                self._values(x, self._y, values)
            yield start, values


def _each_pair(metric: Callable) -> Callable[[np.ndarray, np.ndarray, np.ndarray], Any]:
    """`each(objects, candidates, values)`: values[o, j] = metric(objects[o], candidates[j])."""
    if table := getattr(metric, "table", None):  # of a `Metric`: many pairs at once
        return lambda objects, candidates, values: np.copyto(values, table(objects, candidates))
    if hasattr(metric, "py_func"):  # numba's, so numba is there
        from hpckit.cluster.kernels.user_metric import each_pair

        return each_pair(metric)

    def each(objects: np.ndarray, candidates: np.ndarray, values: np.ndarray) -> None:
        for o, x in enumerate(objects):
            values[o] = [metric(x, y) for y in candidates]

    return each
