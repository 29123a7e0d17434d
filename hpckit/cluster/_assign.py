"""Labels and loss of all objects, without the distances of all to all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from hpckit.cluster import _metrics, _quant
from hpckit.cluster._input import Problem
from hpckit.cluster._matrix import Matrix
from hpckit.trace import span

_AT_ONCE = 2**18  # distances


def assign(problem: Problem, medoids: np.ndarray) -> tuple[np.ndarray, float]:
    """For each object the nearest medoid, (n,) int64, the lowest among equals; and what all cost (collective)."""
    labels, nearest = [np.empty(0, np.int64)], [np.empty(0)]
    with span("labels"):
        exponent, pieces = to_medoids(problem, medoids)
        for ticks in pieces:
            labels.append(ticks.argmin(axis=1))
            nearest.append(ticks.min(axis=1))
        loss = problem.weights @ problem.ranks.join(np.concatenate(nearest))  # whole numbers: exact
        return problem.ranks.join(np.concatenate(labels)), math.ldexp(loss, exponent + problem.weight_exponent)


def to_medoids(problem: Problem, medoids: np.ndarray) -> tuple[int, Iterator[np.ndarray]]:
    """Exponent of a tick; and of this rank's objects, piece by piece, the ticks to the medoids, (any, k) float32."""
    return (_given if isinstance(problem.data, Matrix) else _computed)(problem, medoids)


def _given(problem: Problem, medoids: np.ndarray) -> tuple[int, Iterator[np.ndarray]]:
    distances = problem.data.columns(medoids, *problem.ranks.block(problem.n))
    exponent = _exponent(problem, lambda: _quant.largest(distances))
    ticks = np.empty(distances.shape, np.float32)
    _quant.to_ticks(distances, exponent, ticks)
    return exponent, iter([ticks])


def _computed(problem: Problem, medoids: np.ndarray) -> tuple[int, Iterator[np.ndarray]]:
    pairs = _metrics.pairs(problem.data, problem.metric, medoids, by_candidate=False)
    own = np.arange(*problem.ranks.block(problem.n))
    exponent = _exponent(problem, lambda: pairs.largest(own), pairs.scale)
    return exponent, _ticks(pairs, own, len(medoids), exponent)


def _ticks(pairs: _metrics.Pairs, own: np.ndarray, k: int, exponent: int) -> Iterator[np.ndarray]:
    room = np.empty((_AT_ONCE // k + 1, k), np.float32)
    for start in range(0, len(own), len(room)):
        some = own[start : start + len(room)]
        pairs.fill(some, exponent, room)
        yield room[: len(some)]


def _exponent(problem: Problem, largest: Callable[[], float], scale: int = 0) -> int:
    top = 0.0
    with problem.ranks.together():  # values that are no distances
        top = largest()
    return _quant.exponent(problem.ranks.maximum(top), _quant.DISTANCE_BITS, "largest distance", scale) + scale
