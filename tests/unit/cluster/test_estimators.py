"""The estimators keep scikit-learn's contract, and fit the same on any number of ranks."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hpckit.cluster import alternate, clara, clarans, dynmsc, estimators, fasterpam, onebatch, pam
from hpckit.cluster._metrics import METRICS
from hpckit.cluster.estimators import DynMSC, KMedoids
from hpckit.errors import HpckitError

IRIS = load_iris().data  # one decimal place: many distances are equal but for rounding


def expected_failures(estimator):
    if estimator.metric == "precomputed":
        return dict.fromkeys(["check_clustering"], "the check passes points")
    return {"check_sample_weight_equivalence_on_dense_data": "objects of weight zero can be medoids"}


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
    assert found.inertia_ == pytest.approx(-found.score(IRIS), abs=150 * 2.0**-23 * distances.max())


def test_fit_is_the_search():
    for search in (fasterpam, pam, onebatch, clara, clarans, alternate):
        found = KMedoids(np.int32(4), method=search.__name__, init="build", random_state=0).fit(IRIS)
        seed = np.random.RandomState(0).randint(2**31 - 1)
        result = search(IRIS, 4, metric="euclidean", init="build", random_state=seed)
        assert found.medoid_indices_.tolist() == result.medoids.tolist()
        assert (found.inertia_, found.n_iter_) == (result.loss, result.n_iter)


def test_many_points_are_searched_in_one_batch(monkeypatch):
    monkeypatch.setattr(estimators, "_MANY", 149)
    auto, batch = (KMedoids(5, method=method, random_state=1).fit(IRIS) for method in ("auto", "onebatch"))
    assert (auto.inertia_, auto.medoid_indices_.tolist()) == (batch.inertia_, batch.medoid_indices_.tolist())
    few, whole = (KMedoids(5, method=method, random_state=1).fit(IRIS[1:]) for method in ("auto", "fasterpam"))
    assert (few.inertia_, few.n_iter_) == (whole.inertia_, whole.n_iter_)


def test_matrices_are_as_good_as_points():
    distances = np.linalg.norm(IRIS[:, None] - IRIS, axis=-1)
    points = KMedoids(6, init="build").fit(IRIS[:100])
    matrix = KMedoids(6, init="build", metric="precomputed").fit(distances[:100, :100])
    assert matrix.medoid_indices_.tolist() == points.medoid_indices_.tolist()
    assert matrix.cluster_centers_ is None
    np.testing.assert_allclose(matrix.transform(distances[100:, :100]), points.transform(IRIS[100:]), rtol=1e-12)
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
    search = GridSearchCV(pipeline, {"kmedoids__n_clusters": [2, 3], "kmedoids__metric": ["manhattan"]}, cv=3).fit(IRIS)
    assert search.best_params_["kmedoids__n_clusters"] == 3
    labels = search.predict(IRIS)
    assert pickle.loads(pickle.dumps(search)).predict(IRIS).tolist() == labels.tolist()
    assert list(pipeline.fit(IRIS).get_feature_names_out()) == ["kmedoids0", "kmedoids1", "kmedoids2"]


def test_the_number_of_clusters_is_found():
    points = np.random.default_rng(0).normal(size=(90, 2)) + np.repeat([[0, 0], [9, 0], [0, 9]], 30, axis=0)
    found = DynMSC(8, random_state=0).fit(points)
    assert found.n_clusters_ == len(found.medoid_indices_) == 3
    assert found.scores_["k"].tolist() == list(range(2, 9))
    assert found.scores_["silhouette"].argmax() == 1
    assert [len(set(found.labels_[start : start + 30].tolist())) for start in (0, 30, 60)] == [1, 1, 1]
    seed = np.random.RandomState(0).randint(2**31 - 1)
    assert found.medoid_indices_.tolist() == dynmsc(points, 8, metric="euclidean", random_state=seed).medoids.tolist()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "fast"}, "method='fast' must be one of auto, fasterpam, pam, onebatch"),
        ({"method": "pam", "block": 8}, "pam takes no block: leave it at None"),
        ({"n_init": 0}, "n_init=0 must be at least 1"),
        ({"n_clusters": 200}, "k=200 medoids of 150 objects"),
        ({"n_clusters": 2.0}, r"k=2\.0 must be a whole number"),
        ({"metric": "fancy"}, "metric='fancy'"),
        ({"memory": "free", "metric": "precomputed"}, "memory='free' computes distances from points"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        KMedoids(**parameters).fit(IRIS)


def test_points_without_a_distance_have_no_label():
    found = KMedoids(3, metric="cosine").fit(IRIS)
    with pytest.raises(ValueError, match="metric='cosine' is nan between a point of X and a medoid"):
        found.predict(np.zeros((1, 4)))


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["fasterpam", "pam", "onebatch", "clara", "clarans", "alternate"])
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
    with pytest.raises(HpckitError, match="rank 1: ValueError: Input X contains NaN"):
        KMedoids(3, comm=comm).fit(bad if comm.rank == 1 else IRIS)
    with pytest.raises(HpckitError, match="must be the same on all ranks"):
        KMedoids(3, comm=comm, n_init=1 + comm.rank).fit(IRIS)
