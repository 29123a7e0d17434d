"""Searches by samples: how good they are, what they say, and the same on any ranks."""

import numpy as np
import pytest
import reference

from hpckit.cluster import clara, clarans, fasterpam, onebatch
from hpckit.comm import partition
from hpckit.errors import ConfigError

POINTS = np.random.default_rng(0).normal(size=(1000, 3))
LATTICE = np.random.default_rng(1).integers(0, 9, (60, 2))
STEPS = np.abs(LATTICE[:, None] - LATTICE).sum(axis=-1)
WEIGHTS = np.random.default_rng(2).random(1000) * (np.arange(1000) % 3 > 0)
SEARCHES = [clara, clarans, onebatch]


def searched(search, k=20, **options):
    return search(POINTS, k, metric="euclidean", **options)


@pytest.mark.parametrize("search", SEARCHES)
def test_labels_and_loss_are_those_of_all_objects(search):
    weights = np.random.default_rng(3).integers(0, 4, 60)
    for seed in range(5):
        result = search(STEPS, 7, random_state=seed, sample_weight=weights)
        medoids = result.medoids.tolist()
        assert len(set(medoids)) == 7
        assert result.labels.tolist() == [row.index(min(row)) for row in STEPS[:, medoids].tolist()]
        assert result.loss == reference.loss(STEPS.tolist(), medoids, weights.tolist())
        assert len(result.trace) == result.n_swap
        assert set(result.trace["added"].tolist()) - set(result.trace["removed"].tolist()) <= set(
            medoids
        )


@pytest.mark.parametrize("search", SEARCHES)
def test_points_and_their_distances_give_the_same(search):
    distances = np.abs(POINTS[:200, None] - POINTS[:200]).max(axis=-1)
    points = search(
        POINTS[:200], 9, metric="chebyshev", random_state=1, sample_weight=WEIGHTS[:200]
    )
    matrix = search(distances, 9, random_state=1, sample_weight=WEIGHTS[:200])
    assert points.medoids.tolist() == matrix.medoids.tolist()
    assert points.labels.tolist() == matrix.labels.tolist()
    assert points.loss == pytest.approx(matrix.loss, rel=1e-6)


@pytest.mark.parametrize(
    ("search", "options"),
    [
        (clara, {"samples": 1, "sample_size": 60}),
        (clarans, {"restarts": 1, "max_neighbors": 60, "block": 4}),
        (onebatch, {"batch": 60}),
    ],
)
def test_a_sample_of_all_ends_in_a_local_optimum(search, options):
    for seed in range(5):
        result = search(STEPS, 5, random_state=seed, **options)
        assert reference.is_local_optimum(STEPS.tolist(), result.medoids.tolist())


def test_a_batch_of_all_is_fasterpam():
    everything = searched(onebatch, init="first", batch=1000)
    full = searched(fasterpam, init="first")
    assert reference.digest(everything) == reference.digest(full)


def test_more_samples_and_larger_ones_are_better():
    full = searched(fasterpam, random_state=3).loss
    for search, counts in ((clara, "samples"), (clarans, "restarts")):
        losses = [searched(search, random_state=3, **{counts: many}).loss for many in range(1, 5)]
        assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
        assert full < losses[-1] < 1.15 * full
    for search, size in ((clara, "sample_size"), (onebatch, "batch")):
        small, large = (
            np.mean([searched(search, random_state=seed, **{size: many}).loss for seed in range(3)])
            for many in (50, 400)
        )
        assert full < large < 1.05 * full < small


def test_clara_starts_again_from_the_best_medoids():
    """All samples hold them: none ends worse than where it started, on its own objects."""
    start = searched(fasterpam, random_state=1).medoids
    result = searched(clara, init=start, samples=3)
    assert result.loss < 1.1 * searched(fasterpam, random_state=1).loss


def test_a_batch_that_counts_for_its_neighbours_is_better_than_one_that_does_not():
    """fasterpam with weights for the batch alone lets each of it count for itself only."""
    with_shares, without = [], []
    for seed in range(5):
        batch = np.zeros(1000)
        batch[np.random.default_rng(seed).permutation(1000)[:100]] = 1
        medoids = searched(fasterpam, random_state=seed, sample_weight=batch).medoids
        without.append(np.linalg.norm(POINTS[:, None] - POINTS[medoids], axis=-1).min(axis=1).sum())
        with_shares.append(searched(onebatch, random_state=seed, batch=100).loss)
    assert np.mean(with_shares) < 0.99 * np.mean(without)


def test_clarans_judges_few_candidates_at_the_end():
    options = {"init": "build", "restarts": 1, "block": 1, "random_state": 1}
    short, long = (searched(clarans, **options, max_neighbors=patience) for patience in (5, 1000))
    assert short.n_iter == 1 < long.n_iter
    assert long.loss < short.loss


def test_distances_are_the_same_where_they_are_not_kept():
    for search in SEARCHES:
        kept, free = (
            searched(search, random_state=3, memory=memory) for memory in ("matrix", "free")
        )
        assert reference.digest(kept) == reference.digest(free)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [1, 3, 200])
@pytest.mark.parametrize("search", SEARCHES)
def test_the_same_on_any_number_of_ranks(comm, search, n):
    for k in {1, (n + 3) // 4}:
        options = {"metric": "manhattan", "sample_weight": WEIGHTS[1 : n + 1]}
        result = search(POINTS[:n], k, **options, random_state=comm.rank, comm=comm)
        alone = search(POINTS[:n], k, **options, random_state=0)
        assert set(comm.allgather(reference.digest(result))) == {reference.digest(alone)}


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("search", "init"),
    [
        *((onebatch, init) for init in ("first", "build", "lab", "k-medoids++", [4, 1, 50, 7])),
        *((clara, init) for init in ("build", [4, 1, 50, 7])),
        (clarans, "lab"),
    ],
)
def test_any_start_from_slices_of_a_matrix(comm, search, init):
    mine = slice(*partition.block(60, comm.size, comm.size - 1 - comm.rank))
    starts = comm.allgather(len(range(60)[mine]))
    first = sum(starts[: comm.rank])
    rows = STEPS[first : first + starts[comm.rank]]
    result = search(rows, 4, init=init, random_state=1, distributed=True, comm=comm)
    assert reference.digest(result) == reference.digest(search(STEPS, 4, init=init, random_state=1))


@pytest.mark.mpi
@pytest.mark.parametrize("search", SEARCHES)
def test_a_matrix_in_a_file(comm, shared_path, search):
    h5py = pytest.importorskip("h5py")
    path = shared_path / "steps.h5"
    if comm.rank == 0:
        with h5py.File(path, "w") as file:
            file["steps"] = STEPS
    comm.Barrier()
    with h5py.File(path, "r") as file:
        result = search(file["steps"], 4, random_state=1, comm=comm)
    assert reference.digest(result) == reference.digest(search(STEPS, 4, random_state=1))


@pytest.mark.mpi
def test_bad_arguments_are_one_error_on_all_ranks(comm):
    names = {
        clara: ["samples", "sample_size"],
        clarans: ["restarts", "max_neighbors", "block"],
        onebatch: ["batch"],
    }
    for search in SEARCHES:
        for name in names[search]:
            for value in (0, 1.5):
                with pytest.raises(ConfigError, match=f"{name}={value}"):
                    searched(search, comm=comm, **{name: value})
    for search, name in ((clara, "sample_size"), (onebatch, "batch")):
        with pytest.raises(ConfigError, match=f"{name}=19 is less than k=20"):
            searched(search, comm=comm, **{name: 19})
