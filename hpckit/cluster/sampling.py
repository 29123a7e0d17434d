"""Searches that look at some of the objects, or candidates: for more than fasterpam can take."""

from __future__ import annotations

import math
from dataclasses import replace
from operator import attrgetter
from typing import Any, Unpack

import numpy as np

from hpckit import native
from hpckit.cluster import initial, inputs, swaps
from hpckit.cluster.assignment import assign
from hpckit.cluster.distances import Distances, load_distances
from hpckit.cluster.inputs import Problem
from hpckit.cluster.kmedoids import fasterpam
from hpckit.cluster.matrix import Matrix
from hpckit.cluster.progress import Progress
from hpckit.cluster.result import Result, logged, result_of
from hpckit.cluster.state import DistanceState
from hpckit.errors import ConfigError
from hpckit.trace import span


@logged
def clara(
    data: Any,
    k: int,
    *,
    samples: int = 5,
    sample_size: int | None = None,
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """FasterCLARA: `fasterpam` on samples of the objects; the medoids that serve all objects best.

    samples : how many samples, each with the best medoids so far in it
    sample_size : objects in a sample, at least k; None: 80 + 4 k

    Other arguments, errors and result as for `fasterpam`; n_iter, n_swap and trace are those of the
    best sample, and losses in the trace are its own. Source: Schubert & Rousseeuw, Information
    Systems 101, 2021. ::

        found = clara(points, 20, samples=10, metric="euclidean", random_state=1)
    """
    counts, limits = (
        {"samples": samples, "block": block},
        {"sample_size": sample_size, "max_iter": max_iter},
    )
    problem = inputs.check(data, k, counts, limits, search="clara", init=init, **common)
    size = _size(problem, "sample_size", sample_size, 80 + 4 * problem.k)
    problem = replace(problem, random_state=initial.generator(problem.random_state, problem.ranks))
    best, kept = None, [] if isinstance(problem.init, str) else problem.init.tolist()
    for _ in range(samples):
        found = _one_sample(problem, size, kept, block, max_iter)
        if best is None or found.loss < best.loss:
            best, kept = found, found.medoids.tolist()
    assert best is not None  # samples > 0
    return best


def _one_sample(
    problem: Problem, size: int, kept: list[int], block: int, max_iter: int | None
) -> Result:
    ranks, draws = problem.ranks, problem.random_state
    sample = _sample(problem, size, draws, *kept)
    found = fasterpam.__wrapped__(
        _among(problem, sample),
        problem.k,
        metric=problem.metric,
        init=problem.init if isinstance(problem.init, str) else np.searchsorted(sample, kept),
        block=block,
        max_iter=max_iter,
        random_state=draws,
        sample_weight=np.ldexp(problem.weights[sample], problem.weight_exponent),
        comm=ranks.comm,
        threads=ranks.threads,
    )
    trace = found.trace.copy()
    trace["added"], trace["removed"] = sample[trace["added"]], sample[trace["removed"]]
    medoids = sample[found.medoids]
    labels, loss = assign(problem, medoids)
    return Result(medoids, labels, loss, found.n_iter, found.n_swap, trace, found.converged)


def _among(problem: Problem, sample: np.ndarray) -> np.ndarray:
    """The points of a sample, or the distances between its objects (collective)."""
    if not isinstance(problem.data, Matrix):
        return problem.data[sample]
    first, stop = problem.ranks.block(problem.n)
    mine = sample[(sample >= first) & (sample < stop)] - first
    columns = np.empty((len(mine), len(sample)))
    for p, rows in problem.data.pieces(sample, first, stop):
        columns[:, p : p + len(rows)] = rows[:, mine].T
    return problem.ranks.join(columns).T


@logged
def clarans(
    data: Any,
    k: int,
    *,
    restarts: int = 2,
    max_neighbors: int | None = None,
    init: Any = "random",
    block: int = 64,
    **common: Unpack[inputs.Common],
) -> Result:
    """FasterCLARANS: random candidates until many in a row offer no swap; the best of some starts.

    restarts : how many starts
    max_neighbors : that many in a row, in whole blocks; None: 2.5 % of the objects that are no
        medoids

    Other arguments, errors and result as for `fasterpam`. Source: Schubert & Rousseeuw, Information
    Systems 101, 2021. ::

        found = clarans(points, 20, restarts=4, metric="euclidean", random_state=1)
    """
    counts, limits = {"restarts": restarts, "block": block}, {"max_neighbors": max_neighbors}
    problem = inputs.check(data, k, counts, limits, search="clarans", init=init, **common)
    draws = initial.generator(problem.random_state, problem.ranks)
    problem = replace(problem, random_state=draws)
    neighbors = max_neighbors or 1 + (problem.n - problem.k) // 40
    with span("distances"):
        distances = load_distances(problem, by_candidate=True)

    def start() -> Result:
        return _run(problem, distances, block, neighbors, draws.permutation(problem.n))

    return min((start() for _ in range(restarts)), key=attrgetter("loss"))


@logged
def onebatch(
    data: Any,
    k: int,
    *,
    batch: int | None = None,
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """OneBatchPAM: `fasterpam` of all candidates, judged by some of the objects (collective).

    batch : how many objects; each counts for all that it is the nearest of. None: the larger of 100
        ln(k n) and 50 k; more is better. Keeps 4 n batch / ranks bytes; with memory="free", for few
        coordinates as fast, next to nothing

    Other arguments, errors and result as for `fasterpam`; losses in the trace are those of the
    batch. Source: de Mathelin et al., OneBatchPAM, AAAI 2025. ::

        found = onebatch(points, 20, batch=500, metric="manhattan", memory="free", random_state=1)
    """
    limits = {"batch": batch, "max_iter": max_iter}
    problem = inputs.check(
        data, k, {"block": block}, limits, search="onebatch", init=init, **common
    )
    draws = initial.generator(problem.random_state, problem.ranks)
    objects = _sample(
        problem, _size(problem, "batch", batch, default_batch(problem.n, problem.k)), draws
    )
    with span("distances"):
        distances = load_distances(problem, by_candidate=True, objects=objects)
        weights = _shares(problem, distances)
    found = _run(replace(problem, weights=weights, random_state=draws), distances, block)
    labels, loss = assign(problem, found.medoids)
    return replace(found, labels=labels, loss=loss)


def default_batch(n: int, k: int) -> int:
    """Objects in a batch that nobody has given."""
    return max(math.ceil(100 * math.log(k * n)), 50 * k)


def _size(problem: Problem, name: str, given: int | None, default: int) -> int:
    """How many objects to draw."""
    size = min(problem.n, given or default)
    if size < problem.k:
        raise ConfigError(
            f"{name}={size} is less than k={problem.k}: draw at least as many objects as medoids"
        )
    return size


def _sample(problem: Problem, size: int, draws: np.random.Generator, *kept: int) -> np.ndarray:
    """`size` objects, ascending: those `kept`, and drawn ones, that weigh anything if there are."""
    order = draws.random(problem.n) + (problem.weights == 0)
    order[list(kept)] = -1
    return np.sort(np.argpartition(order, size - 1)[:size])


def _shares(problem: Problem, distances: Distances) -> np.ndarray:
    """(batch,) float64: what those weigh together that each is nearest to (collective)."""
    shares, nearest = np.zeros(distances.n), native.load("hpckit.cluster.kernels.sampling").nearest
    mine = np.arange(distances.first, distances.first + distances.m)
    weights = problem.weights[mine]
    for start, rows in distances.pieces(mine):
        nearest(
            *rows.at,
            len(rows.places),
            distances.n,
            native.address(weights[start:]),
            native.address(shares),
        )
    problem.ranks.add(shares)
    return shares


def _run(
    problem: Problem,
    distances: Distances,
    block: int,
    max_neighbors: int | None = None,
    order: np.ndarray | None = None,
) -> Result:
    with span("init"):
        medoids = initial.medoids(problem, distances)
    state = DistanceState(
        distances, problem.weights, problem.weight_exponent, medoids, problem.ranks
    )
    progress = Progress(state, min(block, problem.n), problem.limit, max_neighbors=max_neighbors)
    with span("swaps"):
        swaps.eager(state, progress, order)
    return result_of(state, progress)
