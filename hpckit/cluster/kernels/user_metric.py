"""The loop around a user's metric, compiled when needed: the metric is not known before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import njit


@cache
def each_pair(metric: Callable) -> Callable:
    """`each(objects, candidates, values)`: values[o, j] = metric(objects[o], candidates[j])."""

    @njit(nogil=True)
    def each(objects, candidates, values):
        for o in range(len(objects)):
            for j in range(len(candidates)):
                values[o, j] = metric(objects[o], candidates[j])

    return each
