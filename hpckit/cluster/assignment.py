"""Labels and loss of all objects, without the distances of all to all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from hpckit.cluster import quantization
from hpckit.cluster.inputs import Problem
from hpckit.cluster.matrix import Matrix
from hpckit.cluster.pairs import Pairs, pairs_of
from hpckit.trace import span

_AT_ONCE = 2**18  # distances
_FEW = 2**12  # ticks: where many objects are nearer to their medoids, distances are to be wide


def assign(problem: Problem, medoids: np.ndarray) -> tuple[np.ndarray, float]:
    """Each object's nearest medoid, (n,) int64, the lowest of equals; and all cost (collective)."""
    ranks, others = problem.ranks, problem.n - problem.k
    with span("labels"):
        for wide in (False, True):
            labels, nearest = [np.empty(0, np.int64)], [np.empty(0)]
            exponent, pieces = to_medoids(problem, medoids, wide)
            for distances in pieces:
                labels.append(distances.argmin(axis=1))
                nearest.append(distances.min(axis=1))
            costs = ranks.join(np.concatenate(nearest))
            if np.count_nonzero(costs < _FEW) - problem.k <= others / 16:
                break
        loss = math.fsum(problem.weights * costs)  # the same whatever the ranks were
        return ranks.join(np.concatenate(labels)), math.ldexp(
            loss, exponent + problem.weight_exponent
        )


def to_medoids(
    problem: Problem, medoids: np.ndarray, wide: bool
) -> tuple[int, Iterator[np.ndarray]]:
    """Exponent of a tick; this rank's objects' ticks to the medoids, pieces (any, k) of floats."""
    return (_given if isinstance(problem.data, Matrix) else _computed)(problem, medoids, wide)


def _given(problem: Problem, medoids: np.ndarray, wide: bool) -> tuple[int, Iterator[np.ndarray]]:
    distances = problem.data.columns(medoids, *problem.ranks.block(problem.n))
    exponent = _exponent(problem, lambda: quantization.largest(distances), wide)
    if wide:
        return 0, iter([distances])
    ticks = np.empty(distances.shape, np.float32)
    quantization.to_ticks(distances, exponent, ticks)
    return exponent, iter([ticks])


def _computed(
    problem: Problem, medoids: np.ndarray, wide: bool
) -> tuple[int, Iterator[np.ndarray]]:
    pairs = pairs_of(problem.data, problem.metric, medoids, by_candidate=False)
    own = np.arange(*problem.ranks.block(problem.n))
    exponent = _exponent(problem, lambda: pairs.largest(own), wide, pairs.scale)
    return exponent, _ticks(pairs, own, len(medoids), exponent, wide)


def _ticks(
    pairs: Pairs, own: np.ndarray, k: int, exponent: int, wide: bool
) -> Iterator[np.ndarray]:
    room = np.empty((_AT_ONCE // k + 1, k), np.float32)
    for start in range(0, len(own), len(room)):
        some = own[start : start + len(room)]
        pairs.fill(some, exponent, room, wide=wide)
        yield room[: len(some)]


def _exponent(problem: Problem, largest: Callable[[], float], wide: bool, scale: int = 0) -> int:
    top, digits = 0.0, quantization.WIDE_BITS if wide else quantization.DISTANCE_BITS
    with problem.ranks.together():  # values that are no distances
        top = largest()
    return (
        quantization.exponent(problem.ranks.maximum(top), digits, "largest distance", scale) + scale
    )
