"""Arguments that no search can use: one error that says why, on all ranks."""

import numpy as np
import pytest

from hpckit.cluster import alternate, clarans, fasterpam, pam
from hpckit.errors import ConfigError

pytestmark = pytest.mark.mpi
POINTS = np.random.default_rng(0).normal(size=(30, 2))
SEARCHES = {  # and the whole numbers above 0 that they take
    fasterpam: ["threads", "max_iter", "block"],
    pam: ["threads", "max_iter"],
    clarans: ["threads", "block", "restarts", "max_neighbors"],
    alternate: ["threads", "max_iter"],
}


def fails(comm, search, message, /, k=3, **arguments):
    """The same error on all ranks, and on one."""
    arguments = {"metric": "euclidean", "threads": 1} | arguments
    for ranks in (comm, None):
        with pytest.raises(ConfigError, match=message):
            search(POINTS, k, **arguments, comm=ranks)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", [None, "3", 3.0, np.float64(3), True, np.True_, [3], 3j])
def test_k_is_a_whole_number(comm, search, value):
    fails(comm, search, "k=.* must be a whole number", value)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", [0, -1, 31, np.int64(31), np.uint8(0), 2**70])
def test_k_is_no_more_than_the_objects(comm, search, value):
    fails(comm, search, "k must be 1 to 30", value)


@pytest.mark.parametrize("search", SEARCHES)
def test_integers_of_any_type_will_do(comm, search):
    medoids = search(POINTS, 3, metric="euclidean", init=[0, 1, 2], comm=comm).medoids.tolist()
    for kind in (np.int8, np.uint16, np.int64, np.array):  # an array of no dimensions is an index too
        counts = dict.fromkeys(SEARCHES[search], kind(64)) | {"threads": kind(1)}
        start = np.array([0, 1, 2], "u1")
        assert search(POINTS, kind(3), metric="euclidean", init=start, comm=comm, **counts).medoids.tolist() == medoids


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", [0, -5, 1.5, "2", True, [1]])
def test_counts_are_whole_numbers_above_zero(comm, search, value):
    for name in SEARCHES[search]:
        fails(comm, search, f"{name}=.* must be (at least 1|a whole number)", **{name: value})


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": None}, "metric=None must be"),
        ({"metric": "Euclidean"}, "metric='Euclidean' must be"),
        ({"init": None}, "init must be .*3 whole numbers"),
        ({"init": 5}, r"init must be .*3 whole numbers, got shape \(\)"),
        ({"init": [[0, 1, 2]]}, r"got shape \(1, 3\)"),
        ({"init": [True, False, True]}, "of bool"),
        ({"init": [[0], [1, 2]]}, "init must be .*3 whole numbers"),
        ({"init": [0, 1, 2**63]}, "init"),
        ({"init": "BUILD"}, "init='BUILD' must be one of"),
        ({"random_state": -1, "init": "random"}, "random_state=-1 is neither a seed nor a generator"),
        ({"random_state": 1.5, "init": "random"}, r"random_state=1\.5 is neither a seed nor a generator"),
        ({"sample_weight": 1}, r"sample_weight has shape \(\), it must be \(30,\)"),
        ({"sample_weight": np.ones((30, 1))}, r"sample_weight has shape \(30, 1\)"),
        ({"sample_weight": -np.ones(30)}, "sample_weight must be finite, not negative"),
        ({"sample_weight": np.full(30, np.inf)}, "sample_weight must be finite"),
        ({"sample_weight": ["a"] * 30}, "sample_weight must be .* numbers"),
    ],
)
def test_other_arguments(comm, search, arguments, message):
    fails(comm, search, message, **arguments)


@pytest.mark.parametrize("search", SEARCHES)
def test_misspelt_arguments_are_found(search):
    with pytest.raises(TypeError, match="blok"):
        search(POINTS, 3, metric="euclidean", blok=8)


@pytest.mark.parametrize("search", SEARCHES)
def test_one_medoid_and_all_objects(comm, search):
    full = np.linalg.norm(POINTS[:, None] - POINTS, axis=-1)
    one = search(POINTS, 1, metric="euclidean", comm=comm)
    assert one.medoids.tolist() == [full.sum(axis=0).argmin()]
    every = search(POINTS, 30, metric="euclidean", comm=comm)
    assert (every.loss, sorted(every.medoids.tolist())) == (0, list(range(30)))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("search", SEARCHES)
def test_ranks_that_disagree_fail_together(comm, search):
    last = comm.rank == comm.size - 1
    for mine in ({"k": 4}, {"init": "first"}, {"metric": "manhattan"}, {"metric": "fancy"}, {SEARCHES[search][-1]: 7}):
        arguments = {"k": 3, "metric": "euclidean"} | (mine if last else {})
        with pytest.raises(ConfigError, match=r"must be the same on all ranks|1 of \d ranks failed"):
            search(POINTS, **arguments, comm=comm)
