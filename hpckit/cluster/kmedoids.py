"""k-medoids: the k objects that are nearest to all others, from distances or from points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.cluster import _dist, _init, _input, _swap
from hpckit.cluster._ranks import Ranks
from hpckit.cluster._state import State
from hpckit.log import get_logger
from hpckit.trace import span

if TYPE_CHECKING:
    from mpi4py import MPI

_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Result:
    """What a search found; the same bits on any number of ranks.

    medoids : (k,) int64, objects
    labels : (n,) int64, for each object the position in `medoids` of the nearest, the lowest among equals
    loss : sum of the weighted distances of all objects to their medoids, each rounded to 2**-24 of the largest
    n_iter : passes over all candidates
    n_swap : swaps done
    trace : (n_swap,) with fields added, removed (objects) and loss (after the swap)
    """

    medoids: np.ndarray
    labels: np.ndarray
    loss: float
    n_iter: int
    n_swap: int
    trace: np.ndarray


def fasterpam(
    data: Any,
    k: int,
    *,
    metric: str = "precomputed",
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    random_state: Any = None,
    sample_weight: Any = None,
    comm: MPI.Intracomm | None = None,
) -> Result:
    """FasterPAM: swap as soon as a block of candidates offers an improvement (collective over `comm`).

    data : (n, n) distances, D[o, j] = cost of serving object o by medoid j, which need not be symmetric; or points
        (n, d) with another metric: euclidean, sqeuclidean, cosine, manhattan, chebyshev, hamming. Whole on every rank.
    init : "random", "first", "build", or k objects
    block : candidates judged together; 1 is FasterPAM as published, n is PAM
    max_iter : most passes over all candidates; None: until no swap lowers the loss
    random_state : seed or `numpy.random.Generator` of the random init; that of rank 0 counts
    sample_weight : (n,) weight of each object in the loss
    comm : None for this process alone

    Raises `ConfigError` on all ranks. Sources: Schubert & Rousseeuw, Information Systems 101, 2021; docs/kmedoids.md.
    """
    ranks = Ranks(comm)
    checks = {"metric": metric, "init": init, "max_iter": max_iter, "sample_weight": sample_weight, "block": block}
    problem = _input.check(ranks, data, k, **checks)
    state = _start(problem, ranks, random_state, by_candidate=True)
    with span("swaps"):
        passes = _swap.eager(state, block, problem.limit)
    return _finish(state, passes, problem.limit)


def pam(
    data: Any,
    k: int,
    *,
    metric: str = "precomputed",
    init: Any = "build",
    max_iter: int | None = None,
    random_state: Any = None,
    sample_weight: Any = None,
    comm: MPI.Intracomm | None = None,
) -> Result:
    """Exact PAM: always the best of all swaps, the same ones as the original algorithm (collective over `comm`).

    Keeps 8 k n / ranks bytes beside the distances. Arguments and errors as for `fasterpam`; max_iter: most swaps.
    Sources: Kaufman & Rousseeuw 1987; Resende & Werneck, Annals of Operations Research 150, 2007.
    """
    ranks = Ranks(comm)
    checks = {"metric": metric, "init": init, "max_iter": max_iter, "sample_weight": sample_weight}
    problem = _input.check(ranks, data, k, **checks)
    state = _start(problem, ranks, random_state, by_candidate=False)
    with span("swaps"):
        rounds = _swap.best(state, problem.limit)
    return _finish(state, rounds, problem.limit)


def _start(problem: _input.Problem, ranks: Ranks, random_state: Any, *, by_candidate: bool) -> State:
    with span("distances"):
        distances = _dist.load(problem.data, problem.metric, ranks, by_candidate=by_candidate)
    with span("init"):
        medoids = _init.medoids(problem, distances, ranks, random_state)
    return State(problem, distances, ranks, medoids)


def _finish(state: State, passes: int, limit: float) -> Result:
    if state.ranks.rank == 0 and passes == limit:
        _LOG.info("stopped after max_iter=%d: swaps may be left that lower the loss", passes)
    trace = state.trace
    if state.ranks.rank == 0 and not state.loss and len(np.unique(state.near[state.medoids])) < state.k:
        _LOG.warning("fewer distinct objects than k=%d: some medoids coincide, and serve nobody", state.k)
    return Result(state.medoids, state.near.astype(np.int64), state.true_loss, passes, len(trace), trace)
