"""Voronoi iteration against plain Python, and on any number of ranks."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit.cluster import alternate, fasterpam


def plain(distances, medoids, weights):
    """Rounds of whole numbers: (medoids, loss after each round); the last changes nothing."""
    losses = []
    while True:
        nearest = [
            min(range(len(medoids)), key=lambda i: (row[medoids[i]], i)) for row in distances
        ]
        new = [
            best_member(distances, medoids, weights, nearest, slot) for slot in range(len(medoids))
        ]
        losses.append(reference.loss(distances, new, weights))
        if new == medoids:
            return medoids, losses
        medoids = new


def best_member(distances, medoids, weights, nearest, slot):
    """The best of the cluster, the medoid among equals, then the lowest."""
    members = [o for o, i in enumerate(nearest) if i == slot]
    options = [medoids[slot], *(o for o in members if o not in medoids)]
    return min(options, key=lambda j: sum(weights[o] * distances[o][j] for o in members))


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.sampled_from([1, 3, 1000, 2**24]),
    st.booleans(),
)
def test_rounds_are_those_of_the_definition(seed, n, top, symmetric):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, top, (n, n), endpoint=True)
    if symmetric:
        distances = np.tril(distances, -1) + np.tril(distances, -1).T
    init, weights = rng.permutation(n)[: rng.integers(1, n, endpoint=True)], rng.integers(1, 6, n)
    result = alternate(distances, len(init), init=init, sample_weight=weights)
    medoids, losses = plain(distances.tolist(), init.tolist(), weights.tolist())
    assert (result.medoids.tolist(), result.loss, result.n_iter) == (
        medoids,
        losses[-1],
        len(losses),
    )
    assert sorted(set(result.trace["loss"].tolist()), reverse=True) == losses[:-1]
    assert len(set(medoids)) == len(init)
    replay = init.tolist()
    for added, removed, _ in result.trace.tolist():
        replay[replay.index(removed)] = added
    assert replay == medoids


def test_swaps_find_better_medoids():
    points = np.random.default_rng(0).normal(size=(600, 3))
    pairs = [
        [
            search(points, 15, metric="euclidean", random_state=seed).loss
            for search in (alternate, fasterpam)
        ]
        for seed in range(5)
    ]
    assert all(swaps < rounds < 1.2 * swaps for rounds, swaps in pairs)
    short = alternate(points, 15, metric="euclidean", random_state=0, max_iter=1)
    assert short.n_iter == 1 and pairs[0][0] < short.loss


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 2), (5, 5), (400, 1), (400, 17)])
def test_the_same_on_any_number_of_ranks(comm, n, k):
    points = np.random.default_rng(1).integers(0, 9, (n, 3))
    options = {
        "metric": "manhattan",
        "init": "first",
        "sample_weight": np.random.default_rng(2).random(n),
    }
    result = alternate(points, k, **options, comm=comm)
    assert set(comm.allgather(reference.digest(result))) == {
        reference.digest(alternate(points, k, **options))
    }
