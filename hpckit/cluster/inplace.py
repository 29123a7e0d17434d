"""Distances where the user has them: rows of a float32 matrix, read and rounded as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpckit import native
from hpckit.cluster import quantization
from hpckit.cluster.distances import Distances, Given, Rows, look_over
from hpckit.cluster.inputs import Problem
from hpckit.cluster.matrix import Whole
from hpckit.cluster.ranks import Ranks

_RANGE = 100  # largest exponent of a tick: it and its inverse must be float32


@dataclass(frozen=True)
class InPlace(Distances):
    """Nothing is copied.

    table : float32; (n, n), symmetric or transposed, if `by_candidate`, else (n, m).
    """

    table: np.ndarray

    @property
    def scale(self) -> float:
        return 1.0 if self.wide else math.ldexp(1, -self.exponent)

    def rows(self, items: np.ndarray) -> Rows:
        return Rows(self.table, items)

    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        if self.by_candidate:  # all ranks have all rows
            self._round(self.table[j], column)
            return
        if self.first <= j < self.first + self.m:
            self._round(self.table[:, j - self.first], column)
        ranks.share(column, self.candidates, j)

    def _round(self, values: np.ndarray, column: np.ndarray) -> None:
        if self.wide:
            column[:] = values
        else:
            np.rint(np.multiply(values, self.scale, out=column), out=column)


def find(problem: Problem, *, by_candidate: bool) -> InPlace | None:
    """This rank's distances, if the matrix has such rows or is symmetric (collective)."""
    ranks, n = problem.ranks, problem.n
    matrix = _matrix(problem)
    if ranks.maximum(matrix is None) or matrix is None:
        return None
    first, stop = ranks.block(n)
    rows, own, top = matrix.T if by_candidate else matrix, slice(first, stop), 0.0
    symmetric, threads = (
        ranks.maximum(rows.strides[1] != 4),
        ranks.gather(ranks.threads),
    )  # ranks may differ in both
    with ranks.together():
        if not symmetric:
            top = quantization.largest(rows[own] if by_candidate else rows[:, own])
        else:
            rows = rows if rows.strides[1] == 4 else rows.T
            top = _largest_symmetric(rows, ranks, threads)
    top = ranks.maximum(top)
    if top == math.inf:
        return None
    exponent, objects = (
        quantization.exponent(top, quantization.DISTANCE_BITS, "largest distance"),
        np.arange(n),
    )
    wide = Given(problem, objects, by_candidate).too_coarse(top)
    if wide:
        exponent = 0
    elif abs(exponent) >= _RANGE:
        return None
    look_over(matrix[own, own], ranks)
    table = rows if by_candidate else rows[:, own]
    return InPlace(objects, n, first, stop - first, by_candidate, exponent, wide, n, table)


def _matrix(problem: Problem) -> np.ndarray | None:
    """The matrix, if it may stay where it is and is contiguous along one axis."""
    matrix = (
        problem.data.data if isinstance(problem.data, Whole) and problem.memory == "auto" else None
    )
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.dtype("=f4"):
        return None
    return matrix if min(matrix.strides) == 4 and max(matrix.strides) % 4 == 0 else None


def _largest_symmetric(rows: np.ndarray, ranks: Ranks, threads: list[int]) -> float:
    """The largest in this rank's part of the matrix; infinite where it is not symmetric."""
    largest = native.load("hpckit.cluster.kernels.ticks").largest_symmetric
    first, parts = sum(threads[: ranks.rank]), sum(threads)

    def part(thread: int) -> float:
        return largest(native.address(rows), len(rows), rows.strides[0] // 4, first + thread, parts)

    return max(ranks.each(part))
