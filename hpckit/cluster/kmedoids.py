"""k-medoids: the k objects that are nearest to all others, from distances or from points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, Unpack

import numpy as np

from hpckit.cluster import initial, inplace, inputs, progress, swaps
from hpckit.cluster.distances import load_distances
from hpckit.cluster.progress import Search
from hpckit.cluster.state import Medoids, State
from hpckit.log import get_logger
from hpckit.trace import span

_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Result:
    """What a search found; the same bits on any number of ranks.

    medoids : (k,) int64, objects
    labels : (n,) int64, for each object the position in `medoids` of the nearest, the lowest among
        equals
    loss : sum of the weighted distances of all objects to their medoids, rounded to 2**-22 of the
        largest or finer
    n_iter : passes over all candidates
    n_swap : swaps done
    trace : (n_swap,) with fields added, removed (objects) and loss (after the swap)
    converged : whether the search ended by itself, and not at max_iter
    """

    medoids: np.ndarray
    labels: np.ndarray
    loss: float
    n_iter: int
    n_swap: int
    trace: np.ndarray
    converged: bool

    @property
    def empty(self) -> list[int]:
        """Clusters without a member: their medoids are no nearer to any object, themselves
        included, than others.
        """
        return np.flatnonzero(np.bincount(self.labels, minlength=len(self.medoids)) == 0).tolist()


_R = TypeVar("_R", bound=Result)
_P = ParamSpec("_P")


def remarked(search: Callable[_P, _R]):
    """The search, which says what its user may not expect of the result; `__wrapped__` is the one
    that keeps quiet.
    """

    @wraps(search)
    def told(*arguments: _P.args, **options: _P.kwargs) -> _R:
        result, comm = search(*arguments, **options), options.get("comm")
        if comm is None or getattr(comm, "rank", 0) == 0:
            _remark(result)
        return result

    return told


@remarked
def fasterpam(
    data: Any,
    k: int,
    *,
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    monitor: progress.Monitor | None = None,
    resume: dict[str, Any] | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """FasterPAM: swap as soon as a block of candidates offers an improvement (collective over
    `comm`).

    data : (n, n) distances, D[o, j] = cost of serving object o by medoid j, which need not be
        symmetric; or points (n, d) with another metric. Whole on every rank.
    init : "random", "first", "build", "lab", "k-medoids++", or k objects
    block : candidates judged together; 1 is FasterPAM as published, n is PAM
    max_iter : most passes over all candidates; None: until no swap lowers the loss; 0: none, `init`
        is the result
    monitor : called on all ranks after each block with the `Search`; an error that it raises ends
        the run, on all ranks
    resume : what `Search.snapshot()` gave, with the same data and arguments: go on there, whatever
        `init` says
    common : metric, random_state, sample_weight, comm, threads; see `Common`

    Raises `ConfigError` on all ranks. Sources: Schubert & Rousseeuw, Information Systems 101, 2021;
    docs/kmedoids.md.
    """
    problem = inputs.check(
        data, k, {"block": block}, {"max_iter": max_iter}, search="fasterpam", init=init, **common
    )
    state = _start(problem, resume, by_candidate=True)
    search = Search(state, min(block, problem.n), problem.limit, monitor, resume)
    with span("swaps"):
        swaps.eager(state, search)
    return finish(state, search)


@remarked
def pam(
    data: Any,
    k: int,
    *,
    init: Any = "build",
    max_iter: int | None = None,
    monitor: progress.Monitor | None = None,
    resume: dict[str, Any] | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """Exact PAM: always the best of all swaps, the same ones as the original algorithm (collective
    over `comm`).

    Keeps 8 k n / ranks bytes beside the distances. Arguments and errors as for `fasterpam`;
    max_iter: most swaps. Sources: Kaufman & Rousseeuw 1987; Resende & Werneck, Annals of Operations
    Research 150, 2007.
    """
    problem = inputs.check(data, k, {}, {"max_iter": max_iter}, search="pam", init=init, **common)
    state = _start(problem, resume, by_candidate=False)
    search = Search(state, problem.n, problem.limit, monitor, resume)
    with span("swaps"):
        swaps.best(state, search)
    return finish(state, search)


def _start(problem: inputs.Problem, resume: dict[str, Any] | None, *, by_candidate: bool) -> State:
    with span("distances"):
        found = inplace.find(problem, by_candidate=by_candidate)
        distances = found or load_distances(problem, by_candidate=by_candidate)
    problem.ranks.same("whether there is a resume", resume is not None)
    with span("init"):
        medoids = (
            initial.medoids(problem, distances)
            if resume is None
            else progress.medoids(problem, resume)
        )
    return State(distances, problem.weights, problem.weight_exponent, medoids, problem.ranks)


def finish(state: Medoids, search: Search) -> Result:
    """The result of a search that has ended."""
    labels = state.near.astype(np.int64)
    counts = search.passes, search.n_swap
    return Result(
        state.medoids, labels, state.true_loss, *counts, state.trace, search.found_nothing
    )


def _remark(result: Result) -> None:
    if not result.converged and result.n_iter:
        _LOG.info("stopped after max_iter=%d: more of them may lower the loss", result.n_iter)
    if result.empty and not result.loss:
        _LOG.warning(
            "fewer distinct objects than k=%d: some medoids coincide, and serve nobody",
            len(result.medoids),
        )
    elif result.empty:
        _LOG.warning(
            "empty: clusters %s, whose medoids coincide with others, or serve nobody", result.empty
        )
