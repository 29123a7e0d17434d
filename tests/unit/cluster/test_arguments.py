"""Arguments that no search can use: one error that says why, on all ranks."""

import numpy as np
import pytest

from hpckit.cluster import (
    alternate,
    clara,
    clarans,
    dynmsc,
    fastermsc,
    fasterpam,
    medoid_silhouette,
    onebatch,
    pam,
    silhouette,
)
from hpckit.errors import ConfigError

pytestmark = pytest.mark.mpi
POINTS = np.random.default_rng(0).normal(size=(30, 2))
SEARCHES = {  # and the whole numbers above 0 that they take
    fasterpam: ["threads", "max_iter", "block"],
    pam: ["threads", "max_iter"],
    onebatch: ["threads", "max_iter", "block", "batch"],
    clara: ["threads", "max_iter", "block", "samples", "sample_size"],
    clarans: ["threads", "block", "restarts", "max_neighbors"],
    alternate: ["threads", "max_iter"],
    fastermsc: ["threads", "max_iter", "block"],
    dynmsc: ["threads", "max_iter", "block", "k_min"],
}
MAY_BE_NONE = {"max_iter", "batch", "sample_size", "max_neighbors"}


@pytest.fixture(params=SEARCHES, ids=lambda search: search.__name__)
def search(request):
    return request.param


def fails(search, comm, message, /, k=3, **arguments):
    """The same error on all ranks, and without any."""
    for ranks in (comm, None):
        with pytest.raises(ConfigError, match=message):
            search(POINTS, k, **{"metric": "euclidean"} | arguments, comm=ranks)


def test_k_is_a_whole_number_up_to_that_of_the_objects(search, comm):
    name = "k_max" if search is dynmsc else "k"
    for value in (None, "3", 3.0, np.float64(3), True, np.True_, [3]):
        fails(search, comm, f"^{name}=.* must be a whole number", value)
    for value in (0, -1, 31, np.uint8(0), 2**70):
        fails(search, comm, f"{name} must be 1 to 30", value)


def test_counts_are_whole_numbers_above_zero(search, comm):
    for name in SEARCHES[search]:
        wrong = [
            -5,
            1.5,
            True,
            *([] if name == "max_iter" else [0]),
            *([] if name in MAY_BE_NONE else [None]),
        ]
        for value in wrong:
            fails(
                search, comm, f"{name}=.* must be (at least [01]|a whole number)", **{name: value}
            )


def test_without_iterations_the_first_medoids_are_the_result(search, comm):
    if search is clarans:  # which has no max_iter
        return
    for init in ("random", "build", "heuristic", [7, 3, 11]):
        found = search(
            POINTS, 3, metric="euclidean", init=init, max_iter=0, random_state=0, comm=comm
        )
        assert (found.n_swap, found.n_iter, found.converged) == (0, 0, False)
        if not isinstance(init, str) and search is not dynmsc:
            assert found.medoids.tolist() == init


def test_whole_numbers_of_any_type_will_do(search, comm):
    def medoids(kind, init):
        counts = dict.fromkeys(SEARCHES[search], kind(3))
        result = search(
            POINTS,
            kind(3),
            metric="euclidean",
            init=init,
            random_state=kind(0),
            comm=comm,
            **counts,
        )
        return result.medoids.tolist()

    assert medoids(np.uint16, np.arange(3, dtype="u1")) == medoids(int, [0, 1, 2])


def test_other_arguments(search, comm):
    for argument, values, message in [
        (
            "metric",
            [None, "Euclidean", 3, "wminkowski"],
            "metric=.* must be one of precomputed, euclidean, .*jaccard",
        ),
        ("metric_params", [3, "p", [("p", 2)]], "metric_params=.* must be a dict"),
        (
            "metric_params",
            [{"q": 3}, {"w": [1, 2, 3]}],
            "metric='euclidean' with metric_params=.*2 coordinates: ",
        ),
        (
            "init",
            [None, 5, [[0, 1, 2]], [True, False, True], [[0], [1, 2]], [0, 1]],
            "init must be .*3 whole numbers",
        ),
        ("init", [[0, 1, 30], [0, 1, -1], np.array([0, 1, 2**63], "u8")], "objects are 0 to 29"),
        ("init", ["BUILD"], "init='BUILD' must be one of"),
        ("random_state", [-1, 1.5, "x"], "random_state=.* is neither a seed nor a generator"),
        (
            "sample_weight",
            [1, np.ones((30, 1)), np.ones(29)],
            r"sample_weight has shape .*, it must be \(30,\)",
        ),
        (
            "sample_weight",
            [-np.ones(30), np.full(30, np.inf), np.zeros(30)],
            "sample_weight must be finite, not neg",
        ),
        ("sample_weight", [["a"] * 30, [1, [2]]], "sample_weight must be .* numbers"),
        (
            "sample_weight",
            [np.ma.ones(30), [np.ma.ones(1)] * 30],
            "sample_weight must not be a masked array",
        ),
        ("init", [np.ma.arange(3)], "init must not be a masked array"),
    ]:
        for value in values:
            fails(search, comm, message, **{"init": "random", argument: value})


def test_arguments_that_a_search_does_not_take_are_refused(search, comm):
    every = {name for names in SEARCHES.values() for name in names}
    for name in ("blok", "counts", "limits", *sorted(every - set(SEARCHES[search]))):
        fails(search, comm, f"there is no argument {name} here", **{name: 8})


def test_one_medoid_and_all_objects(search, comm):
    if search in (fastermsc, dynmsc):
        fails(search, comm, "=1 must be at least 2", 1)
        return
    full = np.linalg.norm(POINTS[:, None] - POINTS, axis=-1).sum(axis=0)
    one = search(POINTS, 1, metric="euclidean", comm=comm, random_state=0)
    assert one.loss > full.min() * (1 - 1e-6)
    every = search(POINTS, 30, metric="euclidean", comm=comm)
    assert (every.loss, sorted(every.medoids.tolist())) == (0, list(range(30)))


def test_random_states_of_all_kinds(comm):
    """The same bits from the same state, whatever the other ranks pass."""

    def medoids(state):
        return onebatch(
            POINTS, 4, metric="euclidean", init="random", random_state=state, comm=comm
        ).medoids.tolist()

    for kind in (
        np.random.RandomState,
        np.random.default_rng,
        np.random.SeedSequence,
        np.random.PCG64,
    ):
        found = medoids(kind(5 if comm.rank == 0 else 6 + comm.rank))
        assert comm.allgather(found) == [medoids(kind(5))] * comm.size
    assert medoids(np.random.SeedSequence(5)) == medoids(5)


@pytest.mark.mpi(min_size=2)
def test_ranks_that_disagree_fail_together(search, comm):
    last = comm.rank == comm.size - 1
    for mine in (
        {"k": 4},
        {"init": "first"},
        {"metric": "manhattan"},
        {"metric": "fancy"},
        {"metric_params": {"w": [1, 2]}},
        {"blok": 8},
        {SEARCHES[search][-1]: 7},
    ):
        arguments = {"metric": "euclidean"} | (mine if last else {})
        with pytest.raises(
            ConfigError, match=r"must be the same on all ranks|1 of \d ranks failed"
        ):
            search(POINTS, arguments.pop("k", 3), **arguments, comm=comm)


@pytest.mark.mpi(min_size=2)
def test_ranks_that_call_different_searches_fail_together(search, comm):
    last = comm.rank == comm.size - 1
    for other in SEARCHES.keys() - {search}:
        with pytest.raises(
            ConfigError, match=f"the search must be the same on all ranks.*{search.__name__}"
        ):
            (other if last else search)(POINTS, 3, metric="euclidean", init=[0, 1, 2], comm=comm)
    with pytest.raises(ConfigError, match="the search must be the same on all ranks"):
        medoid_silhouette(POINTS, [0, 1], comm=comm) if last else silhouette(
            POINTS, [0, 1] * 15, comm=comm
        )
