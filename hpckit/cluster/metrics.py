"""Metrics by the names of `sklearn.metrics.pairwise_distances`, beside those that `pairs` has
kernels for.

SciPy, or scikit-learn, computes them, each pair by a loop over its coordinates: its bits do not
depend on the others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from hpckit.cluster.pairs import METRICS, Metric
from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError

BOOLEAN = ("dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath", "yule")
OTHERS = (
    "braycurtis",
    "canberra",
    "correlation",
    "haversine",
    "mahalanobis",
    "minkowski",
    "nan_euclidean",
    "seuclidean",
)
ALIASES = {
    "l1": "manhattan",
    "cityblock": "manhattan",
    "l2": "euclidean",
    "matching": "hamming",
    "sokalmichener": "rogerstanimoto",
}
NAMES = (*METRICS, *OTHERS, *BOOLEAN, *ALIASES)
_KERNELS = {1: "manhattan", 2: "euclidean", math.inf: "chebyshev"}  # of minkowski
_OF_THE_DATA = {
    "seuclidean": "V",
    "mahalanobis": "VI",
}  # a parameter that is computed from the points, if not given


@dataclass(frozen=True, eq=False)
class Named:
    """A metric with all its parameters: a function of two points, which knows how to do many at
    once.

    name : one of `METRICS`, `OTHERS` or `BOOLEAN`, or a function of two points; "precomputed",
        which is no function
    """

    name: str | Callable[..., float]
    parameters: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> float:
        return float(self.table(x[None], y[None])[0, 0])

    @property
    def metric(self) -> Metric:
        """As `pairs_of` takes it: the name of a kernel where there is one."""
        if callable(self.name):
            return partial(self.name, **self.parameters) if self.parameters else self.name
        return self.name if self.name in ("precomputed", *METRICS) and not self.parameters else self

    def table(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(len(x), len(y)) float64, the distances of points to others."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self.name == "nan_euclidean":
            return _nan_euclidean(x, y)
        if self.name == "haversine":
            from sklearn.metrics.pairwise import haversine_distances

            return haversine_distances(x, y)
        from scipy.spatial.distance import cdist

        if self.name in BOOLEAN:
            x, y = x != 0, y != 0
        name: Any = "cityblock" if self.name == "manhattan" else self.name
        return cdist(x, y, name, **self.parameters)


def known(metric: Any, parameters: Any) -> tuple[str, object]:
    """What tells this metric with these parameters from others; `ConfigError` where it is none."""
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ConfigError(
            f"metric_params={parameters!r} must be a dict of arguments of the metric, or None"
        )
    if isinstance(metric, Named):
        return known(metric.name, metric.parameters)
    said = sorted((str(key), _content(value)) for key, value in (parameters or {}).items())
    if callable(metric):
        where = getattr(metric, "__module__", type(metric).__module__)
        return f"{where}.{getattr(metric, '__qualname__', type(metric).__qualname__)}", said
    if not isinstance(metric, str) or metric not in ("precomputed", *NAMES):
        raise ConfigError(
            f"metric={metric!r} must be one of precomputed, {', '.join(NAMES)}, or a function"
        )
    if metric == "precomputed" and parameters:
        raise ConfigError(
            f"metric='precomputed' takes no metric_params, but they are {parameters!r}"
        )
    p = (parameters or {}).get("p", 2)
    if metric == "minkowski" and not (isinstance(p, Real) and float(p) > 0):
        raise ConfigError(f"metric='minkowski' needs a p above 0, not {p!r}")
    return ALIASES.get(metric, metric), said


def allows_nan(metric: Any) -> bool:
    """Whether coordinates may be missing."""
    name = getattr(metric, "name", metric)
    return isinstance(name, str) and name == "nan_euclidean"


def bind(
    metric: Any, parameters: Mapping[str, Any] | None, points: np.ndarray, ranks: Ranks
) -> Named:
    """The metric with its parameters, those that depend on the points (n, d) included: from all of
    them (collective).

    `metric` is a sound one; `ConfigError` on all ranks where the parameters, or the points, do not
    suit it.
    """
    if isinstance(metric, Named):
        return metric
    if not isinstance(metric, str):  # a function
        return Named(metric, dict(parameters or {}))
    name, given = str(ALIASES.get(metric, metric)), dict(parameters or {})
    if name == "precomputed":
        return Named(name)
    if name == "minkowski" and set(given) <= {"p"} and (p := given.get("p", 2)) in _KERNELS:
        return Named(_KERNELS[p])
    if (missing := _OF_THE_DATA.get(name)) and given.get(missing) is None:
        given[missing] = _from(points, name, ranks)
    named = Named(name, given)
    if named.metric is named:  # SciPy's or scikit-learn's
        with ranks.together():
            _try(named, points)
    return named


def remark(named: Named, points: np.ndarray) -> str:
    """What the user may not expect of this metric of these points; empty: nothing."""
    if named.name not in BOOLEAN or np.isin(points, (0, 1)).all():
        return ""
    return (
        f"metric={named.name!r} is of true and false: coordinates other than 0 and 1 count as true"
    )


def _try(named: Named, points: np.ndarray) -> None:
    """One distance: all that may be wrong with parameters and the number of coordinates."""
    try:
        named.table(points[:1], points[:1])
    except ImportError as error:
        raise ConfigError(
            f"metric={named.name!r} needs scikit-learn ({error}): pip install 'hpckit[sklearn]'"
        ) from error
    except (TypeError, ValueError) as error:
        about = f" with metric_params={named.parameters}" if named.parameters else ""
        raise ConfigError(
            f"metric={named.name!r}{about} of points with {points.shape[1]} coordinates: {error}"
        ) from error


def _from(points: np.ndarray, name: str, ranks: Ranks) -> np.ndarray:
    """The parameter that depends on the points, the same bits on all ranks: rank 0 computes it
    (collective).
    """
    d = points.shape[1]
    value = np.zeros(d if name == "seuclidean" else (d, d))
    with ranks.together():
        if len(points) < 2:
            raise ConfigError(
                f"metric={name!r} needs 2 points to compare, or {_OF_THE_DATA[name]} in "
                "metric_params"
            )
        if ranks.rank == 0:
            value[:] = _variances(points) if name == "seuclidean" else _inverse_covariance(points)
    ranks.share(value, 1, 0)
    return value


def _variances(points: np.ndarray) -> np.ndarray:
    variances = points.var(axis=0, ddof=1)
    if not (variances > 0).all():
        constant = int((variances > 0).argmin())
        raise ConfigError(
            "metric='seuclidean' divides by the variance of each coordinate, but coordinate "
            f"{constant} of the points"
            f" has none: leave it out, or pass V in metric_params"
        )
    return variances


def _inverse_covariance(points: np.ndarray) -> np.ndarray:
    covariance = np.atleast_2d(np.cov(points.T))
    rank = np.linalg.matrix_rank(covariance, hermitian=True)
    if rank < len(covariance):
        raise ConfigError(
            f"metric='mahalanobis' inverts the covariance of the points, but its rank is {rank} of "
            f"{len(covariance)}:"
            f" leave out coordinates that follow from others, or pass VI in metric_params"
        )
    return np.linalg.inv(covariance).T


def _nan_euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the coordinates that both points have, as if the others differed as much on average; NaN
    where there is none.

    One coordinate after the other, so that the order of the sum is the same for each pair.
    """
    squares, present = np.zeros((2, len(x), len(y)))
    for a, b in zip(x.T, y.T, strict=True):
        square = np.subtract.outer(a, b) ** 2
        present += ~np.isnan(square)
        squares += np.nan_to_num(square, copy=False, nan=0.0, posinf=math.inf)
    with np.errstate(invalid="ignore"):
        return np.sqrt(squares / present * x.shape[1])


def _content(value: Any) -> object:
    """Of a parameter: short, and all of it, as the repr of an array is not."""
    if callable(value):
        return getattr(value, "__qualname__", repr(value))
    array = np.asarray(value)
    return (
        repr(value)
        if array.dtype.hasobject
        else (array.shape, array.dtype.str, zlib.crc32(array.tobytes()))
    )
