"""What a search found, and what its user is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

from hpckit.cluster.progress import Progress
from hpckit.cluster.state import State
from hpckit.log import get_logger

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

    ::

        found = fasterpam(points, 20, metric="euclidean", random_state=1)
        centres, sizes = points[found.medoids], np.bincount(found.labels)
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
        """Clusters without a member: all objects, their medoids too, are as near to others."""
        return np.flatnonzero(np.bincount(self.labels, minlength=len(self.medoids)) == 0).tolist()


_R = TypeVar("_R", bound=Result)
_P = ParamSpec("_P")


def logged(search: Callable[_P, _R]):
    """The search, which says what users may not expect of its result; `__wrapped__` is quiet."""

    @wraps(search)
    def told(*arguments: _P.args, **options: _P.kwargs) -> _R:
        result, comm = search(*arguments, **options), options.get("comm")
        if comm is None or getattr(comm, "rank", 0) == 0:
            _remark(result)
        return result

    return told


def result_of(state: State, progress: Progress) -> Result:
    """The result of a search that has ended."""
    labels = state.near.astype(np.int64)
    counts = progress.passes, progress.n_swap
    return Result(
        state.medoids, labels, state.true_loss, *counts, state.trace, progress.found_nothing
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
