"""k-medoids as scikit-learn estimators: for pipelines, searches over parameters, and labels of new objects."""

from __future__ import annotations

import copy
from inspect import signature
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from scipy.spatial.distance import cdist
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
    from sklearn.utils import check_random_state, gen_batches
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"hpckit.cluster.estimators needs scikit-learn ({error}): pip install 'hpckit[sklearn]'"
    ) from error

from hpckit.cluster import alternate, clara, clarans, dynmsc, fasterpam, onebatch, pam
from hpckit.cluster._ranks import Ranks
from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpi4py import MPI

    from hpckit.cluster import Result

_SEARCHES = {search.__name__: search for search in (fasterpam, pam, onebatch, clara, clarans, alternate)}
_MANY = 20_000  # objects: the distances between more take over 1.6 GB
_OWN = ("init", "block", "max_iter")  # None leaves them to the search
_COMMON = ("metric", "memory", "threads", "comm")
_BATCH = 1024  # objects that are labelled at once


class _Medoids(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """What the medoids are good for, once they are found."""

    metric: Any
    random_state: Any
    comm: MPI.Intracomm | None

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,) int64: for each object the position in `medoid_indices_` of the nearest medoid.

        X : points (n, d); with metric="precomputed" distances (n, n_fitted) to the objects of `fit`. Not collective.
        """
        check_is_fitted(self)
        return self._labels(self._checked(X, reset=False))

    def transform(self, X: Any) -> np.ndarray:
        """Distances (n, k) float64 to the medoids; X as for `predict`."""
        check_is_fitted(self)
        return self._distances(self._checked(X, reset=False))

    def _checked(self, X: Any, *, reset: bool, **limits: Any) -> np.ndarray:
        """X as an array, its columns those of `fit` unless this is it (`reset`)."""
        limits |= {"dtype": [np.float64, np.float32], "ensure_non_negative": self.metric == "precomputed"}
        return np.asarray(validate_data(self, X, reset=reset, **limits))

    def _arguments(self, search: Callable[..., Result], sample_weight: Any) -> dict[str, Any]:
        """What every search takes, and what this one does beside it."""
        own = {name: getattr(self, name) for name in _OWN if getattr(self, name) is not None}
        if foreign := own.keys() - signature(search).parameters.keys():
            raise ConfigError(f"{search.__name__} takes no {' and no '.join(sorted(foreign))}: leave it at None")
        return own | {name: getattr(self, name) for name in _COMMON} | {"sample_weight": sample_weight}

    def _seeds(self, count: int) -> list[int]:
        if count < 1:
            raise ConfigError(f"n_init={count} must be at least 1")
        return check_random_state(self.random_state).randint(2**31 - 1, size=count).tolist()

    def _keep(self, X: np.ndarray, result: Result) -> None:
        self.medoid_indices_ = result.medoids
        self.cluster_centers_: Any = None if self.metric == "precomputed" else X[result.medoids]
        self.labels_, self.n_iter_ = self._labels(X), result.n_iter
        self._n_features_out = len(result.medoids)

    def _distances(self, X: np.ndarray) -> np.ndarray:
        if self.metric == "precomputed":
            return X[:, self.medoid_indices_].astype(np.float64)
        distances = cdist(X, self.cluster_centers_, "cityblock" if self.metric == "manhattan" else self.metric)
        if not np.isfinite(distances).all():
            wrong = distances[~np.isfinite(distances)][0]
            raise ConfigError(f"metric={self.metric!r} is {wrong} between a point of X and a medoid")
        return distances

    def _labels(self, X: np.ndarray) -> np.ndarray:
        return np.concatenate([self._distances(X[rows]).argmin(axis=1) for rows in gen_batches(len(X), _BATCH)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = tags.input_tags.positive_only = self.metric == "precomputed"
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
    metric : as in `hpckit.cluster.fasterpam`; "precomputed": X is the matrix of distances
    method : "fasterpam", "pam", "onebatch", "clara", "clarans", "alternate", or "auto": "onebatch" for more than 20 000
        points, else "fasterpam"
    init, block, max_iter : arguments of the method; None: its own default
    n_init : searches, each with its own random start, of which the one with the least loss is kept
    memory, threads : as in `hpckit.cluster.fasterpam`
    random_state : int, `numpy.random.RandomState` or None; that of rank 0 counts
    comm : communicator whose ranks all call `fit` with the same X; None for this process alone

    After `fit`: `medoid_indices_` (k,) and `labels_` (n,) int64, `cluster_centers_` (k, d) or None for matrices,
    `inertia_` the loss, `n_iter_`, `n_features_in_`. Bad arguments raise `ValueError`, on all ranks.
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
        self.memory = memory
        self.threads = threads
        self.random_state = random_state
        self.comm = comm

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> KMedoids:
        """Find the medoids (collective over `comm`).

        X : points (n, d), or distances (n, n) if metric="precomputed"; whole on every rank
        sample_weight : (n,) weight of each object in the loss
        """
        ranks = Ranks(self.comm)
        with ranks.together():
            X = self._checked(X, reset=True)
            search = self._search(len(X))
            arguments = self._arguments(search, sample_weight)
            seeds = self._seeds(self.n_init)
        ranks.same("method and n_init", (self.method, len(seeds)))
        results = [search(X, self.n_clusters, random_state=seed, **arguments) for seed in seeds]
        result = min(results, key=attrgetter("loss"))
        self._keep(X, result)
        self.inertia_ = result.loss
        return self

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Minus the weighted sum of the distances to the nearest medoids; X as for `predict`."""
        nearest = self.transform(X).min(axis=1)
        return -float(nearest.sum() if sample_weight is None else nearest @ np.asarray(sample_weight))

    def _search(self, n: int) -> Callable[..., Result]:
        if self.method == "auto":
            return onebatch if n > _MANY and self.metric != "precomputed" else fasterpam
        if self.method not in _SEARCHES:
            raise ConfigError(f"method={self.method!r} must be one of auto, {', '.join(_SEARCHES)}")
        return _SEARCHES[self.method]


class DynMSC(_Medoids):
    """Medoids, and how many of them, with the highest average medoid silhouette.

    k_max, k_min : the most and the fewest to try
    metric, init, block, max_iter, memory, threads, random_state, comm : as for `KMedoids`

    After `fit`: `n_clusters_`, `scores_` (fields k and silhouette, for each k tried), `medoid_indices_`, `labels_`,
    `cluster_centers_`, `n_iter_` and `n_features_in_` as for `KMedoids`, all for the best k.
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
        self.memory = memory
        self.threads = threads
        self.random_state = random_state
        self.comm = comm

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> DynMSC:
        """Find the medoids (collective over `comm`); X and sample_weight as for `KMedoids`."""
        with Ranks(self.comm).together():
            X = self._checked(X, reset=True, ensure_min_samples=2)
            arguments = self._arguments(dynmsc, sample_weight)
            (seed,) = self._seeds(1)
        result = dynmsc(X, self.k_max, k_min=self.k_min, random_state=seed, **arguments)
        self._keep(X, result)
        self.n_clusters_, self.scores_ = len(result.medoids), result.scores
        return self
