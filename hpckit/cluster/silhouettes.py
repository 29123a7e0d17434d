"""Silhouettes: of any clustering, and of medoids, which a search raises and which choose k."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from hpckit import native
from hpckit.cluster import initial, inputs, swaps
from hpckit.cluster.assignment import to_medoids
from hpckit.cluster.data import check_unmasked
from hpckit.cluster.distances import Distances, load_distances
from hpckit.cluster.metrics import AnyMetric
from hpckit.cluster.progress import Progress
from hpckit.cluster.ranks import Ranks
from hpckit.cluster.result import Result, logged, result_of
from hpckit.cluster.state import State
from hpckit.errors import ConfigError
from hpckit.trace import span

if TYPE_CHECKING:
    from mpi4py import MPI

SCORE = np.dtype([("k", np.int64), ("silhouette", np.float64)])


@dataclass(frozen=True)
class DynResult(Result):
    """What `dynmsc` found: the result with the best number of medoids, and how all of them did.

    scores : (k_max - k_min + 1,) with fields k, rising, and silhouette, the average medoid
        silhouette reached

    ::

        found = dynmsc(points, 20, metric="euclidean", random_state=1)
        for k, silhouette in found.scores:
            print(k, silhouette)
    """

    scores: np.ndarray


@logged
def fastermsc(
    data: Any,
    k: int,
    *,
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    **common: Unpack[inputs.Common],
) -> Result:
    """FasterMSC: medoids of a high average medoid silhouette, by swaps (collective).

    The medoid silhouette of an object is 1 - (distance to the nearest medoid) / (distance to the
    second). The result's `loss`, which swaps lower, is 1 - its weighted average, from ratios each
    rounded to 2**-24. k is 2 or more; other arguments and errors as for `fasterpam`. Source:
    Lenssen & Schubert, Information Systems 120, 2024. ::

        found = fastermsc(points, 20, metric="euclidean", random_state=1)
        print(1 - found.loss)  # the average medoid silhouette
    """
    problem = inputs.check(
        data, k, {"block": block}, {"max_iter": max_iter}, search="fastermsc", init=init, **common
    )
    _at_least_two(problem.k)
    return _search(problem, *_start(problem), block)[0]


@logged
def dynmsc(
    data: Any,
    k_max: int,
    *,
    k_min: int = 2,
    init: Any = "random",
    block: int = 64,
    max_iter: int | None = None,
    **common: Unpack[inputs.Common],
) -> DynResult:
    """DynMSC: the number of medoids of the highest average medoid silhouette (collective).

    FasterMSC with k_max medoids; then, down to k_min, again and again without the one whose removal
    costs least. Among equals the lowest k is best; n_iter, n_swap and trace are those of its
    search. init: k_max medoids; max_iter: for each k; other arguments, errors and source as for
    `fastermsc`. ::

        found = dynmsc(points, 20, metric="euclidean", random_state=1)
        print(len(found.medoids), found.scores["silhouette"].max())
    """
    counts = {"block": block, "k_min": k_min}
    problem = inputs.check(
        data, k_max, counts, {"max_iter": max_iter}, "k_max", search="dynmsc", init=init, **common
    )
    _at_least_two(problem.k, "k_max")
    _at_least_two(k_min, "k_min")
    if k_min > problem.k:
        raise ConfigError(f"k_min={k_min} is above k_max={k_max}: it must be 2 to {k_max}")
    distances, medoids = _start(problem)
    best, removal = _search(problem, distances, medoids, block)
    scores, converged = [(problem.k, 1 - best.loss)], best.converged
    medoids = best.medoids
    while len(medoids) > k_min:
        result, removal = _search(problem, distances, np.delete(medoids, removal.argmin()), block)
        medoids = result.medoids
        scores.append((len(medoids), 1 - result.loss))
        converged &= result.converged
        best = min(result, best, key=lambda each: each.loss)
    best = replace(best, converged=converged)
    return DynResult(**vars(best), scores=np.array(scores[::-1], SCORE))


def silhouette(
    data: Any,
    labels: Any,
    *,
    metric: AnyMetric = "precomputed",
    metric_params: Mapping[str, Any] | None = None,
    comm: MPI.Intracomm | None = None,
    threads: int = 1,
    distributed: bool = False,
) -> np.ndarray:
    """Silhouette of each object, (n,) float64: (b - a) / max(a, b) (collective over `comm`).

    a is its average distance to the others of its cluster, b the least average distance to another
    one. It is 0 for an object that is alone, or has a = b. Needs 8 n bytes for each cluster;
    distances of points are not kept.

    labels : (n,) whole numbers, 2 or more different ones; of all objects also where the data are
        distributed
    other arguments and errors as for `fasterpam`. Source: Rousseeuw, J. Comput. Appl. Math. 20,
    1987. ::

        found = fasterpam(points, 20, metric="euclidean", random_state=1)
        print(silhouette(points, found.labels, metric="euclidean").mean())
    """
    common: dict[str, Any] = {"metric_params": metric_params, "comm": comm, "threads": threads}
    common |= {
        "distributed": distributed,
        "memory": "matrix" if metric == "precomputed" else "free",
    }
    problem = inputs.check(data, 1, search="silhouette", init="first", metric=metric, **common)
    ranks, sums = problem.ranks, np.empty((0, 0))
    with ranks.together():
        clusters, sizes = _clusters(labels, problem.n)
    ranks.same("labels (checksum)", zlib.crc32(clusters))
    distances = load_distances(replace(problem, k=len(sizes)), by_candidate=True)
    with ranks.together():  # there may be no room for it
        sums = distances.sums(len(sizes), problem.n)
    _add_up(distances, clusters, sums)
    sums = distances.total(sums, ranks)
    own = clusters, np.arange(problem.n)
    with np.errstate(
        invalid="ignore"
    ):  # 0 by 0, where an object is alone or at distance 0 of all others
        a = sums[own] / (sizes[clusters] - 1)
        sums /= sizes[:, None]
        sums[own] = math.inf
        b = sums.min(axis=0)
        return np.nan_to_num((b - a) / np.maximum(a, b))


def medoid_silhouette(
    data: Any,
    medoids: Any,
    *,
    metric: AnyMetric = "precomputed",
    metric_params: Mapping[str, Any] | None = None,
    comm: MPI.Intracomm | None = None,
    threads: int = 1,
    distributed: bool = False,
) -> np.ndarray:
    """Medoid silhouette, (n,) float64: 1 - dn / ds, and 1 where both are 0 (collective).

    dn and ds are the distances to the nearest and to the second of the medoids, 2 or more objects.
    Other arguments and errors as for `fasterpam`. Source as for `fastermsc`. ::

        found = fastermsc(points, 20, metric="euclidean", random_state=1)
        print(medoid_silhouette(points, found.medoids, metric="euclidean").mean())
    """
    common: dict[str, Any] = {"metric_params": metric_params, "comm": comm, "threads": threads}
    problem = inputs.check(
        data,
        np.size(medoids),
        search="medoid_silhouette",
        init=medoids,
        metric=metric,
        distributed=distributed,
        **common,
    )
    _at_least_two(problem.k)
    values = [np.empty(0)]
    for distances in to_medoids(problem, np.asarray(problem.init), wide=True)[1]:
        dn, ds = np.partition(distances, 1, axis=1)[:, :2].T.astype(np.float64)
        values.append(1 - dn / np.where(ds, ds, 1))
    return problem.ranks.join(np.concatenate(values))


def _at_least_two(k: int, name: str = "k") -> None:
    if k < 2:
        raise ConfigError(
            f"{name}={k} must be at least 2: a medoid silhouette compares the nearest two medoids"
        )


def _start(problem: inputs.Problem) -> tuple[Distances, np.ndarray]:
    """The distances, and the first medoids."""
    with span("distances"):
        distances = load_distances(problem, by_candidate=True)
    with span("init"):
        return distances, initial.medoids(problem, distances)


def _search(
    problem: inputs.Problem, distances: Distances, medoids: np.ndarray, block: int
) -> tuple[Result, np.ndarray]:
    """The search from these medoids, and what losing each one costs at its end."""
    state = SilhouetteState(distances, problem.weights, medoids, problem.ranks)
    progress = Progress(state, min(block, problem.n), problem.limit)
    with span("swaps"):
        swaps.eager(state, progress)
    return result_of(state, progress), state.removal


def _clusters(labels: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of the objects, (n,) int64 from 0 on, and their sizes."""
    check_unmasked(labels, "labels")
    given = np.asarray(labels)
    if given.shape != (n,) or given.dtype.kind not in "iu":
        raise ConfigError(
            f"labels have shape {given.shape} of {given.dtype}, they must be {n} whole numbers"
        )
    _, clusters, sizes = np.unique(given, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ConfigError(f"labels name 1 cluster, {given[0]}: a silhouette compares at least 2")
    return clusters, sizes


def _add_up(distances: Distances, clusters: np.ndarray, sums: np.ndarray) -> None:
    """sums[i, o] += distances of object o to those of own candidates that are in cluster i."""
    first, add_rows = distances.first, distances.kernels("silhouette").add_rows
    own = first + np.argsort(
        clusters[first : first + distances.m]
    )  # one cluster after another: its sums stay in cache
    into = distances.n, *map(native.address, (clusters, sums))
    for start, rows in distances.pieces(own):
        add_rows(*rows.at, native.address(own[start:]), len(rows.places), *into)


class SilhouetteState(State):
    """Medoids whose loss is the sum of w dn / ds, in units of 2**-24.

    dt : (n,) float32, distances of the third nearest
    ratios : (3, n) float64, dn / ds, and what it would be without the nearest and without the
        second medoid
    """

    def __init__(
        self, distances: Distances, weights: np.ndarray, medoids: np.ndarray, ranks: Ranks
    ) -> None:
        super().__init__(distances, weights, medoids, ranks)
        self.dt = np.empty(self.n, np.float32)
        self.ratios = np.empty((3, self.n))
        self._kernels = native.load("hpckit.cluster.kernels.silhouette")
        self._all = float(weights.sum())
        served = (
            self.near,
            self.seco,
            self.dn,
            self.ds,
            self.dt,
            *self.ratios,
            weights,
            self.removal,
        )
        self._served = [
            native.address(self._table),
            self.n,
            self.k,
            distances.far,
            *map(native.address, served),
        ]
        self.loss = self._kernels.assign(*self._served)

    def _replace(self, slot: int) -> int:
        return self._kernels.swap(*self._served, slot, native.address(self._column))

    def evaluation(self) -> tuple[Callable[..., int], list[Any]]:
        _, n, k, _, *objects, removal = self._served
        return self._kernels.evaluate, [n, native.address(self.taken), *objects, k, removal]

    @property
    def true_loss(self) -> float:
        """1 - the average medoid silhouette."""
        return math.ldexp(self.loss, -24) / self._all
