"""The first medoids."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpckit import native
from hpckit.cluster._dist import Distances
from hpckit.cluster._input import Problem
from hpckit.cluster._ranks import Ranks
from hpckit.errors import ConfigError


def medoids(problem: Problem, distances: Distances, ranks: Ranks, random_state: Any) -> np.ndarray:
    """(k,) int64, all different, the same on all ranks (collective)."""
    if not isinstance(problem.init, str):
        return problem.init.copy()
    if problem.init == "first":
        return np.arange(problem.k)
    if problem.init == "random":
        return _random(problem.n, problem.k, ranks, random_state)
    return _build(distances, problem.weights, problem.k, ranks)


def _random(n: int, k: int, ranks: Ranks, random_state: Any) -> np.ndarray:
    """Rank 0 draws for all, so that a generator, or no seed at all, is as good as a number."""
    drawn = np.empty(k, np.int64)
    with ranks.together():
        try:
            generator = np.random.default_rng(random_state)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"random_state={random_state!r} is neither a seed nor a generator: {error}") from error
        if ranks.rank == 0:
            drawn[:] = generator.choice(n, k, replace=False)
    ranks.share(drawn, n, 0)
    return drawn


def _build(distances: Distances, weights: np.ndarray, k: int, ranks: Ranks) -> np.ndarray:
    """PAM's BUILD: add the object that lowers the loss most, k times; among equals the lowest.

    The gain of a candidate is kept, and changes only by objects that the last medoid came nearer to; so the first
    step reads the whole matrix, and the others together about ln k times as much. Where nothing gains any more, the
    lowest objects that are no medoids follow.
    """
    kernels = native.load("hpckit.cluster.kernels")
    n, m, view = distances.n, distances.m, distances.view
    steps = (s // view.itemsize for s in view.strides)
    chosen, taken = np.empty(k, np.int64), np.zeros(n, np.int64)
    column, nearest, was = np.empty(n, np.float32), np.full(n, 2**24, np.float32), np.zeros(n, np.float32)
    changed, gain = np.arange(n), np.zeros(m)
    at_block, at_column, at_nearest, at_was, at_changed, at_weights, at_gain, at_taken, at_bid = map(
        native.address, (view, column, nearest, was, changed, weights, gain, taken, ranks.bid)
    )
    count, (so, sj) = n, steps
    for slot in range(k):
        kernels.build_update(at_block, so, sj, m, at_changed, count, at_was, at_nearest, at_weights, at_gain)
        kernels.best_addition(at_gain, m, distances.first, at_taken, at_bid)
        bid = ranks.settle()
        assert bid is not None  # k <= n: somebody has an object left
        chosen[slot] = bid.candidate
        taken[bid.candidate] = 1
        distances.fetch(bid.candidate, column, ranks)
        count = kernels.approach(n, at_column, at_nearest, at_changed, at_was)
    return chosen
