"""What users pass, checked on every rank alike."""

from __future__ import annotations

import math
import operator
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hpckit.cluster import metrics, quantization, ticks_file
from hpckit.cluster.data import check_unmasked, read_data
from hpckit.cluster.matrix import Matrix
from hpckit.cluster.metrics import AnyMetric
from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError
from hpckit.log import get_logger
from hpckit.names import INITS

if TYPE_CHECKING:
    from mpi4py import MPI

_NONE: Mapping[str, Any] = {}
_LOG = get_logger(__name__)


class Common(TypedDict, total=False):
    """What all searches take.

    metric : "precomputed" (the default) for a matrix of distances; for points euclidean,
        sqeuclidean, cosine, manhattan, chebyshev, hamming, or, where scikit-learn is installed, any
        other name that its pairwise_distances knows; or a function of an object and a medoid, two
        1-D float64 points, to a number. A function, or a name that scikit-learn is needed for, is
        called for all pairs to find the largest distance, and then again; what numba has compiled
        stays compiled
    metric_params : dict of arguments of the metric
    random_state : seed, `numpy.random.Generator`, `RandomState` or `SeedSequence`; that of rank 0
        counts
    sample_weight : (n,) weight of each object in the loss
    comm : the ranks; None for this process alone
    threads : how many of them each rank uses
    distributed : data and sample_weight are this rank's slice of the rows, in rank order, of any
        length
    memory : where distances are kept: "matrix", in 4 n² / ranks bytes; "free", nowhere, they are
        computed from points whenever they are needed; a path that ends in .h5, in this file;
        "auto", in memory where half of it is enough, but of a symmetric float32 matrix nowhere: it
        is read where it lies
    """

    metric: AnyMetric
    metric_params: Mapping[str, Any] | None
    random_state: Any
    sample_weight: Any
    comm: MPI.Intracomm | None
    threads: int
    distributed: bool
    memory: str | os.PathLike[str]


@dataclass(frozen=True)
class Problem:
    """What to do, once it is sound and the same on all ranks.

    data : a `Matrix`, or points (n, d) float64; init : a name or (k,) int64; limit : most
        iterations
    weights : (n,) float64, whole numbers, in units of 2**weight_exponent
    memory : "auto", "matrix", "free", or a path
    """

    ranks: Ranks
    data: Any
    metric: AnyMetric
    n: int
    k: int
    init: str | np.ndarray
    limit: float
    weights: np.ndarray
    weight_exponent: int
    random_state: Any
    memory: str | Path


def check(
    data: Any,
    k: Any,
    counts: Mapping[str, Any] = _NONE,
    limits: Mapping[str, Any] = _NONE,
    called: str = "k",
    /,
    *,
    init: Any,
    search: str = "",
    metric: Any = "precomputed",
    metric_params: Any = None,
    random_state: Any = None,
    sample_weight: Any = None,
    comm: MPI.Intracomm | None = None,
    threads: Any = 1,
    distributed: Any = False,
    memory: Any = "auto",
    **unknown: Any,
) -> Problem:
    """The problem; `ConfigError` on all ranks where it is unsound on one, or not the same
    (collective).

    counts, limits : further arguments that must be whole numbers above 0; those of `limits` may be
        None, max_iter 0
    called : what the user calls k; search : the name of the function that all ranks are to call
    """
    ranks = Ranks(comm)
    name, parameters, place = "", None, ""
    with ranks.together():
        if unknown:
            raise ConfigError(
                f"there is no argument {' nor '.join(sorted(unknown))} here: see the function's "
                "help"
            )
        name, parameters = metrics.identify(metric, metric_params)
        place = _place(memory, name)
    ranks.same("the search", search)
    ranks.same("metric and memory", (name, parameters, place))
    kind = {
        "points": name != "precomputed",
        "distributed": bool(distributed),
        "gaps": metrics.allows_nan(metric),
    }
    array, given_weights = read_data(ranks, data, sample_weight, **kind)
    n = len(given_weights)
    with ranks.together():
        k = how_many(k, called, n)
        start = init if isinstance(init, str) else indices(init, "init", n, k)
        if isinstance(start, str) and start not in INITS:
            raise ConfigError(
                f"init={init!r} must be one of {', '.join(INITS)}, or {k} indices of objects"
            )
        given = {name: value for name, value in limits.items() if value is not None}
        numbers = {
            name: count(value, name)
            for name, value in {"threads": threads, **counts, **given}.items()
        }
        ranks.threads = numbers.pop("threads")  # may differ
        weights, unit = quantization.weights(given_weights)
        text = start if isinstance(start, str) else start.tolist()
        content = None if isinstance(array, Matrix) else zlib.crc32(np.ascontiguousarray(array))
        limit = numbers.get("max_iter", math.inf)
        problem = Problem(
            ranks, array, metric, n, k, start, limit, weights, unit, random_state, place
        )
    ranks.same(f"{called}, init and the other arguments", (k, text, numbers))
    ranks.same("points and weights (checksums)", (content, zlib.crc32(weights)))
    return replace(problem, metric=_complete(metric, metric_params, array, ranks))


def _complete(metric: Any, parameters: Any, data: Any, ranks: Ranks) -> AnyMetric:
    """The metric as `pairs_of` takes it, with its parameters (collective)."""
    complete = metrics.complete(metric, parameters, data, ranks)
    if complete is not metric and ranks.rank == 0 and (said := complete.remark(data)):
        _LOG.warning(said)
    return complete.fastest


def _place(memory: Any, metric: str) -> str | Path:
    if isinstance(memory, str) and memory in ("auto", "matrix", "free"):
        if memory == "free" and metric == "precomputed":
            raise ConfigError(
                "memory='free' computes distances from points: pass them and a metric, or "
                "memory='matrix'"
            )
        return memory
    if isinstance(memory, (str, os.PathLike)) and Path(memory).suffix in ticks_file.ENDINGS:
        return Path(memory)
    endings = " or ".join(ticks_file.ENDINGS)
    raise ConfigError(
        f"memory={memory!r} must be auto, matrix, free, or the name of a file that ends in "
        f"{endings}"
    )


def _integer(value: Any, name: str) -> int:
    """Python's and NumPy's integers, but no bool."""
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise ConfigError(f"{name}={value!r} must be a whole number")


def count(value: Any, name: str) -> int:
    """A whole number above 0; max_iter may be 0 too: no search, but the first medoids."""
    least = 0 if name == "max_iter" else 1
    if (number := _integer(value, name)) < least:
        raise ConfigError(f"{name}={value} must be at least {least}")
    return number


def how_many(k: Any, called: str, n: int) -> int:
    """k, a number of medoids of n objects."""
    number = _integer(k, called)
    if not 1 <= number <= n:
        raise ConfigError(f"{called}={number} medoids of {n} objects: {called} must be 1 to {n}")
    return number


def indices(init: Any, name: str, n: int, k: int) -> np.ndarray:
    """(k,) int64, different objects; `ConfigError` for anything else."""
    check_unmasked(init, name)
    try:
        given = np.asarray(init)
    except ValueError:
        given = np.empty(0, object)
    if given.shape != (k,) or given.dtype.kind not in "iu":
        raise ConfigError(
            f"{name} must be {k} whole numbers, got shape {given.shape} of {given.dtype}"
        )
    if ((given < 0) | (given >= n)).any():
        raise ConfigError(
            f"{name} has {given[(given < 0) | (given >= n)][0]}, objects are 0 to {n - 1}"
        )
    values, counts = np.unique(given, return_counts=True)
    if len(values) < k:
        raise ConfigError(f"{name} has object {values[counts > 1][0]} twice: medoids must differ")
    return given.astype(np.int64)
