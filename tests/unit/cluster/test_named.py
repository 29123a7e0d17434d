"""Metrics by scikit-learn's names: right, the same bits on all ranks, and errors on all ranks."""

import itertools
import logging

import numpy as np
import pytest
import reference
from sklearn.metrics import pairwise, pairwise_distances

from hpckit.cluster import (
    clara,
    fasterpam,
    medoid_silhouette,
    metrics,
    onebatch,
    pam,
    silhouette,
)
from hpckit.cluster.metrics import WITH_KERNEL as METRICS
from hpckit.errors import ConfigError

RNG = np.random.default_rng(0)
POINTS = RNG.random((41, 5)) + 0.1
NAMES = sorted(set(metrics.NAMES) - {"sokalmichener"})  # which scikit-learn has dropped
PARAMETERS = [
    ("minkowski", {"p": 3}),
    ("minkowski", {"p": 1}),
    ("minkowski", {"p": np.inf}),
    ("minkowski", {"p": 1.5, "w": [1, 2, 3, 4, 5]}),
    ("euclidean", {"w": np.arange(1, 6)}),
    ("manhattan", {"w": np.arange(1, 6)}),
    ("seuclidean", {"V": np.arange(1, 6)}),
    ("mahalanobis", {"VI": np.diag(np.arange(1.0, 6))}),
]


def points_for(name):
    if name in metrics.BOOLEAN:
        return (RNG.random((41, 9)) < 0.5).astype(float)
    if name == "haversine":
        return POINTS[:, :2]
    if name == "nan_euclidean":
        return np.where(np.arange(205).reshape(41, 5) % 7 == 0, np.nan, POINTS)
    return POINTS


def expected(name, points):
    # scikit-learn sets its diagonal to 0, but only where all points are compared.
    if name == "russellrao":
        return pairwise_distances(points.astype(bool), points.astype(bool), metric=name)
    return pairwise_distances(
        points.astype(bool) if name in metrics.BOOLEAN else points, metric=name
    )


def test_every_name_is_there():
    assert set(pairwise._VALID_METRICS) - {"wminkowski"} <= {
        "precomputed",
        *NAMES,
    }  # SciPy has no wminkowski any more


@pytest.mark.parametrize("name", NAMES)
def test_distances_are_those_of_scikit_learn(name):
    points = points_for(name)
    distances = expected(name, points)
    found = pam(points, 4, metric=name, init="build")
    same = pam(distances, 4, init="build")
    assert found.medoids.tolist() == same.medoids.tolist()
    assert found.loss == pytest.approx(distances[:, found.medoids].min(axis=1).sum(), rel=1e-5)


@pytest.mark.mpi
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_on_all_ranks(comm, name):
    points = points_for(name)
    for search, memory in [(fasterpam, "auto"), (pam, "free")]:
        options = {"metric": name, "init": "first"}
        alone = reference.digest(search(points, 4, **options))
        together = reference.digest(
            search(points, 4, **options, memory=memory, threads=2, comm=comm)
        )
        assert comm.allgather(together) == [alone] * comm.size


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "parameters"), PARAMETERS)
def test_parameters(comm, name, parameters):
    found = fasterpam(POINTS, 4, metric=name, metric_params=parameters, random_state=0, comm=comm)
    scipy = pytest.importorskip("scipy.spatial.distance")
    distances = scipy.cdist(
        POINTS, POINTS, "cityblock" if name == "manhattan" else name, **parameters
    )
    assert found.medoids.tolist() == fasterpam(distances, 4, random_state=0).medoids.tolist()
    assert found.loss == pytest.approx(distances[:, found.medoids].min(axis=1).sum(), rel=1e-5)


@pytest.mark.parametrize("name", [*metrics.OTHERS, *metrics.BOOLEAN, *METRICS])
def test_a_distance_does_not_depend_on_what_is_computed_with_it(name):
    points = points_for(name)
    named = metrics.complete(name, {}, points, metrics.Ranks(None))
    whole = named.table(points, points)
    some = slice(0, 1), slice(3, 10), slice(None, None, 3)
    for rows, columns in itertools.product(some, some):
        np.testing.assert_array_equal(
            named.table(points[rows], points[columns]), whole[rows, columns]
        )
    assert [named(points[5], points[j]) for j in range(41)] == whole[5].tolist()


def test_what_depends_on_the_data_is_of_all_of_it():
    """Not of a sample, nor of a batch, nor of a slice of it."""
    far = np.concatenate([POINTS, POINTS * [[100, 1, 1, 1, 1]]])
    for name, parameters in [
        ("seuclidean", {"V": far.var(axis=0, ddof=1)}),
        ("mahalanobis", {"VI": np.linalg.inv(np.cov(far.T)).T}),
    ]:
        for search in (fasterpam, clara, onebatch):
            free = search(far, 3, metric=name, random_state=0)
            given = search(far, 3, metric=name, metric_params=parameters, random_state=0)
            assert reference.digest(free) == reference.digest(given)


@pytest.mark.mpi
def test_slices_have_the_parameters_of_the_whole(comm):
    start, stop = 41 * comm.rank // comm.size, 41 * (comm.rank + 1) // comm.size
    for name in ("seuclidean", "mahalanobis", "nan_euclidean"):
        points = points_for(name)
        alone = reference.digest(pam(points, 3, metric=name))
        assert (
            reference.digest(pam(points[start:stop], 3, metric=name, distributed=True, comm=comm))
            == alone
        )


def test_functions_take_parameters_too():
    def power(x, y, p):
        return float((np.abs(x - y) ** p).sum())

    found = fasterpam(POINTS, 3, metric=power, metric_params={"p": 2}, random_state=0)
    assert (
        found.medoids.tolist()
        == fasterpam(POINTS, 3, metric="sqeuclidean", random_state=0).medoids.tolist()
    )
    labels, l1 = found.labels, {"metric": "minkowski", "metric_params": {"p": 1}}
    np.testing.assert_array_equal(
        silhouette(POINTS, labels, **l1), silhouette(POINTS, labels, metric="l1")
    )
    np.testing.assert_array_equal(
        medoid_silhouette(POINTS, found.medoids, **l1),
        medoid_silhouette(POINTS, found.medoids, metric="l1"),
    )


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("name", "parameters", "points", "message"),
    [
        ("haversine", None, POINTS, "metric='haversine' of points with 5 coordinates: .*2"),
        ("minkowski", {"p": -1}, POINTS, "metric='minkowski' needs a p above 0, not -1"),
        ("minkowski", {"p": "1"}, POINTS, "metric='minkowski' needs a p above 0, not '1'"),
        ("minkowski", {"q": 3}, POINTS, "metric='minkowski' with metric_params={'q': 3}"),
        ("seuclidean", {"V": [1, 2]}, POINTS, "metric='seuclidean' with metric_params"),
        (
            "seuclidean",
            None,
            POINTS * [1, 1, 0, 1, 1],
            "coordinate 2 of the points has none: .*or pass V",
        ),
        ("seuclidean", None, POINTS[:1], "needs 2 points"),
        ("mahalanobis", None, POINTS[:, [0, 1, 0]], "its rank is 2 of 3: .*or pass VI"),
        ("mahalanobis", None, POINTS[:3], "its rank is 2 of 5"),
        ("nan_euclidean", None, np.array([[1, np.nan], [np.nan, 1.0], [1, 1]]), "one is nan"),
        (
            "nan_euclidean",
            None,
            np.array([[1, np.inf], [2, 1.0]]),
            "coordinate 1 of point 0 is inf",
        ),
        ("correlation", None, np.ones((4, 3)), "one is nan"),
        ("jaccard", None, np.array([[1, np.nan], [2, 1.0]]), "points must be finite"),
        ("precomputed", {"p": 2}, np.ones((3, 3)), "takes no metric_params"),
        (
            "euclidean",
            {"squared": True},
            POINTS,
            "metric='euclidean' with metric_params={'squared': True}",
        ),
    ],
)
def test_what_does_not_suit_a_metric(comm, name, parameters, points, message):
    for ranks in (comm, None):
        with pytest.raises(ConfigError, match=message):
            pam(points, 1, metric=name, metric_params=parameters, comm=ranks)


@pytest.mark.mpi(min_size=2)
def test_parameters_that_differ(comm):
    weights = np.ones(5000)  # whose repr leaves most of them out
    weights[2500] += comm.rank
    points = np.ones((3, 5000))
    with pytest.raises(ConfigError, match="metric and memory must be the same on all ranks"):
        fasterpam(points, 2, metric="minkowski", metric_params={"w": weights}, comm=comm)


@pytest.mark.mpi
def test_numbers_that_count_as_true_are_named(comm, caplog):
    with caplog.at_level(logging.WARNING):
        pam(points_for("jaccard"), 2, metric="jaccard", comm=comm)
        assert not caplog.records
        pam(POINTS, 2, metric="jaccard", comm=comm)
    assert ("other than 0 and 1 count as true" in caplog.text) == (comm.rank == 0)
