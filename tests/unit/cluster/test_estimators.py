"""The estimators keep scikit-learn's contract, and fit the same on any number of ranks."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hpckit.cluster import (
    alternate,
    clara,
    clarans,
    dynmsc,
    estimators,
    fasterpam,
    metrics,
    onebatch,
    pam,
)
from hpckit.cluster.estimators import DynMSC, KMedoids
from hpckit.cluster.metrics import WITH_KERNEL as METRICS
from hpckit.errors import HpckitError

IRIS = load_iris().data  # one decimal place: many distances are equal but for rounding


def expected_failures(estimator):
    if estimator.metric == "precomputed":
        return dict.fromkeys(["check_clustering"], "the check passes points")
    checks = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    return dict.fromkeys(checks, "objects of weight zero can be medoids")


# Some checks have fewer distinct objects than k.
@pytest.mark.filterwarnings("ignore:Cluster .* is empty:UserWarning")
@parametrize_with_checks(
    [KMedoids(), DynMSC(), KMedoids(metric="precomputed")], expected_failed_checks=expected_failures
)
def test_contract(estimator, check):
    check(estimator)


def steepest(x, y):
    return abs(x - y).max() ** 2


@pytest.mark.parametrize("metric", [*METRICS, steepest])
def test_labels_are_of_the_nearest_medoid_and_predicted_again(metric):
    found = KMedoids(5, metric=metric, random_state=0).fit(IRIS)
    distances = found.transform(IRIS)
    assert distances.shape == (150, 5)
    np.testing.assert_array_equal(found.labels_, distances.argmin(axis=1))
    np.testing.assert_array_equal(found.predict(IRIS), found.labels_)
    np.testing.assert_array_equal([found.predict(row[None])[0] for row in IRIS], found.labels_)
    np.testing.assert_array_equal(found.cluster_centers_, IRIS[found.medoid_indices_])
    np.testing.assert_allclose(found.transform(found.cluster_centers_).diagonal(), 0, atol=1e-15)
    assert (
        found.inertia_
        == -found.score(IRIS)
        == pytest.approx(distances.min(axis=1).sum(), rel=1e-14)
    )


def test_fit_is_the_search():
    for search in (fasterpam, pam, onebatch, clara, clarans, alternate):
        found = KMedoids(np.int32(4), method=search.__name__, init="build", random_state=0).fit(
            IRIS
        )
        seed = np.random.RandomState(0).randint(2**31 - 1)
        result = search(IRIS, 4, metric="euclidean", init="build", random_state=seed)
        assert found.medoid_indices_.tolist() == result.medoids.tolist()
        assert (
            found.inertia_ == pytest.approx(result.loss, rel=1e-6)
            and found.n_iter_ == result.n_iter
        )


def test_many_points_are_searched_in_one_batch(monkeypatch):
    monkeypatch.setattr(estimators, "_MANY", 149)
    auto, batch = (
        KMedoids(5, method=method, random_state=1).fit(IRIS) for method in ("auto", "onebatch")
    )
    assert (auto.inertia_, auto.medoid_indices_.tolist()) == (
        batch.inertia_,
        batch.medoid_indices_.tolist(),
    )
    few, whole = (
        KMedoids(5, method=method, random_state=1).fit(IRIS[1:]) for method in ("auto", "fasterpam")
    )
    assert (few.inertia_, few.n_iter_) == (whole.inertia_, whole.n_iter_)


def test_matrices_are_as_good_as_points():
    distances = np.linalg.norm(IRIS[:, None] - IRIS, axis=-1)
    points = KMedoids(6, init="build").fit(IRIS[:100])
    matrix = KMedoids(6, init="build", metric="precomputed").fit(distances[:100, :100])
    assert matrix.medoid_indices_.tolist() == points.medoid_indices_.tolist()
    assert matrix.cluster_centers_ is None
    np.testing.assert_allclose(
        matrix.transform(distances[100:, :100]), points.transform(IRIS[100:]), rtol=1e-12
    )
    with pytest.raises(ValueError, match="must be square"):
        KMedoids(2, metric="precomputed").fit(IRIS)


def test_the_best_of_several_starts_is_kept():
    one, many = (KMedoids(20, n_init=n, random_state=0).fit(IRIS) for n in (1, 8))
    assert many.inertia_ < one.inertia_
    assert many.inertia_ == KMedoids(20, n_init=8, random_state=0).fit(IRIS).inertia_


def test_weights_reach_the_search_and_the_score():
    weights = np.where(np.arange(150) < 50, 5, 1)
    found = KMedoids(3, init="build").fit(IRIS, sample_weight=weights)
    assert (found.medoid_indices_ < 50).sum() == 2  # the heavy species gets two of three
    assert found.inertia_ == pytest.approx(-found.score(IRIS, sample_weight=weights), rel=1e-6)


def test_pipelines_searches_and_pickles():
    pipeline = make_pipeline(StandardScaler(), KMedoids(3, random_state=0))
    search = GridSearchCV(
        pipeline, {"kmedoids__n_clusters": [2, 3], "kmedoids__metric": ["manhattan"]}, cv=3
    ).fit(IRIS)
    assert search.best_params_["kmedoids__n_clusters"] == 3
    labels = search.predict(IRIS)
    assert pickle.loads(pickle.dumps(search)).predict(IRIS).tolist() == labels.tolist()
    assert list(pipeline.fit(IRIS).get_feature_names_out()) == [
        "kmedoids0",
        "kmedoids1",
        "kmedoids2",
    ]


def test_the_number_of_clusters_is_found():
    points = np.random.default_rng(0).normal(size=(90, 2)) + np.repeat(
        [[0, 0], [9, 0], [0, 9]], 30, axis=0
    )
    found = DynMSC(8, random_state=0).fit(points)
    assert found.n_clusters_ == len(found.medoid_indices_) == 3
    assert found.scores_["k"].tolist() == list(range(2, 9))
    assert found.scores_["silhouette"].argmax() == 1
    assert [len(set(found.labels_[start : start + 30].tolist())) for start in (0, 30, 60)] == [
        1,
        1,
        1,
    ]
    seed = np.random.RandomState(0).randint(2**31 - 1)
    assert (
        found.medoid_indices_.tolist()
        == dynmsc(points, 8, metric="euclidean", random_state=seed).medoids.tolist()
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "fast"}, "method='fast' must be one of auto, fasterpam, pam, onebatch"),
        ({"method": ["pam"]}, r"method=\['pam'\] must be one of auto, fasterpam, pam, onebatch"),
        ({"method": "pam", "block": 8}, "pam takes no block: leave it at None"),
        (
            {"method": "auto", "samples": 8},
            "fasterpam and onebatch takes no samples: leave it at None",
        ),
        ({"n_init": 0}, "n_init=0 must be at least 1"),
        ({"n_init": None}, "n_init=None must be a whole number"),
        ({"n_clusters": 200}, "n_clusters=200 medoids of 150 objects: n_clusters must be 1 to 150"),
        ({"n_clusters": 2.0}, r"n_clusters=2\.0 must be a whole number"),
        ({"max_iter": -1}, "max_iter=-1 must be at least 0"),
        ({"method": "clara", "sample_size": 7}, "sample_size=7 is less than n_clusters=8"),
        ({"method": "onebatch", "batch": 7}, "batch=7 is less than n_clusters=8"),
        ({"method": "clara", "samples": 0}, "samples=0 must be at least 1"),
        ({"metric": np.ones(3)}, "metric=array.* must be one of precomputed"),
        ({"metric": "fancy"}, "metric='fancy' must be one of precomputed, euclidean, .*jaccard"),
        (
            {"metric": "minkowski", "metric_params": {"q": 1}},
            "metric='minkowski' with metric_params={'q': 1}",
        ),
        (
            {"init": "best"},
            "init needs to be one of random, .*heuristic, k-medoids.*, or points; it is 'best'",
        ),
        ({"init": [1, 2]}, "init must be 8 whole numbers"),
        ({"init": np.ones((2, 3))}, r"init has shape \(2, 3\), it must be \(k, 4\)"),
        ({"init": [[1, np.nan, 2, 3]]}, "init has a coordinate that is nan"),
        ({"init": np.ma.ones((2, 4))}, "init must not be a masked array"),
        ({"init": IRIS[:2], "metric": "precomputed"}, "init must be indices of objects"),
        ({"random_state": "x"}, "random_state='x' is neither a seed nor a generator"),
        ({"random_state": -1}, "random_state=-1 is neither a seed nor a generator"),
        (
            {"memory": "free", "metric": "precomputed"},
            "memory='free' computes distances from points",
        ),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        KMedoids(**parameters).fit(IRIS)


def test_points_without_a_distance_have_no_label():
    found = KMedoids(3, metric="cosine").fit(IRIS)
    with pytest.raises(
        ValueError, match="metric='cosine' is nan between a point of X and a medoid"
    ):
        found.predict(np.zeros((1, 4)))


def test_all_that_a_method_takes_is_a_parameter():
    for search in (fasterpam, pam, onebatch, clara, clarans, alternate):
        takes = set(estimators.signature(search).parameters) - {
            "data",
            "k",
            "common",
            "monitor",
            "resume",
        }
        assert takes <= KMedoids().get_params().keys()
    found = KMedoids(4, method="clara", samples=2, sample_size=30, random_state=0).fit(IRIS)
    seed = np.random.RandomState(0).randint(2**31 - 1)
    expected = clara(IRIS, 4, metric="euclidean", samples=2, sample_size=30, random_state=seed)
    assert found.medoid_indices_.tolist() == expected.medoids.tolist()
    # Of the other search that auto may take.
    found = KMedoids(4, method="auto", batch=50, random_state=0).fit(IRIS)
    assert (
        found.medoid_indices_.tolist()
        == KMedoids(4, random_state=0).fit(IRIS).medoid_indices_.tolist()
    )


def points_for(metric):
    if metric in (
        *metrics.BOOLEAN,
        "sokalmichener",
    ):  # the last is true everywhere: some are of 0 by 0 where none is
        return np.greater(IRIS, [6, 3, 4, 0]).astype(float)
    if metric == "haversine":
        return IRIS[:, :2] / 9
    return np.where(IRIS == 1.4, np.nan, IRIS) if metric == "nan_euclidean" else IRIS


@pytest.mark.mpi
@pytest.mark.parametrize("metric", [*metrics.OTHERS, *metrics.BOOLEAN, *metrics.ALIASES, steepest])
# Few points of true and false differ.
@pytest.mark.filterwarnings("ignore:Cluster .* is empty:UserWarning")
def test_metrics_of_scikit_learn(comm, metric):
    X = points_for(metric)
    fit, new = X[::3], X[1::2]
    found = KMedoids(4, metric=metric, random_state=0, comm=comm).fit(fit)
    given = {} if callable(metric) else found.effective_metric_params_
    name = "rogerstanimoto" if metric == "sokalmichener" else metric
    kind = bool if name in metrics.BOOLEAN else float
    centers = found.cluster_centers_.astype(kind)
    expected = pairwise_distances(new.astype(kind), centers, metric=name, **given)
    # Theirs are of matrix products.
    np.testing.assert_allclose(found.transform(new), expected, rtol=1e-12, atol=1e-7)
    np.testing.assert_array_equal(found.predict(new), found.transform(new).argmin(axis=1))
    np.testing.assert_array_equal(found.labels_, found.predict(fit))
    assert found.inertia_ == -found.score(fit)
    everywhere = comm.allgather(
        (found.medoid_indices_.tolist(), found.labels_.tolist(), found.inertia_)
    )
    alone = clone(found).set_params(comm=None).fit(fit)
    assert (
        everywhere
        == [(alone.medoid_indices_.tolist(), alone.labels_.tolist(), alone.inertia_)] * comm.size
    )
    loaded = pickle.loads(pickle.dumps(found.set_params(metric="euclidean", comm=None)))
    if loaded.effective_metric_ != "nan_euclidean":  # whose gaps the new metric does not take
        np.testing.assert_array_equal(loaded.transform(new), alone.transform(new))


def test_numbers_that_count_as_true():
    with pytest.warns(DataConversionWarning, match="coordinates other than 0 and 1 count as true"):
        KMedoids(2, metric="jaccard").fit([[0, 2], [1, 0], [1, 1]])
    for X in ([[0, 1], [1, 0], [1, 1]], np.array([[False, True], [True, True]])):
        KMedoids(2, metric="jaccard").fit(X)  # which says nothing


def test_points_to_start_from():
    near = IRIS[[7, 60, 110]] + 1e-3
    for init in (IRIS[[7, 60, 110]], near.tolist(), near.astype("f4"), [7, 60, 110]):
        first = KMedoids(3, init=init, max_iter=0).fit(IRIS)
        assert first.medoid_indices_.tolist() == [7, 60, 110] and first.n_iter_ == 0
    same = np.array([[0.0], [1], [1], [5]])
    with pytest.warns(UserWarning, match="Cluster 1 is empty"):
        assert KMedoids(3, init=[[1], [1], [0.9]], max_iter=0).fit(
            same
        ).medoid_indices_.tolist() == [1, 2, 0]
    parallel = np.array([[1.0, 1], [2, 2], [3, 1]])
    found = KMedoids(1, metric="cosine", init=[[2, 2]], max_iter=0).fit(parallel)
    assert found.medoid_indices_.tolist() == [1]  # which is equal, not only in the same direction
    with pytest.warns(
        UserWarning, match="n_clusters=8, but init has 2 points: there are 2 clusters"
    ):
        found = KMedoids(init=IRIS[[0, 60]]).fit(IRIS)
    assert found.n_clusters == 8 and len(found.cluster_centers_) == 2
    assert found.transform(IRIS).shape == (150, 2) and len(found.get_feature_names_out()) == 2


@pytest.mark.mpi
def test_warnings_on_all_ranks(comm):
    for estimator in (KMedoids(9, max_iter=1, comm=comm), DynMSC(9, max_iter=1, comm=comm)):
        with pytest.warns(
            ConvergenceWarning, match="^Maximum number of iteration reached before convergence"
        ):
            estimator.set_params(random_state=0).fit(IRIS)
    values = np.array([[1.0], [3.0], [0.0], [1.0], [1.0], [3.0], [0.0], [2.0], [1.0], [0.0]])
    with pytest.warns(UserWarning, match="^Cluster 1 is empty!"):
        KMedoids(4, method="alternate", init=[2, 6, 1, 0], comm=comm).fit(values)
    for method in ("fasterpam", "pam", "onebatch", "clara", "clarans", "alternate"):
        with pytest.warns(UserWarning, match="^Cluster . is empty!") as said:
            KMedoids(3, method=method, random_state=0, comm=comm).fit([[1.0], [1.0], [1.0], [2.0]])
        assert len(said) == 1
    with pytest.raises(ConvergenceWarning):  # tests make errors of warnings
        KMedoids(9, max_iter=1, random_state=0, comm=comm).fit(IRIS)


def test_only_the_result_that_is_kept_is_looked_at(caplog):
    values = np.array([[1.0], [3.0], [0.0], [1.0], [1.0], [3.0], [0.0], [2.0], [1.0], [0.0]])
    found = KMedoids(4, method="alternate", init="random", n_init=40, random_state=0).fit(values)
    assert found.inertia_ == 0 and not caplog.records  # a start with an empty cluster has 1


@pytest.mark.mpi
def test_random_states_of_all_kinds(comm):
    def medoids(state):
        return (
            KMedoids(6, n_init=2, random_state=state, comm=comm).fit(IRIS).medoid_indices_.tolist()
        )

    for kind in (
        int,
        np.random.RandomState,
        np.random.default_rng,
        np.random.SeedSequence,
        np.random.PCG64,
    ):
        found = medoids(kind(5 if comm.rank == 0 else 6 + comm.rank))
        assert comm.allgather(found) == [medoids(kind(5))] * comm.size
    assert len(set(map(tuple, comm.allgather(medoids(None))))) == 1


def test_single_precision_stays():
    for metric in (*METRICS, "mahalanobis", "jaccard", "haversine", steepest):
        X = (points_for(metric) + (metric not in metrics.BOOLEAN)).astype("f4")[
            :, : 2 if metric == "haversine" else 4
        ]
        X = X / 9 if metric == "haversine" else X
        found = KMedoids(3, metric=metric, random_state=0).fit(X)
        distances = found.transform(X)
        assert distances.dtype == found.cluster_centers_.dtype == np.float32
        np.testing.assert_array_equal(found.labels_, distances.argmin(axis=1))
        assert (
            found.inertia_
            == -found.score(X)
            == pytest.approx(distances.min(axis=1).sum(), rel=1e-5)
        )
        assert found.transform(X.astype(float)).dtype == np.float64
    matrix = pairwise_distances(IRIS).astype("f4")
    found = KMedoids(3, metric="precomputed", random_state=0).fit(matrix)
    np.testing.assert_array_equal(found.transform(matrix), matrix[:, found.medoid_indices_])
    assert found.transform(matrix).dtype == np.float32


@pytest.mark.parametrize(
    "kind", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array, sparse.lil_matrix]
)
def test_sparse_points_are_as_dense_ones(kind):
    X = np.where(IRIS > 2, IRIS, 0)
    for estimator in (
        KMedoids(3, random_state=0),
        KMedoids(3, metric="l1", random_state=0),
        DynMSC(4, random_state=0),
    ):
        dense, found = clone(estimator).fit(X), clone(estimator).fit(kind(X))
        assert found.medoid_indices_.tolist() == dense.medoid_indices_.tolist()
        np.testing.assert_array_equal(found.predict(kind(X)), dense.labels_)
        np.testing.assert_array_equal(found.transform(kind(X)), dense.transform(X))
        np.testing.assert_array_equal(found.cluster_centers_, X[found.medoid_indices_])
    with pytest.raises(TypeError, match=r"[Ss]parse"):  # where a zero would mean two things
        KMedoids(2, metric="precomputed").fit(kind(pairwise_distances(X)))


@pytest.mark.mpi
def test_masked_arrays_are_refused(comm):
    masked = np.ma.masked_less(IRIS, 1)
    for estimator in (KMedoids(3, comm=comm), DynMSC(3, comm=comm)):
        with pytest.raises(ValueError, match="X must not be a masked array"):
            estimator.fit(masked if comm.rank == comm.size - 1 else IRIS)
        with pytest.raises(ValueError, match="X must not be a masked array"):
            estimator.fit(IRIS).predict(masked)
    with pytest.raises(ValueError, match="sample_weight must not be a masked array"):
        KMedoids(3, comm=comm).fit(IRIS, sample_weight=np.ma.ones(150))


def test_gaps_are_for_one_metric_only():
    X = np.where(IRIS == 1.4, np.nan, IRIS)
    for metric in ("euclidean", "jaccard", steepest):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            KMedoids(3, metric=metric).fit(X)
    found = KMedoids(3, metric="nan_euclidean", random_state=0).fit(X)
    assert np.isfinite(found.transform(X)).all()
    with pytest.raises(
        ValueError, match="metric='nan_euclidean' is nan between a point of X and a medoid"
    ):
        found.predict(np.full((1, 4), np.nan))
    with pytest.raises(ValueError, match="infinity"):
        found.predict(np.full((1, 4), np.inf))


@pytest.mark.mpi
@pytest.mark.parametrize(
    "method", ["fasterpam", "pam", "onebatch", "clara", "clarans", "alternate"]
)
def test_ranks_fit_what_one_fits(comm, method):
    alone = KMedoids(7, method=method, n_init=2, random_state=3).fit(IRIS)
    found = clone(alone).set_params(comm=comm).fit(IRIS)
    assert clone(found).comm == comm
    assert found.medoid_indices_.tolist() == alone.medoid_indices_.tolist()
    assert (found.inertia_, found.labels_.tolist()) == (alone.inertia_, alone.labels_.tolist())
    loaded = pickle.loads(pickle.dumps(found))
    assert loaded.comm is None
    assert loaded.predict(IRIS).tolist() == found.labels_.tolist()


@pytest.mark.mpi(min_size=2)
def test_bad_input_on_one_rank_is_an_error_on_all(comm):
    bad = IRIS.copy()
    bad[3, 1] = np.nan
    for kind in (HpckitError, ValueError):
        with pytest.raises(kind, match="rank 1: ValueError: Input X contains NaN"):
            KMedoids(3, comm=comm).fit(bad if comm.rank == 1 else IRIS)
        with pytest.raises(kind, match="Input X contains NaN"):  # and our own errors elsewhere
            KMedoids(3 if comm.rank == 1 else 0, comm=comm).fit(bad if comm.rank == 1 else IRIS)
        with pytest.raises(kind, match="must be the same on all ranks"):
            KMedoids(3, comm=comm, n_init=1 + comm.rank).fit(IRIS)
    with pytest.raises(
        ValueError, match=r"1 of \d ranks failed: rank 1: X must not be a masked array"
    ):
        KMedoids(3, comm=comm).fit(np.ma.array(IRIS) if comm.rank == 1 else bad)
    for name, mine, others in [
        ("metric", "mahalanobis", "euclidean"),
        ("metric_params", {"w": [1, 2, 3, 4]}, None),
        ("init", IRIS[:3], "random"),
        ("init", IRIS[:3], IRIS[3:6]),
        ("init", [1, 2, 3], IRIS[:3]),
        ("method", "pam", "fasterpam"),
        ("max_iter", 3, 4),
        ("n_clusters", 3, 4),
    ]:
        wrong = {name: mine if comm.rank == 1 else others}
        with pytest.raises(ValueError, match="must be the same on all ranks"):
            KMedoids(3, comm=comm).set_params(**wrong).fit(IRIS)
    for estimator in (
        KMedoids(metric="seuclidean", comm=comm),
        DynMSC(metric="mahalanobis", comm=comm),
    ):
        with pytest.raises(ValueError, match="must be the same on all ranks"):
            estimator.fit(IRIS[:, : 2 + (comm.rank == 0)])
        with pytest.raises(ValueError, match=r"must be the same on all ranks|1 of \d ranks failed"):
            clone(estimator).set_params(metric="nonsense" if comm.rank == 1 else "l1").fit(IRIS)
