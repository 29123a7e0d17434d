"""Searches by samples: how good they are, that they are what they say, and the same on any number of ranks."""

import numpy as np
import pytest
import reference

from hpckit.cluster import clarans, fasterpam
from hpckit.errors import ConfigError

POINTS = np.random.default_rng(0).normal(size=(1000, 3))


def test_clarans_with_all_the_patience_there_is_ends_in_a_local_optimum():
    points = np.random.default_rng(1).integers(0, 9, (60, 2))
    distances = np.abs(points[:, None] - points).sum(axis=-1)
    for seed in range(5):
        result = clarans(distances, 5, restarts=1, max_neighbors=60, block=4, random_state=seed)
        assert reference.is_local_optimum(distances.tolist(), result.medoids.tolist())
        assert result.loss == reference.loss(distances.tolist(), result.medoids.tolist())


def test_clarans_takes_the_best_start_and_is_a_little_worse_than_fasterpam():
    losses = [
        clarans(POINTS, 20, metric="euclidean", restarts=restarts, random_state=5).loss for restarts in range(1, 5)
    ]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    full = fasterpam(POINTS, 20, metric="euclidean", random_state=5)
    assert full.loss < losses[0] < 1.05 * full.loss


def test_clarans_judges_few_candidates_at_the_end():
    options = {"metric": "euclidean", "init": "build", "restarts": 1, "block": 1, "random_state": 1}
    short, long = (clarans(POINTS, 20, **options, max_neighbors=patience) for patience in (5, 1000))
    assert short.n_iter == 1 < long.n_iter
    assert long.loss < short.loss


@pytest.mark.mpi
@pytest.mark.parametrize("n", [1, 2, 5, 300])
@pytest.mark.parametrize("search", [clarans])
def test_the_same_on_any_number_of_ranks(comm, search, n):
    weights = np.random.default_rng(3).random(n)
    for k in {1, (n + 3) // 4, min(n, 40)}:
        options = {"metric": "manhattan", "sample_weight": weights}
        result = search(POINTS[:n], k, **options, random_state=comm.rank, comm=comm)
        alone = search(POINTS[:n], k, **options, random_state=0)
        assert set(comm.allgather(reference.digest(result))) == {reference.digest(alone)}


@pytest.mark.mpi
def test_bad_arguments_are_one_error_on_all_ranks(comm):
    for search, argument in ((clarans, "restarts"), (clarans, "max_neighbors")):
        for value in (0, -1, 1.5, True):
            with pytest.raises(ConfigError, match=f"{argument}={value}"):
                search(POINTS, 3, metric="euclidean", comm=comm, **{argument: value})
