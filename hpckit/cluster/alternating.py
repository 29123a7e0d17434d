"""Voronoi iteration, as k-means does it: quick rounds, to worse optima than swaps find."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Unpack

import numpy as np

from hpckit import native
from hpckit.cluster import initial, inputs
from hpckit.cluster.distances import load_distances
from hpckit.cluster.result import Result, logged
from hpckit.cluster.state import DistanceState
from hpckit.cluster.tables import SWAP
from hpckit.trace import span


@logged
def alternate(
    data: Any,
    k: int,
    *,
    init: Any = "random",
    max_iter: int | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """Alternation: objects go to their nearest medoid, clusters to their best member (collective).

    It is fast and finds worse medoids than swaps do: it is here for comparison.
    Arguments and errors as for `fasterpam`. n_iter counts rounds; each entry of `trace` is a medoid
    that changed, with the loss after its round. Source: Maranzana, Operational Research Quarterly
    15, 1964. ::

        found = alternate(points, 20, metric="euclidean", random_state=1)
    """
    problem = inputs.check(
        data, k, {}, {"max_iter": max_iter}, search="alternate", init=init, **common
    )
    with span("distances"):
        distances = load_distances(problem, by_candidate=True)
    with span("init"):
        medoids = initial.medoids(problem, distances)
    rest = problem.weights, problem.weight_exponent
    state, swaps, rounds, converged = (
        DistanceState(distances, *rest, medoids, problem.ranks),
        [],
        0,
        False,
    )
    with span("rounds"):
        while rounds < problem.limit and not converged:
            rounds += 1
            before, medoids = medoids, _central(state)
            moved = np.flatnonzero(medoids != before).tolist()
            converged = not moved
            if moved:
                state = DistanceState(distances, *rest, medoids, problem.ranks)
            swaps += [(medoids[slot], before[slot], state.true_loss) for slot in moved]
    trace = np.array(swaps, SWAP)
    return Result(
        medoids, state.near.astype(np.int64), state.true_loss, rounds, len(swaps), trace, converged
    )


def _central(state: DistanceState) -> np.ndarray:
    """(k,) int64: for each cluster its cheapest member, the lowest among equals (collective).

    The medoid stays unless another is better. Medoids of other clusters, which may be members where
    objects coincide, do not count, so that medoids stay different.
    """
    distances, ranks = state.distances, state.ranks
    members = np.argsort(state.near, kind="stable")
    starts = np.searchsorted(state.near[members], np.arange(state.k + 1))
    least = _costs(state, members, starts)
    best = np.full(state.k, -1)
    mine = np.arange(distances.first, distances.first + distances.m)
    mine = mine[state.taken[mine] == 0]
    centre = distances.kernels("alternate").centre
    clusters = [*map(native.address, (state.near, members, starts, state.weights, least, best))]
    for start, rows in distances.pieces(mine):
        centre(*rows.at, native.address(mine[start:]), len(rows.places), *clusters)
    offers = np.zeros((ranks.size, 2, state.k))
    offers[ranks.rank] = least, best
    ranks.add(offers)
    winner = offers[:, 0].argmin(axis=0)  # the first among equals has the lowest candidate
    best = offers[winner, 1, np.arange(state.k)].astype(np.int64)
    return np.where(best < 0, state.medoids, best)


def _costs(state: DistanceState, members: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(k,) float64, each cluster's cost; `members` by cluster, whose first are at `starts`."""
    costs = state.weights * state.dn
    if not state.distances.wide:
        return np.bincount(state.near, costs, state.k)
    return np.array([math.fsum(costs[members[start:stop]]) for start, stop in pairwise(starts)])
