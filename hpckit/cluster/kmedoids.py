"""k-medoids: the k objects that are nearest to all others, from distances or from points."""

from __future__ import annotations

from typing import Any, Unpack

from hpckit.cluster import initial, inplace, inputs, swaps
from hpckit.cluster.distances import load_distances
from hpckit.cluster.progress import Monitor, Progress, resumed_medoids
from hpckit.cluster.result import Result, logged, result_of
from hpckit.cluster.state import DistanceState
from hpckit.trace import span


@logged
def fasterpam(
    data: Any,
    k: int,
    *,
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    monitor: Monitor | None = None,
    resume: dict[str, Any] | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """FasterPAM: swap as soon as a block of candidates offers an improvement (collective).

    data : (n, n) distances, D[o, j] = cost of serving object o by medoid j, which need not be
        symmetric; or points (n, d) with another metric. Whole on every rank.
    init : "random", "first", "build", "lab", "k-medoids++", or k objects
    block : candidates judged together; 1 is FasterPAM as published, n is PAM
    max_iter : most passes over all candidates; None: until no swap lowers the loss; 0: none, `init`
        is the result
    monitor : called on all ranks after each block with the `Progress`; an error that it raises ends
        the run, on all ranks
    resume : what `Progress.snapshot()` gave, with the same data and arguments: go on there,
        whatever `init` says
    common : metric, random_state, sample_weight, comm, threads; see `Common`

    Raises `ConfigError` on all ranks. Sources: Schubert & Rousseeuw, Information Systems 101, 2021;
    docs/kmedoids.md. For points (n, d) that are the same on all ranks::

        found = fasterpam(points, 20, metric="euclidean", random_state=1, comm=MPI.COMM_WORLD)
        print(found.loss, points[found.medoids])
    """
    problem = inputs.check(
        data, k, {"block": block}, {"max_iter": max_iter}, search="fasterpam", init=init, **common
    )
    state = _start(problem, resume, by_candidate=True)
    progress = Progress(state, min(block, problem.n), problem.limit, monitor, resume)
    with span("swaps"):
        swaps.eager(state, progress)
    return result_of(state, progress)


@logged
def pam(
    data: Any,
    k: int,
    *,
    init: Any = "build",
    max_iter: int | None = None,
    monitor: Monitor | None = None,
    resume: dict[str, Any] | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """Exact PAM: always the best of all swaps, as the original algorithm does (collective).

    Keeps 8 k n / ranks bytes beside the distances. Arguments and errors as for `fasterpam`;
    max_iter: most swaps. Sources: Kaufman & Rousseeuw 1987; Resende & Werneck, Annals of Operations
    Research 150, 2007. ::

        found = pam(distances, 20)  # (n, n), the distances between all objects
        print(found.n_swap, found.loss)
    """
    problem = inputs.check(data, k, {}, {"max_iter": max_iter}, search="pam", init=init, **common)
    state = _start(problem, resume, by_candidate=False)
    progress = Progress(state, problem.n, problem.limit, monitor, resume)
    with span("swaps"):
        swaps.best(state, progress)
    return result_of(state, progress)


def _start(
    problem: inputs.Problem, resume: dict[str, Any] | None, *, by_candidate: bool
) -> DistanceState:
    with span("distances"):
        found = inplace.find(problem, by_candidate=by_candidate)
        distances = found or load_distances(problem, by_candidate=by_candidate)
    problem.ranks.same("whether there is a resume", resume is not None)
    with span("init"):
        medoids = (
            initial.medoids(problem, distances)
            if resume is None
            else resumed_medoids(problem, resume)
        )
    return DistanceState(
        distances, problem.weights, problem.weight_exponent, medoids, problem.ranks
    )
