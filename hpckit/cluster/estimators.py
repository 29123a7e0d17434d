"""k-medoids as scikit-learn estimators: for pipelines, searches over parameters, and labels of new
objects.
"""

from __future__ import annotations

import copy
import warnings
from inspect import signature
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        TransformerMixin,
    )
    from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
    from sklearn.utils import check_random_state, gen_batches
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"hpckit.cluster.estimators needs scikit-learn ({error}): pip install 'hpckit[sklearn]'"
    ) from error

from hpckit.cluster import (
    alternate,
    clara,
    clarans,
    dynmsc,
    fasterpam,
    initial_points,
    inputs,
    onebatch,
    pam,
)
from hpckit.cluster.data import check_unmasked, checked_weights
from hpckit.cluster.metrics import Metric, allows_nan, complete, identify
from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError
from hpckit.names import INITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpi4py import MPI

    from hpckit.cluster import Result

_SEARCHES = {
    search.__name__: search for search in (fasterpam, pam, onebatch, clara, clarans, alternate)
}
_MANY = 20_000  # objects: the distances between more take over 1.6 GB
_OWN = (
    "init",
    "block",
    "max_iter",
    "batch",
    "samples",
    "sample_size",
    "restarts",
    "max_neighbors",
    "k_min",
)
_BATCH = 1024  # objects whose distances are computed at once


class _Medoids(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """What the medoids are good for, once they are found."""

    metric: Any
    metric_params: Any
    init: Any
    max_iter: int | None
    memory: Any
    threads: int
    random_state: Any
    comm: MPI.Intracomm | None

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,) int64: for each object the position in `medoid_indices_` of the nearest
        medoid.

        X : points (n, d); with metric="precomputed" distances (n, n_fitted) to the objects of
            `fit`. Not collective.
        """
        check_is_fitted(self)
        return self._assign(self._checked(X, reset=False))[0]

    def transform(self, X: Any) -> np.ndarray:
        """Distances (n, k) to the medoids, float32 where X is, else float64; X as for `predict`."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return np.concatenate([part.astype(X.dtype) for part in self._distances(X)])

    def _checked(self, X: Any, *, reset: bool, **limits: Any) -> Any:
        """X as an array or a sparse matrix, its columns those of `fit` unless this is it
        (`reset`).
        """
        check_unmasked(X, "X")
        given = isinstance(self.metric, str) and self.metric == "precomputed"
        limits |= {"accept_sparse": False if given else "csr", "ensure_non_negative": given}
        limits |= {"dtype": [np.float64, np.float32]}
        limits |= {"ensure_all_finite": "allow-nan" if allows_nan(self.metric) else True}
        return validate_data(self, X, reset=reset, **limits)

    def _fit(self, X: Any, sample_weight: Any, called: str, n_init: Any = 1, **limits: Any) -> None:
        """Keep the result with the least loss of `n_init` searches (collective).

        called : what the number of medoids is called; limits : of X
        """
        ranks, places, k, seeds, arguments = Ranks(self.comm), None, 0, [], {}
        with ranks.together():
            check_unmasked(X, "X")
        with ranks.together():  # by itself: these errors are scikit-learn's, all others ours
            X = self._checked(X, reset=True, **limits)
        search, metric = fasterpam, None
        with ranks.together():
            X = _dense(X)
            metric = identify(self.metric, self.metric_params)
            places = initial_points.read(self._init(), self.metric, X.shape[1])
            k = inputs.how_many(
                getattr(self, called) if places is None else len(places), called, len(X)
            )
            search, arguments = self._search(len(X))
            _at_least(k, called, arguments)
            seeds = self._seeds(n_init)
            arguments["sample_weight"] = checked_weights(sample_weight, len(X))
        ranks.same(
            f"{called}, method, n_init, metric, and shape and type of X",
            (k, search.__name__, len(seeds), metric, X.shape, X.dtype.name),
        )
        complete_metric = complete(self.metric, self.metric_params, X.astype(np.float64), ranks)
        with ranks.together():
            if places is not None:
                arguments["init"] = initial_points.objects(X, complete_metric, places)
        arguments |= {
            "metric": complete_metric.fastest,
            "memory": self.memory,
            "threads": self.threads,
            "comm": self.comm,
        }
        results = [search(X, k, random_state=seed, **arguments) for seed in seeds]
        result = min(results, key=attrgetter("loss"))
        self._keep(X, arguments["sample_weight"], complete_metric, result)
        for said, kind in self._remarks(X, result, called):
            warnings.warn(said, kind, stacklevel=3)

    def _init(self) -> Any:
        """`init`, of which names are known."""
        if isinstance(self.init, str) and self.init not in INITS:
            names = ", ".join(INITS)
            raise ConfigError(
                f"init needs to be one of {names}, indices of objects, or points; it is "
                f"{self.init!r}"
            )
        return self.init

    def _search(self, n: int) -> tuple[Any, dict[str, Any]]:
        """The search for n objects, which makes no remarks of its own, and what it alone is to be
        told.
        """
        searches = self._searches(n)
        own = {name: value for name in _OWN if (value := getattr(self, name, None)) is not None}
        takes = [signature(search).parameters.keys() for search in searches]
        if foreign := own.keys() - set().union(*takes):
            names = " and ".join(search.__name__ for search in searches)
            raise ConfigError(
                f"{names} takes no {' and no '.join(sorted(foreign))}: leave it at None"
            )
        return searches[0].__wrapped__, {name: own[name] for name in own if name in takes[0]}

    def _searches(self, n: int) -> list[Any]:
        """The search for n objects, and others that the same parameters are for."""
        raise NotImplementedError

    def _seeds(self, n_init: Any) -> list[int]:
        state, count = self.random_state, inputs.count(n_init, "n_init")
        try:
            if isinstance(
                state, (np.random.Generator, np.random.BitGenerator, np.random.SeedSequence)
            ):
                return np.random.default_rng(state).integers(2**31 - 1, size=count).tolist()
            return check_random_state(state).randint(2**31 - 1, size=count).tolist()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"random_state={state!r} is neither a seed nor a generator: {error}"
            ) from error

    def _keep(self, X: np.ndarray, weights: np.ndarray, metric: Metric, result: Any) -> None:
        self.effective_metric_, self.effective_metric_params_ = metric.name, metric.parameters
        self.medoid_indices_ = result.medoids
        self.cluster_centers_: Any = None if metric.name == "precomputed" else X[result.medoids]
        self.labels_, nearest = self._assign(X)
        self.inertia_ = _cost(nearest, weights)
        self.n_iter_, self._n_features_out = result.n_iter, len(result.medoids)

    def _remarks(
        self, X: np.ndarray, result: Result, called: str
    ) -> Iterator[tuple[str, type[Warning]]]:
        """What the user may not expect; on all ranks, so that where it is made an error, all meet
        it.

        The first two begin with the words that filters for scikit-learn-extra look for.
        """
        k, wanted = len(result.medoids), getattr(self, called)
        if not result.converged and result.n_iter:
            said = "Maximum number of iteration reached before convergence: "
            yield f"{said}max_iter={self.max_iter} ended the search", ConvergenceWarning
        empty = np.flatnonzero(np.bincount(self.labels_, minlength=k) == 0).tolist()
        if empty:
            rest = f" So are {', '.join(map(str, empty[1:]))}." if empty[1:] else ""
            yield (
                f"Cluster {empty[0]} is empty!{rest} Its medoid is nearer to no object than others "
                "are",
                UserWarning,
            )
        if k != wanted and called == "n_clusters":
            yield (
                f"n_clusters={wanted}, but init has {k} points: there are {k} clusters",
                UserWarning,
            )
        if said := self._metric.remark(X):
            yield said, DataConversionWarning

    @property
    def _metric(self) -> Metric:
        return Metric(self.effective_metric_, self.effective_metric_params_)

    def _distances(self, X: Any) -> Iterator[np.ndarray]:
        """Distances (any, k) float64 to the medoids, of some rows after the other."""
        for rows in gen_batches(X.shape[0], _BATCH):
            some = _dense(X[rows])
            if self.effective_metric_ == "precomputed":
                yield some[:, self.medoid_indices_].astype(np.float64)
            else:
                distances = self._metric.table(some, self.cluster_centers_)
                if not np.isfinite(distances).all():
                    wrong = distances[~np.isfinite(distances)][0]
                    raise ConfigError(
                        f"metric={self.metric!r} is {wrong} between a point of X and a medoid"
                    )
                yield distances

    def _assign(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Labels (n,) int64, of what `transform` returns, and distances (n,) float64 to the nearest
        medoid.
        """
        parts = [
            (part.astype(X.dtype).argmin(axis=1), part.min(axis=1)) for part in self._distances(X)
        ]
        labels, nearest = map(np.concatenate, zip(*parts, strict=True))
        return labels, nearest

    def __sklearn_tags__(self) -> Any:
        tags, given = (
            super().__sklearn_tags__(),
            isinstance(self.metric, str) and self.metric == "precomputed",
        )
        tags.input_tags.pairwise = tags.input_tags.positive_only = given
        tags.input_tags.sparse, tags.input_tags.allow_nan = not given, allows_nan(self.metric)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """A communicator cannot be pickled: an estimator that is loaded fits alone."""
        state: Any = super().__getstate__()
        return state | {"comm": None}

    def __sklearn_clone__(self) -> _Medoids:
        """Nor can it be copied: clones share it."""
        twin: Any = BaseEstimator.__sklearn_clone__(copy.copy(self))
        return twin.set_params(comm=self.comm)


class KMedoids(_Medoids):
    """The k objects with the least sum of distances from all objects to the nearest of them.

    n_clusters : k, a whole number
    metric : as in `hpckit.cluster.fasterpam`: any name of `sklearn.metrics.pairwise_distances`, or
        a function of two points; "precomputed": X is the matrix of distances
    method : "fasterpam", "pam", "onebatch", "clara", "clarans", "alternate", or "auto": "onebatch"
        for more than 20 000 points, else "fasterpam"
    init : first medoids: a name as in `hpckit.cluster.fasterpam`, indices (k,) of objects, or
        points (k, d), of which the nearest objects are taken, and which say how many clusters there
        are; None: as the method likes
    n_init : searches, each with its own random start, of which the one with the least loss is kept
    max_iter, block, batch, samples, sample_size, restarts, max_neighbors : arguments of the method;
    None: its default
    metric_params : dict of arguments of the metric
    memory, threads : as in `hpckit.cluster.fasterpam`
    random_state : int, `numpy.random.RandomState`, `Generator` or `SeedSequence`, or None; that of
        rank 0 counts
    comm : communicator whose ranks all call `fit` with the same X; None for this process alone

    After `fit`: `medoid_indices_` (k,) and `labels_` (n,) int64, `cluster_centers_` (k, d) or None
    for matrices, `inertia_`, the weighted sum of the distances to the nearest medoids, `n_iter_`,
    `n_features_in_`, `effective_metric_`, and `effective_metric_params_` with what was computed
    from X. Bad arguments raise `ValueError`, on all ranks. Warns, on all ranks, of a search that
    ended at `max_iter` (`sklearn.exceptions.ConvergenceWarning`) and of clusters that are empty::

        model = KMedoids(20, random_state=1).fit(points)
        labels = model.predict(others)
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Any = "euclidean",
        method: str = "fasterpam",
        init: Any = None,
        n_init: int = 1,
        block: int | None = None,
        max_iter: int | None = None,
        batch: int | None = None,
        samples: int | None = None,
        sample_size: int | None = None,
        restarts: int | None = None,
        max_neighbors: int | None = None,
        metric_params: dict[str, Any] | None = None,
        memory: Any = "auto",
        threads: int = 1,
        random_state: Any = None,
        comm: MPI.Intracomm | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.method = method
        self.init = init
        self.n_init = n_init
        self.block = block
        self.max_iter = max_iter
        self.batch = batch
        self.samples = samples
        self.sample_size = sample_size
        self.restarts = restarts
        self.max_neighbors = max_neighbors
        self.metric_params = metric_params
        self.memory = memory
        self.threads = threads
        self.random_state = random_state
        self.comm = comm

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> KMedoids:
        """Find the medoids (collective over `comm`).

        X : points (n, d), dense or sparse, or distances (n, n) if metric="precomputed"; whole on
            every rank
        sample_weight : (n,) weight of each object in the loss
        """
        self._fit(X, sample_weight, "n_clusters", self.n_init)
        return self

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Minus the weighted sum of the distances to the nearest medoids; X as for `predict`."""
        check_is_fitted(self)
        nearest = self._assign(self._checked(X, reset=False))[1]
        return -_cost(nearest, checked_weights(sample_weight, len(nearest)))

    def _searches(self, n: int) -> list[Any]:
        if isinstance(self.method, str) and self.method == "auto":
            many = n > _MANY and not (isinstance(self.metric, str) and self.metric == "precomputed")
            return [onebatch, fasterpam] if many else [fasterpam, onebatch]
        if not isinstance(self.method, str) or self.method not in _SEARCHES:
            names = ", ".join(_SEARCHES)
            raise ConfigError(
                f"method={self.method!r} must be one of auto, {names}: {self.method} is not "
                "supported"
            )
        return [_SEARCHES[self.method]]


class DynMSC(_Medoids):
    """Medoids, and how many of them, with the highest average medoid silhouette.

    k_max, k_min : the most and the fewest to try
    metric, init, block, max_iter, metric_params, memory, threads, random_state, comm : as for
    `KMedoids`; of `init`,
        k_max are named

    After `fit`: `n_clusters_`, `scores_` (fields k and silhouette, for each k tried), and what
    `KMedoids` has, for the best k. Errors and warnings as there.
    """

    def __init__(
        self,
        k_max: int = 10,
        *,
        k_min: int = 2,
        metric: Any = "euclidean",
        init: Any = None,
        block: int | None = None,
        max_iter: int | None = None,
        metric_params: dict[str, Any] | None = None,
        memory: Any = "auto",
        threads: int = 1,
        random_state: Any = None,
        comm: MPI.Intracomm | None = None,
    ) -> None:
        self.k_max = k_max
        self.k_min = k_min
        self.metric = metric
        self.init = init
        self.block = block
        self.max_iter = max_iter
        self.metric_params = metric_params
        self.memory = memory
        self.threads = threads
        self.random_state = random_state
        self.comm = comm

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> DynMSC:
        """Find the medoids (collective over `comm`); X and sample_weight as for `KMedoids`."""
        self._fit(X, sample_weight, "k_max", ensure_min_samples=2)
        return self

    def _keep(self, X: np.ndarray, weights: np.ndarray, metric: Metric, result: Any) -> None:
        super()._keep(X, weights, metric, result)
        self.n_clusters_, self.scores_ = len(result.medoids), result.scores

    def _searches(self, n: int) -> list[Any]:
        return [dynmsc]


def _at_least(k: int, called: str, arguments: dict[str, Any]) -> None:
    """Samples must hold all medoids."""
    for name in sorted({"sample_size", "batch"} & arguments.keys()):
        if inputs.count(arguments[name], name) < k:
            raise ConfigError(
                f"{name}={arguments[name]} is less than {called}={k}: draw at least as many objects"
            )


def _cost(nearest: np.ndarray, weights: np.ndarray) -> float:
    return float((nearest * weights).sum())


def _dense(X: Any) -> np.ndarray:
    return X.toarray() if hasattr(X, "toarray") else X
