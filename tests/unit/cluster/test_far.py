"""A few huge distances beside small ones: exact sums, a loss that is the loss, no warning."""

import logging
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import reference

from hpckit import native
from hpckit.cluster import (
    alternate,
    clara,
    clarans,
    dynmsc,
    fastermsc,
    fasterpam,
    inputs,
    medoid_silhouette,
    onebatch,
    pam,
    silhouette,
)
from hpckit.cluster.distances import load_distances
from hpckit.errors import ConfigError

SEARCHES = [fasterpam, pam, onebatch, clara, clarans, alternate]
GROUPS = np.r_[np.arange(10) * 0.1, 10 + np.arange(10) * 0.1, 20 + np.arange(10) * 0.1]
HUGE = float(np.finfo(np.float32).max)


def matrix(far, kind="lonely", dtype: Any = float):
    """Distances within three groups, and `far` ones, by `kind`.

    To a lonely object, from it only, to two, of some pairs; or of all but k pairs, as in a graph
    without ways.
    """
    near = np.abs(GROUPS[:, None] - GROUPS)
    far = np.float64(far)
    if kind in ("lonely", "two"):
        many = 31 if kind == "lonely" else 32
        distances = np.full((many, many), far)
        distances[:30, :30] = near
        if kind == "two":
            distances[31], distances[:, 31] = far / 1000, far / 1000
    elif kind == "row":
        distances = near.copy()
        distances[7] = far
    elif kind == "pairs":
        some = np.triu(np.random.default_rng(0).random((30, 30)) < 0.1, 1)
        distances = np.where(some | some.T, far, near)
    else:
        distances = np.full((30, 30), far)
        for o in range(30):
            distances[o, o % 4] = distances[o % 4, o] = 1 + 0.01 * o
    np.fill_diagonal(distances, 0)
    return distances.astype(dtype)


def exact(distances):
    """Whole numbers of 2**-40: what float32 keeps of them."""
    return [
        [int(math.ldexp(value, 40)) for value in row]
        for row in distances.astype(np.float32).tolist()
    ]


def cost(distances, result):
    return distances[:, result.medoids].min(axis=1).astype(float).sum()


def test_wide_sums_are_exact():
    """Any float32, weighted and taken away again, in numbers whose order does not matter."""
    kernels, rng = native.load("hpckit.cluster.kernels.wide"), np.random.default_rng(0)
    for _ in range(50):
        m = int(rng.integers(1, 40))
        rows = np.ldexp(rng.random((m, 1)), rng.integers(-150, 129, (m, 1))).astype(np.float32)
        rows = np.minimum(rows, np.float32(HUGE))
        order, sums, value = rng.permutation(m), np.zeros((1, 5), np.uint64), np.empty(1)
        places, clusters, candidates = np.arange(m), np.zeros(m + 1, np.int64), np.arange(1, m + 1)
        given = map(native.address, (order, candidates))
        kernels.add_rows(
            native.address(rows), 1, *given, m, 1, *map(native.address, (clusters, sums))
        )
        kernels.values(native.address(sums), 1, native.address(value))
        assert value[0] == float(sum(Fraction(float(x)) for x in rows[places, 0]))


@pytest.mark.parametrize("kind", ["lonely", "two", "row", "pairs", "graph"])
@pytest.mark.parametrize("far", [1e3, 1e6, 1e9, 1e12])
def test_pam_does_the_swaps_of_exact_sums(comm, kind, far):
    for dtype in (np.float32, np.float64):
        distances = matrix(far, kind, dtype)
        whole = exact(distances)
        medoids, swaps = reference.pam(whole, list(range(4)))
        result = pam(distances, 4, init="first", comm=comm)
        assert (result.medoids.tolist(), result.n_swap) == (medoids, len(swaps))
        assert result.loss == pytest.approx(
            math.ldexp(reference.loss(whole, medoids), -40), rel=1e-4
        )
        start = reference.digest(pam(distances, 4, init=reference.build(whole, 4)))
        assert reference.digest(pam(distances, 4, init="build", comm=comm)) == start


@pytest.mark.mpi
@pytest.mark.parametrize("far", [1e6, 1e9, 1e12, HUGE])
@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)
def test_all_searches_find_the_groups(comm, caplog, search, far):
    with caplog.at_level(logging.WARNING):
        for dtype in (np.float32, np.float64):
            distances = matrix(far, dtype=dtype)
            options = {"random_state": 1, "init": [0, 10, 20, 30]}
            alone = search(distances, 4, **options)
            result = search(distances, 4, **options, comm=comm)
            assert reference.digest(alone) == reference.digest(result)
            assert sorted(np.bincount(result.labels).tolist()) == [1, 10, 10, 10]
            assert result.loss == pytest.approx(cost(distances, result), rel=1e-7)
    assert not caplog.records


@pytest.mark.parametrize("init", ["random", "build", "lab", "k-medoids++", "first"])
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_any_start_ends_in_a_local_optimum(comm, search, init):
    for far in (1e9, 1e12):
        distances = matrix(far)
        result = search(distances, 4, init=init, random_state=0, comm=comm)
        assert reference.is_local_optimum(exact(distances), result.medoids.tolist())
        assert sorted(np.bincount(result.labels).tolist()) == [1, 10, 10, 10]


@pytest.mark.parametrize("search", [fasterpam, pam])
@pytest.mark.parametrize("far", [1e6, 1e9, 1e12])
def test_an_outlier_among_points(comm, shared_path, search, far):
    points = np.append(GROUPS, far)[:, None]
    found = {
        reference.digest(
            search(points, 4, metric="euclidean", init="build", memory=memory, comm=comm)
        )
        for memory in ("auto", "matrix", "free", shared_path / f"{search.__name__}.h5")
    }
    result = search(points, 4, metric="euclidean", init="build")
    assert found == {reference.digest(result)}
    assert result.loss == pytest.approx(7.5, rel=1e-4)
    assert sorted(np.bincount(result.labels).tolist()) == [1, 10, 10, 10]


def test_clusters_much_tighter_than_their_distances(comm):
    """Nothing is far, but all are so near to their medoids that ticks would make the loss 0."""
    points = np.add.outer(np.arange(6.0), np.arange(5) * 1e-9).ravel()[:, None]
    result = fasterpam(points, 6, metric="euclidean", init="k-medoids++", random_state=0, comm=comm)
    assert result.loss == pytest.approx(6 * 6e-9, rel=1e-5)
    almost = np.abs(np.subtract.outer(GROUPS, GROUPS))
    almost[0, 1] = almost[1, 0] = (
        1e-9  # one medoid less than objects: what is left is the least distance of all
    )
    assert pam(almost, 29, comm=comm).loss == pytest.approx(1e-9, rel=1e-6)


def test_silhouettes(comm):
    for far in (1e6, 1e9, 1e12):
        distances = matrix(far)
        labels = np.r_[np.repeat([0, 1, 2], 10), 3]
        sums = np.array([distances[:, labels == i].sum(axis=1) for i in range(4)]).T
        sizes = np.bincount(labels)
        a = sums[np.arange(31), labels] / np.maximum(sizes[labels] - 1, 1)
        others = sums / sizes
        others[np.arange(31), labels] = np.inf
        b = others.min(axis=1)
        expected = np.where(sizes[labels] > 1, (b - a) / np.maximum(a, b), 0)
        np.testing.assert_allclose(silhouette(distances, labels, comm=comm), expected, atol=1e-6)
        dn, ds = np.partition(distances[:, [3, 14, 25]], 1, axis=1)[:, :2].T
        np.testing.assert_allclose(
            medoid_silhouette(distances, [3, 14, 25], comm=comm), 1 - dn / ds, atol=1e-6
        )


@pytest.mark.parametrize("search", [fastermsc, dynmsc])
def test_medoid_silhouettes_of_points_with_an_outlier(comm, search):
    for far in (1e6, 1e12):
        result = search(matrix(far), 4, init=[0, 10, 20, 30], comm=comm)
        assert reference.digest(result) == reference.digest(
            search(matrix(far), 4, init=[0, 10, 20, 30])
        )
        assert sorted(np.bincount(result.labels).tolist()) in ([1, 10, 10, 10], [1, 30])
        moved = search(matrix(far), 4, init=[0, 1, 2, 3], comm=comm)
        assert moved.n_swap > 0
        for each in (result, moved):
            silhouettes = medoid_silhouette(matrix(far), each.medoids, comm=comm)
            assert each.loss == pytest.approx(1 - silhouettes.mean(), abs=1e-6)


def test_ordinary_distances_stay_whole_numbers_of_ticks():
    """Points on a line, in planes, with duplicates, and one object farther than the others."""
    rng = np.random.default_rng(0)
    for points in (
        rng.random((500, 1)),
        rng.normal(size=(500, 2)),
        rng.integers(0, 9, (500, 2)),
        rng.random((500, 9)),
    ):
        for far in (0, 3):
            some = np.append(points, np.full((1, points.shape[1]), far), axis=0).astype(float)
            problem = inputs.check(some, 10, init="first", metric="euclidean")
            assert not load_distances(problem, by_candidate=True).wide
            assert load_distances(problem, by_candidate=True).sums(3).dtype == np.float64


def test_zeros_with_a_sign_are_zeros():
    """The nearest medoid is found by the bits of distances, in which -0 comes last."""
    distances = matrix(3).astype(np.float32)
    for search in (fasterpam, pam):
        for given in (distances, np.asfortranarray(distances), distances * 1e9):
            signed = np.where(given == 0, np.float32(-0.0), given)
            signed[0, 1] = given[0, 1] = 5  # not symmetric any more: read in place by rows
            found, expected = (search(each, 4, random_state=0) for each in (signed, given))
            assert reference.digest(found) == reference.digest(expected)


@pytest.mark.mpi
def test_more_than_float32_can_hold_is_an_error(comm):
    """A loss of 0 that is not 0 would be the alternative."""
    for far, near in ((1e140, 1e-140), (1e100, 1e-30)):
        distances = matrix(1.0) * near
        distances[30, :30] = distances[:30, 30] = far
        for search in (fasterpam, pam, alternate):
            with pytest.raises(
                ConfigError, match="would vanish beside it: set them to 0, or replace the largest"
            ):
                search(distances, 4, init="first", comm=comm)
        points = np.append(GROUPS * near, far)[:, None]
        with pytest.raises(ConfigError, match="would vanish"):
            fasterpam(points, 4, metric="euclidean", init="first", comm=comm)
    points = np.append(GROUPS * 1e-30, 1e30)[:, None]
    result = fasterpam(points, 4, metric="euclidean", init="build", comm=comm)
    assert result.loss == pytest.approx(7.5e-30, rel=1e-4)
