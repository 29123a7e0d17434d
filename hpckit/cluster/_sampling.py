"""Searches that look at some of the objects, or at some of the candidates: for more of them than fasterpam can take."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any, Unpack

from hpckit.cluster import _dist, _init, _input, _swap
from hpckit.cluster._search import Search
from hpckit.cluster._state import State
from hpckit.cluster.kmedoids import Result, finish
from hpckit.trace import span


def clarans(
    data: Any,
    k: int,
    *,
    restarts: int = 2,
    max_neighbors: int | None = None,
    init: Any = "random",
    block: int = 64,
    **common: Unpack[_input.Common],
) -> Result:
    """FasterCLARANS: candidates in random order, until many in a row offer no swap; the best of several starts.

    restarts : how many starts
    max_neighbors : that many in a row, in whole blocks; None: 2.5 % of the objects that are no medoids

    Other arguments, errors and result as for `fasterpam`. Source: Schubert & Rousseeuw, Information Systems 101, 2021.
    """
    counts = {"restarts": restarts, "max_neighbors": max_neighbors, "block": block}
    problem = _input.check(data, k, init=init, counts=counts, **common)
    draws = _init.generator(problem.random_state, problem.ranks)
    problem = replace(problem, random_state=draws)
    patience = max_neighbors or 1 + (problem.n - problem.k) // 40
    with span("distances"):
        distances = _dist.load(problem, by_candidate=True)
    return min((_start(problem, distances, block, patience) for _ in range(restarts)), key=attrgetter("loss"))


def _start(problem: _input.Problem, distances: _dist.Distances, block: int, patience: int) -> Result:
    medoids = _init.medoids(problem, distances)
    state = State(distances, problem.weights, problem.weight_exponent, medoids, problem.ranks)
    search = Search(state, min(block, problem.n), patience=patience)
    with span("swaps"):
        _swap.eager(state, search, problem.random_state.permutation(problem.n))
    return finish(state, search)
