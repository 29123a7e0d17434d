"""First medoids: what each kind promises, on any number of ranks."""

import numpy as np
import pytest
import reference

from hpckit.cluster import fasterpam, pam

INITS = ["random", "first", "build", "lab", "heuristic", "k-medoids++"]
CENTRES = np.array([[x, y] for x in range(4) for y in range(4)]) * 100.0
CLUSTERS = np.repeat(CENTRES, 25, axis=0) + np.random.default_rng(0).normal(size=(400, 2))


def start(data, k, **options):
    """Medoids before the first swap."""
    result = fasterpam(data, k, max_iter=1, block=len(data), **options)
    medoids = result.medoids.tolist()
    for swap in result.trace.tolist()[::-1]:
        medoids[medoids.index(swap[0])] = swap[1]
    return medoids


@pytest.mark.parametrize("init", INITS)
def test_medoids_differ_even_where_objects_do_not(init):
    for k in (1, 2, 9, 40):
        for distances in (
            np.zeros((40, 40)),
            np.ones((40, 40)),
            np.arange(1600).reshape(40, 40) % 7,
        ):
            medoids = start(distances, k, init=init, random_state=k)
            assert len(set(medoids)) == k and set(medoids) <= set(range(40))


@pytest.mark.parametrize("init", ["lab", "k-medoids++", "build"])
def test_one_medoid_in_each_of_16_clusters_or_nearly(init):
    """Random medoids meet about 10 of 16 equal clusters."""
    distances = np.linalg.norm(CLUSTERS[:, None] - CLUSTERS, axis=-1)
    met = [
        len({m // 25 for m in start(distances, 16, init=init, random_state=seed)})
        for seed in range(20)
    ]
    random = [
        len({m // 25 for m in start(distances, 16, init="random", random_state=seed)})
        for seed in range(20)
    ]
    assert np.mean(met) > 15 > 12 > np.mean(random)


@pytest.mark.mpi
@pytest.mark.parametrize("by_object", [False, True])
def test_heuristic_takes_the_most_central_objects(comm, by_object):
    rng = np.random.default_rng(3)
    # Not symmetric, and with ties.
    distances = rng.integers(0, 9, (70, 70))
    weights = rng.integers(1, 4, 70)
    expected = np.argsort(weights @ distances, kind="stable")[:8]
    search = pam if by_object else fasterpam
    for layout in (distances, distances.astype("f4")):
        found = search(layout, 8, init="heuristic", sample_weight=weights, max_iter=0, comm=comm)
        assert found.medoids.tolist() == expected.tolist()
    # One object is no candidate: all others are compared.
    far = np.where(np.arange(70) == 69, 1e12, 10.0 * distances)
    found = search(far, 8, init="heuristic", sample_weight=weights, max_iter=0, comm=comm)
    assert found.medoids.tolist() == np.argsort(weights @ far, kind="stable")[:8].tolist()


@pytest.mark.parametrize("init", ["lab", "k-medoids++"])
def test_objects_of_weight_zero_attract_nobody(init):
    distances = np.abs(np.arange(60)[:, None] - np.arange(60)).astype(float)
    distances[50:] = distances[:, 50:] = 1e4
    weights = np.repeat([1.0, 0.0], [50, 10])
    for seed in range(5):
        assert max(start(distances, 10, init=init, sample_weight=weights, random_state=seed)) < 50


def test_plus_plus_draws_in_proportion_to_distance():
    """After object 0 comes 1, 2 or 3 with chances 1 : 2 : 5, and any is first with 1/4."""
    distances = np.array([[0, 1, 2, 5], [1, 0, 1, 4], [2, 1, 0, 3], [5, 4, 3, 0]])
    pairs = [start(distances, 2, init="k-medoids++", random_state=seed) for seed in range(2000)]
    expected = np.array([1, 2, 5]) / 8 / 4
    shares = [np.mean([pair == [0, j] for pair in pairs]) for j in (1, 2, 3)]
    np.testing.assert_allclose(shares, expected, atol=0.025)


@pytest.mark.parametrize("n", [1, 3, 12, 300])
@pytest.mark.parametrize("init", ["lab", "k-medoids++"])
def test_the_same_on_any_number_of_ranks(comm, init, n):
    points = CLUSTERS[:: len(CLUSTERS) // n][:n].round()
    for search in (fasterpam, pam):
        for k in {1, (n + 1) // 2, n}:
            options = {"metric": "manhattan", "init": init}
            result = search(
                points, k, **options, random_state=7 if comm.rank == 0 else comm.rank, comm=comm
            )
            alone = search(points, k, **options, random_state=7)
            assert set(comm.allgather(reference.digest(result))) == {reference.digest(alone)}
