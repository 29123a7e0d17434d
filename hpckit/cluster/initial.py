"""The first medoids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpckit import native
from hpckit.cluster.distances import Distances
from hpckit.cluster.inputs import Problem
from hpckit.cluster.ranks import Ranks
from hpckit.cluster.tables import BLOCK
from hpckit.errors import ConfigError


def medoids(problem: Problem, distances: Distances) -> np.ndarray:
    """(k,) int64, all different, the same on all ranks (collective)."""
    if not isinstance(problem.init, str):
        return problem.init.copy()
    if problem.init == "first":
        return np.arange(problem.k)
    if problem.init == "heuristic":
        return _most_central(distances, problem)
    if problem.init == "build":
        return _build(distances, problem.weights, problem.k, problem.ranks)
    draws = generator(problem.random_state, problem.ranks)
    if problem.init == "random":
        return draws.choice(problem.n, problem.k, replace=False)
    add = _best_of_sample if problem.init == "lab" else _far_away
    start = _Start(distances, problem.weights, problem.ranks)
    return np.array([add(start, draws) for _ in range(problem.k)])


def generator(random_state: Any, ranks: Ranks) -> np.random.Generator:
    """Draws the same numbers on all ranks, whatever they passed: rank 0's seed (collective)."""
    seed = np.empty(1, np.int64)
    with ranks.together():
        try:
            seed[0] = np.random.default_rng(_source(random_state)).integers(2**63)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"random_state={random_state!r} is neither a seed nor a generator: {error}"
            ) from error
    ranks.share(seed, 1, 0)
    return np.random.default_rng(seed)


def _source(random_state: Any) -> Any:
    """What `default_rng` takes; before NumPy 2.2 it took no `RandomState`."""
    return (
        random_state._bit_generator
        if isinstance(random_state, np.random.RandomState)
        else random_state
    )


class _Start:
    """Medoids that are chosen one after another.

    taken : (candidates,) int64, 1 for medoids
    nearest : (n,) float32, ticks to the nearest of them, `far` while there is none
    changed, was : the first `count` are the objects that the last medoid came nearer to, and their
        `nearest` before
    """

    def __init__(self, distances: Distances, weights: np.ndarray, ranks: Ranks) -> None:
        n = distances.n
        self.distances = distances
        self.weights = weights
        self.ranks = ranks
        self.taken = np.zeros(distances.candidates, np.int64)
        self.nearest = np.full(n, distances.far, np.float32)
        self.changed = np.arange(n)
        self.was = np.zeros(n, np.float32)
        self.count = n
        self._column = np.empty(n, np.float32)
        arrays = self._column, self.nearest, self.changed, self.was
        approach = native.load("hpckit.cluster.kernels.build").approach
        self._approach = native.bind(approach, n, *map(native.address, arrays), keep=arrays)

    def add(self, j: int) -> int:
        """Make object j a medoid; j (collective)."""
        self.taken[j] = 1
        self.distances.fetch(j, self._column, self.ranks)
        self.count = self._approach()
        return j


def _build(distances: Distances, weights: np.ndarray, k: int, ranks: Ranks) -> np.ndarray:
    """PAM's BUILD: add the object that lowers the loss most, k times; among equals the lowest.

    The gain of a candidate is kept, and changes only by objects that the last medoid came nearer
    to; so the first step reads the whole matrix, and the others together about ln k times as much.
    Where nothing gains any more, the lowest objects that are no medoids follow.
    """
    best_addition = distances.kernels("build").best_addition
    start, gain, chosen = (
        _Start(distances, weights, ranks),
        distances.sums(distances.m),
        np.empty(k, np.int64),
    )
    at_gain, at_taken, at_proposal = map(native.address, (gain, start.taken, ranks.proposal))
    for slot in range(k):
        _update(start, gain)
        best_addition(at_gain, distances.m, distances.first, at_taken, at_proposal)
        chosen[slot] = start.add(_won(ranks))
    return chosen


def _most_central(distances: Distances, problem: Problem) -> np.ndarray:
    """Those with the least weighted distances from all, the lowest of equals (collective).

    They are the k that BUILD would like best as the first.
    """
    gain = distances.sums(distances.m)
    _update(_Start(distances, problem.weights, problem.ranks), gain)
    return np.argsort(-problem.ranks.join(distances.nearest(gain)), kind="stable")[: problem.k]


def _update(start: _Start, gain: np.ndarray) -> None:
    """Replace what the changed objects give to the gains, (m,) float64, of own candidates."""
    kernels, distances = start.distances.kernels("build"), start.distances
    nearest, weights, at_gain, changed, was = map(
        native.address, (start.nearest, start.weights, gain, start.changed, start.was)
    )
    if distances.by_candidate:
        own = np.arange(distances.first, distances.first + distances.m)
        for p, rows in distances.pieces(own):
            part = *rows.at, distances.scale, len(rows.places)
            into = at_gain + gain.strides[0] * p
            kernels.update_by_candidate(*part, changed, was, start.count, nearest, weights, into)
    else:
        for p, rows in distances.pieces(start.changed[: start.count]):
            part = *rows.at, distances.scale, distances.m
            moved = changed + 8 * p, was + 4 * p, len(rows.places)
            kernels.update_by_object(*part, *moved, nearest, weights, at_gain)


def _best_of_sample(start: _Start, draws: np.random.Generator) -> int:
    """LAB's step: add the best of some sqrt(n) candidates (Schubert & Rousseeuw 2021)."""
    distances = start.distances
    others = np.flatnonzero(start.taken == 0)
    candidates = np.sort(others[_sample(len(others), draws)])
    objects = _sample(distances.n, draws)
    mine = candidates[
        (candidates >= distances.first) & (candidates < distances.first + distances.m)
    ]
    nearest, part = start.nearest[objects, None].astype(np.float64), distances.part(objects, mine)
    nearer = np.where(
        nearest == distances.far, 0.0 - part, np.maximum(nearest - part, 0)
    )  # far is the same for all
    if distances.wide:
        gain = np.array([math.fsum(column) for column in (start.weights[objects, None] * nearer).T])
    else:
        gain = start.weights[objects] @ nearer  # whole numbers: exact
    best = gain.argmax() if len(mine) else 0
    start.ranks.proposal[:BLOCK] = (-gain[best], mine[best], 0) if len(mine) else (0, -1, -1)
    return start.add(_won(start.ranks))


def _far_away(start: _Start, draws: np.random.Generator) -> int:
    """k-medoids++'s step: add an object, drawn by its weight times its distance to the medoids."""
    share = start.weights * start.nearest
    share[start.taken[start.distances.objects] == 1] = 0  # not everybody's distance to itself is 0
    below = share.cumsum()  # exact if whole, and not divided over ranks
    if not below[-1]:
        return start.add(int(start.taken.argmin()))
    point = draws.random() * below[-1] if start.distances.wide else draws.integers(int(below[-1]))
    drawn = below.searchsorted(point, side="right")
    return start.add(int(start.distances.objects[drawn]))


def _sample(n: int, draws: np.random.Generator) -> np.ndarray:
    """10 + sqrt(n) of n, as LAB looks at."""
    return draws.choice(n, min(n, 11 + math.isqrt(n - 1)), replace=False)


def _won(ranks: Ranks) -> int:
    """The candidate of the best proposal (collective)."""
    proposal = ranks.settle()
    assert proposal is not None  # k <= n: somebody has an object left
    return proposal.candidate
