"""What users pass, checked on every rank alike."""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hpckit.cluster import _quant
from hpckit.cluster._metrics import METRICS
from hpckit.cluster._ranks import Ranks
from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI

INITS = ("random", "first", "build", "lab", "k-medoids++")


class Common(TypedDict, total=False):
    """What all searches take.

    metric : "precomputed" (the default) for a matrix of distances; for points euclidean, sqeuclidean, cosine,
        manhattan, chebyshev or hamming
    random_state : seed or `numpy.random.Generator`; that of rank 0 counts
    sample_weight : (n,) weight of each object in the loss
    comm : the ranks; None for this process alone
    threads : how many of them each rank uses
    """

    metric: str
    random_state: Any
    sample_weight: Any
    comm: MPI.Intracomm | None
    threads: int


@dataclass(frozen=True)
class Problem:
    """What to do, once it is sound and the same on all ranks.

    data : (n, n) float32 or float64, or points (n, d) float64; init: a name or (k,) int64; limit: most iterations
    weights : (n,) float64, whole numbers, in units of 2**weight_exponent
    """

    ranks: Ranks
    data: np.ndarray
    metric: str
    n: int
    k: int
    init: str | np.ndarray
    limit: float
    weights: np.ndarray
    weight_exponent: int
    random_state: Any


def check(
    data: Any,
    k: Any,
    *,
    init: Any,
    max_iter: Any = None,
    metric: Any = "precomputed",
    random_state: Any = None,
    sample_weight: Any = None,
    comm: MPI.Intracomm | None = None,
    threads: Any = 1,
    counts: Mapping[str, Any] | None = None,
) -> Problem:
    """The problem; `ConfigError` on all ranks where it is unsound on one, or not the same (collective).

    counts : further arguments that must be whole numbers above 0, or None
    """
    ranks = Ranks(comm, threads)
    with ranks.together():
        array = _matrix(data) if _known(metric) == "precomputed" else _points(data)
        n = len(array)
        k = _integer(k, "k")
        if not 1 <= k <= n:
            raise ConfigError(f"k={k} medoids of {n} objects: k must be 1 to {n}")
        start = init if isinstance(init, str) else indices(init, "init", n, k)
        if isinstance(start, str) and start not in INITS:
            raise ConfigError(f"init={init!r} must be one of {', '.join(INITS)}, or {k} indices of objects")
        for name, value in {"max_iter": max_iter, "threads": threads, **(counts or {})}.items():
            if value is not None and _integer(value, name) < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        weights, unit = _quant.weights(_weights(sample_weight, n))
        text = start if isinstance(start, str) else start.tolist()
        content = None if metric == "precomputed" else zlib.crc32(np.ascontiguousarray(array))
        given = (array.shape, np.asarray(data).dtype.name, k, metric, text, max_iter, counts)
        limit = math.inf if max_iter is None else max_iter
        problem = Problem(ranks, array, metric, n, k, start, limit, weights, unit, random_state)
    ranks.same("shape and type of the data, k, metric, init and the other arguments", given)
    ranks.same("points and weights (checksums)", (content, zlib.crc32(weights)))
    return problem


def _known(metric: Any) -> str:
    if not isinstance(metric, str) or metric not in ("precomputed", *METRICS):
        raise ConfigError(f"metric={metric!r} must be one of precomputed, {', '.join(METRICS)}")
    return metric


def _integer(value: Any, name: str) -> int:
    """Python's and NumPy's integers, but no bool."""
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise ConfigError(f"{name}={value!r} must be a whole number")


def _numbers(value: Any, what: str) -> np.ndarray:
    """An array of real numbers, float32 and float64 as they are, all else as float64."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ConfigError(f"{what} must be an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{what} must be a dense array of real numbers, not of {array.dtype}")
    plain = array.dtype in (np.dtype("=f4"), np.dtype("=f8"))
    plain = plain and all(stride % array.itemsize == 0 for stride in array.strides)
    return array if plain else array.astype(np.float64)


def _matrix(data: Any) -> np.ndarray:
    matrix = _numbers(data, "the distance matrix")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ConfigError(
            f"the distance matrix has shape {matrix.shape}, it must be square and not empty;"
            f" for points pass metric='euclidean' or another"
        )
    return matrix


def _points(data: Any) -> np.ndarray:
    points = _numbers(data, "the points").astype(np.float64, copy=False)
    if points.ndim != 2 or not points.size:
        raise ConfigError(f"the points have shape {points.shape}, they must be (n, d) with n and d above 0")
    if not np.isfinite(points).all():
        o, c = np.argwhere(~np.isfinite(points))[0]
        raise ConfigError(f"points must be finite, but coordinate {c} of point {o} is {points[o, c]}")
    return points


def indices(init: Any, name: str, n: int, k: int) -> np.ndarray:
    """(k,) int64, different objects; `ConfigError` for anything else."""
    try:
        given = np.asarray(init)
    except ValueError:
        given = np.empty(0, object)
    if given.shape != (k,) or given.dtype.kind not in "iu":
        raise ConfigError(f"{name} must be {k} whole numbers, got shape {given.shape} of {given.dtype}")
    if ((given < 0) | (given >= n)).any():
        raise ConfigError(f"{name} has {given[(given < 0) | (given >= n)][0]}, objects are 0 to {n - 1}")
    values, counts = np.unique(given, return_counts=True)
    if len(values) < k:
        raise ConfigError(f"{name} has object {values[counts > 1][0]} twice: medoids must differ")
    return given.astype(np.int64)


def _weights(given: Any, n: int) -> np.ndarray:
    if given is None:
        return np.ones(n)
    weights = _numbers(given, "sample_weight").astype(np.float64, copy=False)
    if weights.shape != (n,):
        raise ConfigError(f"sample_weight has shape {weights.shape}, it must be ({n},): one weight per object")
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ConfigError("sample_weight must be finite, not negative, and not all zero")
    return weights
