"""The same bits on any number of ranks, and errors that all ranks raise together."""

import numpy as np
import pytest
import reference

from hpckit.cluster import fasterpam, pam
from hpckit.cluster.metrics import WITH_KERNEL as METRICS
from hpckit.errors import ConfigError, HpckitError

pytestmark = pytest.mark.mpi
# Three tiles, cut by block borders that are none of theirs.
POINTS = np.random.default_rng(0).normal(size=(600, 7))
LATTICE = np.random.default_rng(1).integers(0, 6, (300, 3)).astype(float)  # ties and duplicates


def same_on_all(comm, search, *arguments, **options):
    """The result on all ranks of `comm`, once it equals that of one rank, and on each rank."""
    result = search(*arguments, **options, comm=comm)
    alone = search(*arguments, **options)
    assert set(comm.allgather(reference.digest(result))) == {reference.digest(alone)}
    return result


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_points(comm, search, metric):
    points = POINTS.round() if metric == "hamming" else POINTS
    result = same_on_all(comm, search, points, 9, metric=metric, init="first")
    assert result.n_swap > 3


@pytest.mark.parametrize("init", ["random", "first", "build"])
@pytest.mark.parametrize("search", [fasterpam, pam])
def test_ties_and_duplicates(comm, search, init):
    same_on_all(comm, search, LATTICE, 20, metric="manhattan", init=init, random_state=3)


@pytest.mark.parametrize("block", [1, 2, 64, 1000])
def test_blocks(comm, block):
    same_on_all(comm, fasterpam, POINTS, 15, metric="euclidean", init="first", block=block)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", ">f8", "f2", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices(comm, dtype, order):
    # Not symmetric.
    distances = np.random.default_rng(2).integers(0, 255, (150, 150)).astype(dtype, order=order)
    weights = np.random.default_rng(3).random(150)
    distances.flags.writeable = False
    for search in (fasterpam, pam):
        same_on_all(comm, search, distances, 12, init="build", sample_weight=weights)
    same_on_all(comm, pam, distances[::2, ::2], 5)
    assert reference.digest(pam(distances, 12)) == reference.digest(
        pam(distances.astype(float), 12)
    )


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_more_ranks_than_points(comm, n):
    for k in range(1, n + 1):
        for search in (fasterpam, pam):
            result = same_on_all(comm, search, POINTS[:n], k, metric="euclidean", init="build")
            assert len(set(result.medoids.tolist())) == k


def test_a_random_start_without_a_seed_is_one_start(comm):
    medoids = fasterpam(POINTS, 9, metric="euclidean", max_iter=1, comm=comm).medoids.tolist()
    assert comm.allgather(medoids) == [medoids] * comm.size


@pytest.mark.parametrize(
    ("data", "k", "options", "message"),
    [
        (np.zeros((3, 4)), 2, {}, r"shape \(3, 4\), it must be square"),
        (np.zeros((0, 0)), 1, {}, "square and not empty"),
        (np.zeros(4), 1, {}, "must be square"),
        (np.zeros((4, 4), complex), 1, {}, "real numbers, not of complex128"),
        ([[1, 2], [3]], 1, {}, "array of numbers"),
        (np.full((4, 4), np.nan), 1, {}, "one is nan"),
        (np.diag([0.0, np.inf, 0, 0]), 1, {}, "one is inf"),
        (np.diag([0.0, 0, -2, 0]), 1, {}, r"one is -2\.0"),
        (np.full((4, 4), 1e300), 1, {}, "use other units"),
        (np.zeros((4, 4)), 0, {}, "k=0 medoids of 4 objects: k must be 1 to 4"),
        (np.zeros((4, 4)), 5, {}, "k=5 medoids of 4 objects"),
        (np.zeros((4, 4)), -1, {}, "k=-1"),
        (np.zeros((4, 4)), True, {}, "k=True must be a whole number"),
        (np.zeros((4, 4)), 2.0, {}, r"k=2\.0 must be a whole number"),
        (np.zeros((4, 4)), 2, {"init": [0, 0]}, "object 0 twice"),
        (np.zeros((4, 4)), 2, {"init": [0, 4]}, "init has 4, objects are 0 to 3"),
        (np.zeros((4, 4)), 2, {"init": [0, -1]}, "init has -1"),
        (np.zeros((4, 4)), 2, {"init": [0, 1, 2]}, r"got shape \(3,\)"),
        (np.zeros((4, 4)), 2, {"init": [0.0, 1.0]}, "of float64"),
        (np.zeros((4, 4)), 2, {"init": "lucky"}, "must be one of random, first, build"),
        (
            np.zeros((4, 4)),
            2,
            {"init": "random", "random_state": "x"},
            "neither a seed nor a generator",
        ),
        (
            np.zeros((4, 4)),
            2,
            {"metric": "fancy"},
            "metric='fancy' must be one of precomputed, euclidean",
        ),
        (np.zeros((4, 4)), 2, {"max_iter": -1}, "max_iter=-1 must be at least 0"),
        (np.zeros((4, 4)), 2, {"sample_weight": [1, 2, 3]}, r"shape \(3,\), it must be \(4,\)"),
        (np.zeros((4, 4)), 2, {"sample_weight": [1, 2, 3, np.nan]}, "finite, not negative"),
        (np.zeros((4, 4)), 2, {"sample_weight": [0, 0, 0, 0]}, "not all zero"),
        (np.zeros(4), 2, {"metric": "euclidean"}, r"must be \(n, d\)"),
        (np.full((4, 2), np.inf), 2, {"metric": "euclidean"}, "coordinate 0 of point 0 is inf"),
        (np.zeros((4, 2)), 2, {"metric": "cosine"}, "point 0 is zero and has no direction"),
    ],
)
def test_bad_input_is_one_error_on_all_ranks(comm, data, k, options, message):
    for search in (fasterpam, pam):
        with pytest.raises(ConfigError, match=message):
            search(data, k, **options, comm=comm)
        with pytest.raises(ConfigError, match=message):
            search(data, k, **options)
    with pytest.raises(ConfigError, match="block=0"):
        fasterpam(np.zeros((4, 4)), 2, block=0, comm=comm)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ({"k": 3}, "must be the same on all ranks"),
        ({"data": LATTICE[:50]}, "must be the same on all ranks"),
        ({"data": LATTICE.astype("f4")}, "must be the same on all ranks"),
        ({"data": LATTICE + 1}, "points and weights"),
        ({"sample_weight": np.arange(300)}, "points and weights"),
        ({"init": "first"}, "must be the same on all ranks"),
        ({"k": 0}, "1 of . ranks failed: rank 1: k=0"),
    ],
)
def test_ranks_that_disagree_fail_together(comm, mine, message):
    arguments = {"data": LATTICE, "k": 2, "metric": "euclidean"} | (mine if comm.rank == 1 else {})
    with pytest.raises(ConfigError, match=message):
        fasterpam(**arguments, comm=comm)


@pytest.mark.mpi(min_size=2)
def test_bad_distances_in_one_ranks_part(comm):
    distances = np.ones((20, 20))
    distances[3, 19] = np.nan  # the last rank's candidate
    with pytest.raises(
        HpckitError, match=f"1 of {comm.size} ranks failed: rank {comm.size - 1}: .* one is nan"
    ):
        pam(distances, 2, comm=comm)
