"""All metrics: what each is called, who computes it, and what it needs of the points.

`DEFINITIONS` is the one list of them. A metric is an entry there; one that hpckit computes itself
also has a kernel of the name `Kernel.name` in `kernels.metrics`, and its name in `hpckit.names`.
All others are computed by SciPy, by scikit-learn, or by a function of this file: each pair by a
loop over its coordinates, so that its bits do not depend on the others.
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

from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError
from hpckit.names import METRICS

AnyMetric = str | Callable[[np.ndarray, np.ndarray], float]  # what users pass


@dataclass(frozen=True)
class Kernel:
    """How a kernel computes a metric.

    name : of the kernel, in `kernels.metrics`
    bound : points as `prepared` returns them -> no less than the largest kernel value
    prepared : points -> points for which no square overflows, and the exponent of their unit
    factor : number of coordinates -> what the kernel's values are multiplied by
    degree : distances grow with this power of the unit
    """

    name: str
    bound: Callable[[np.ndarray], float]
    prepared: Callable[[np.ndarray], tuple[np.ndarray, int]]
    factor: Callable[[int], float] = lambda d: 1.0
    degree: int = 1


@dataclass(frozen=True)
class FromPoints:
    """A parameter that is computed from all the points (n, d), where the user gives none.

    name : of the parameter; axes : 1 for a result (d,), 2 for (d, d)
    """

    name: str
    axes: int
    compute: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Definition:
    """A metric: its names, who computes it, and what it needs of the points.

    aliases : further names
    kernel : how hpckit's kernels compute it, without parameters; None: `table` does
    scipy : its name in SciPy, if that is another
    table : points (a, d), points (b, d), **parameters -> distances (a, b); None: SciPy's `cdist`
    boolean : of true and false: what is not 0 counts as true
    allows_nan : coordinates may be missing
    tells_apart : points at distance 0 are equal; checked where rounding may have lost a distance
    from_points : a parameter that is computed from the points
    check : parameters -> nothing, or `ConfigError`
    simpler : parameters -> the name of a metric without parameters that is the same; "" for none
    """

    name: str
    aliases: tuple[str, ...] = ()
    kernel: Kernel | None = None
    scipy: str = ""
    table: Callable[..., np.ndarray] | None = None
    boolean: bool = False
    allows_nan: bool = False
    tells_apart: bool = False
    from_points: FromPoints | None = None
    check: Callable[[Mapping[str, Any]], None] = lambda parameters: None
    simpler: Callable[[Mapping[str, Any]], str] = lambda parameters: ""


def _scaled(points: np.ndarray) -> tuple[np.ndarray, int]:
    exponent = math.frexp(max(points.max(), -points.min()))[1]
    return np.ldexp(points, -exponent), exponent


def _unscaled(points: np.ndarray) -> tuple[np.ndarray, int]:
    return points, 0


def _unit_vectors(points: np.ndarray) -> tuple[np.ndarray, int]:
    largest = np.abs(points).max(axis=1, keepdims=True)
    if not largest.all():
        zero = int(np.flatnonzero(largest == 0)[0])
        raise ConfigError(
            f"point {zero} is zero and has no direction: metric='cosine' needs points other than "
            "zero"
        )
    scaled = points / largest
    return scaled / np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None], 0


# The largest distance is bounded through the mean of all points, by the triangle inequality: the
# bound is at most twice the largest distance, or four times its square.


def _away(points: np.ndarray) -> np.ndarray:
    away = points - points.mean(axis=0)
    return np.abs(away, out=away)


def _square_bound(points: np.ndarray) -> float:
    away = _away(points)
    return 4 * np.einsum("ij,ij->i", away, away).max()


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


def _haversine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.metrics.pairwise import haversine_distances

    return haversine_distances(x, y)


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


def _check_p(parameters: Mapping[str, Any]) -> None:
    p = parameters.get("p", 2)
    if not (isinstance(p, Real) and float(p) > 0):
        raise ConfigError(f"metric='minkowski' needs a p above 0, not {p!r}")


def _of_p(parameters: Mapping[str, Any]) -> str:
    if not set(parameters) <= {"p"}:
        return ""
    return {1: "manhattan", 2: "euclidean", math.inf: "chebyshev"}.get(parameters.get("p", 2), "")


DEFINITIONS = (
    Definition(
        "euclidean",
        aliases=("l2",),
        kernel=Kernel("euclidean", lambda x: math.sqrt(_square_bound(x)), _scaled),
        tells_apart=True,
    ),
    Definition("sqeuclidean", kernel=Kernel("sqeuclidean", _square_bound, _scaled, degree=2)),
    Definition(  # of unit vectors 1 - x.y = |x - y|^2 / 2
        "cosine", kernel=Kernel("sqeuclidean", _square_bound, _unit_vectors, lambda d: 0.5)
    ),
    Definition(
        "manhattan",
        aliases=("l1", "cityblock"),
        kernel=Kernel("manhattan", lambda x: 2 * _away(x).sum(axis=1).max(), _scaled),
        scipy="cityblock",
        tells_apart=True,
    ),
    Definition(
        "chebyshev",
        kernel=Kernel("chebyshev", lambda x: 2 * _away(x).max(), _scaled),
        tells_apart=True,
    ),
    Definition(
        "hamming",
        aliases=("matching",),
        kernel=Kernel("hamming", lambda x: float(x.shape[1]), _unscaled, lambda d: 1 / d),
    ),
    Definition("braycurtis"),
    Definition("canberra"),
    Definition("correlation"),
    Definition("haversine", table=_haversine),
    Definition("mahalanobis", from_points=FromPoints("VI", 2, _inverse_covariance)),
    Definition("minkowski", check=_check_p, simpler=_of_p),
    Definition("nan_euclidean", table=_nan_euclidean, allows_nan=True),
    Definition("seuclidean", from_points=FromPoints("V", 1, _variances)),
    Definition("dice", boolean=True),
    Definition("jaccard", boolean=True),
    Definition("rogerstanimoto", aliases=("sokalmichener",), boolean=True),
    Definition("russellrao", boolean=True),
    Definition("sokalsneath", boolean=True),
    Definition("yule", boolean=True),
)
_BY_NAME = {name: each for each in DEFINITIONS for name in (each.name, *each.aliases)}
WITH_KERNEL = tuple(each.name for each in DEFINITIONS if each.kernel)
BOOLEAN = tuple(each.name for each in DEFINITIONS if each.boolean)
OTHERS = tuple(each.name for each in DEFINITIONS if not each.kernel and not each.boolean)
ALIASES = {alias: each.name for each in DEFINITIONS for alias in each.aliases}
if WITH_KERNEL != METRICS:
    raise ImportError(f"metrics with a kernel are {WITH_KERNEL}, but hpckit.names has {METRICS}")
NAMES = (*WITH_KERNEL, *OTHERS, *BOOLEAN, *ALIASES)


def definition(metric: Any) -> Definition | None:
    """The definition of a name or a `Metric`; None for functions and "precomputed"."""
    name = getattr(metric, "name", metric)
    return _BY_NAME.get(name) if isinstance(name, str) else None


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric with all its parameters: a function of two points, which knows how to do many at
    once.

    name : that of a definition, or a function of two points; "precomputed", which is no function
    """

    name: str | Callable[..., float]
    parameters: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> float:
        return float(self.table(x[None], y[None])[0, 0])

    @property
    def fastest(self) -> AnyMetric:
        """As `pairs_of` takes it: the name of a kernel where there is one."""
        if callable(self.name):
            return partial(self.name, **self.parameters) if self.parameters else self.name
        plain = not self.parameters
        return self.name if plain and self.name in ("precomputed", *WITH_KERNEL) else self

    def table(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(len(x), len(y)) float64, the distances of points to others."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        found = definition(self)
        if found and found.table:
            return found.table(x, y, **self.parameters)
        from scipy.spatial.distance import cdist

        if found and found.boolean:
            x, y = x != 0, y != 0
        name: Any = found.scipy or found.name if found else self.name
        return cdist(x, y, name, **self.parameters)

    def remark(self, points: np.ndarray) -> str:
        """What the user may not expect of this metric of these points; empty: nothing."""
        found = definition(self)
        if found is None or not found.boolean or np.isin(points, (0, 1)).all():
            return ""
        return (
            f"metric={self.name!r} is of true and false: coordinates other than 0 and 1 count as "
            "true"
        )


def allows_nan(metric: Any) -> bool:
    """Whether coordinates may be missing."""
    found = definition(metric)
    return found is not None and found.allows_nan


def identify(metric: Any, parameters: Any) -> tuple[str, object]:
    """What tells this metric with these parameters from others; `ConfigError` where it is none."""
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ConfigError(
            f"metric_params={parameters!r} must be a dict of arguments of the metric, or None"
        )
    if isinstance(metric, Metric):
        return identify(metric.name, metric.parameters)
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
    if found := definition(metric):
        found.check(parameters or {})
    return ALIASES.get(metric, metric), said


def complete(
    metric: Any, parameters: Mapping[str, Any] | None, points: np.ndarray, ranks: Ranks
) -> Metric:
    """The metric with its parameters, those that depend on the points (n, d) included: from all of
    them (collective).

    `metric` is a sound one; `ConfigError` on all ranks where the parameters, or the points, do not
    suit it.
    """
    if isinstance(metric, Metric):
        return metric
    given = dict(parameters or {})
    found = definition(metric)
    if found is None:  # a function, or "precomputed"
        return Metric(metric, given)
    if simpler := found.simpler(given):
        return Metric(simpler)
    wanted = found.from_points
    if wanted and given.get(wanted.name) is None:
        given[wanted.name] = _computed(wanted, found.name, points, ranks)
    complete = Metric(found.name, given)
    if complete.fastest is complete:  # SciPy's or scikit-learn's
        with ranks.together():
            _try(complete, points)
    return complete


def _try(metric: Metric, points: np.ndarray) -> None:
    """One distance: all that may be wrong with parameters and the number of coordinates."""
    try:
        metric.table(points[:1], points[:1])
    except ImportError as error:
        raise ConfigError(
            f"metric={metric.name!r} needs scikit-learn ({error}): pip install 'hpckit[sklearn]'"
        ) from error
    except (TypeError, ValueError) as error:
        about = f" with metric_params={metric.parameters}" if metric.parameters else ""
        raise ConfigError(
            f"metric={metric.name!r}{about} of points with {points.shape[1]} coordinates: {error}"
        ) from error


def _computed(wanted: FromPoints, metric: str, points: np.ndarray, ranks: Ranks) -> np.ndarray:
    """The parameter that depends on the points, the same bits on all ranks: rank 0 computes it
    (collective).
    """
    value = np.zeros((points.shape[1],) * wanted.axes)
    with ranks.together():
        if len(points) < 2:
            raise ConfigError(
                f"metric={metric!r} needs 2 points to compare, or {wanted.name} in metric_params"
            )
        if ranks.rank == 0:
            value[:] = wanted.compute(points)
    ranks.share(value, 1, 0)
    return value


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
