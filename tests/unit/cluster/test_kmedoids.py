"""The searches against plain Python, swap by swap, and what holds at their end."""

import logging

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit.cluster import fasterpam, initial, inputs, pam
from hpckit.cluster.distances import load_distances
from hpckit.cluster.progress import Progress
from hpckit.cluster.state import DistanceState
from hpckit.cluster.swaps import best, eager, visiting_order


def swaps(result):
    return [tuple(swap) for swap in result.trace.tolist()]


@settings(max_examples=150)
@given(reference.problems())
def test_pam_does_the_swaps_of_pam(problem):
    distances, init, weights = problem
    for given_weights in (None, weights):
        result = pam(distances, len(init), init=init, sample_weight=given_weights)
        plain = None if given_weights is None else weights.tolist()
        medoids, trace = reference.pam(distances.tolist(), init.tolist(), plain)
        assert (result.medoids.tolist(), swaps(result)) == (medoids, trace)
        assert result.loss == reference.loss(distances.tolist(), medoids, plain)
        assert (result.n_swap, result.n_iter) == (len(trace), len(trace) + 1)


@settings(max_examples=100)
@given(reference.problems())
def test_blocks_of_one_are_fasterpam_and_one_block_is_pam(problem):
    distances, init, _ = problem
    n, k = len(distances), len(init)
    result = fasterpam(distances, k, init=init, block=1)
    order = visiting_order(n).tolist()
    assert (result.medoids.tolist(), swaps(result)) == reference.fasterpam(
        distances.tolist(), init.tolist(), order
    )
    exact = pam(distances, k, init=init)
    assert reference.digest(fasterpam(distances, k, init=init, block=n)) == reference.digest(exact)


@settings(max_examples=100)
@given(reference.problems(), st.sampled_from([1, 2, 3, 7, 64]))
def test_fasterpam_ends_in_a_local_optimum(problem, block):
    distances, init, _ = problem
    result = fasterpam(distances, len(init), init=init, block=block)
    medoids = result.medoids.tolist()
    assert reference.is_local_optimum(distances.tolist(), medoids)
    assert result.loss == reference.loss(distances.tolist(), medoids)
    assert result.labels.tolist() == [row.index(min(row)) for row in distances[:, medoids].tolist()]


@settings(max_examples=100)
@given(reference.problems())
def test_build_adds_the_best_object(problem):
    distances, init, _ = problem
    k = len(init)
    expected, trace = reference.pam(distances.tolist(), reference.build(distances.tolist(), k))
    result = pam(distances, k, init="build")
    assert (result.medoids.tolist(), swaps(result)) == (expected, trace)
    assert fasterpam(distances, k, init="build", block=len(distances)).medoids.tolist() == expected


@settings(max_examples=50)
@given(reference.problems(), st.booleans())
def test_the_state_after_many_swaps_is_that_of_its_medoids(problem, by_candidate):
    distances, init, weights = problem
    sound = inputs.check(distances, len(init), init=init, sample_weight=weights)
    loaded = load_distances(sound, by_candidate=by_candidate)
    rest = sound.weights, sound.weight_exponent
    state = DistanceState(loaded, *rest, initial.medoids(sound, loaded), sound.ranks)
    eager(state, Progress(state, 3, 9)) if by_candidate else best(
        state, Progress(state, sound.n, 9)
    )
    fresh = DistanceState(loaded, *rest, state.medoids.copy(), sound.ranks)
    for name in ("taken", "near", "seco", "dn", "ds", "removal", "loss"):
        np.testing.assert_array_equal(getattr(state, name), getattr(fresh, name), name)


def rounding_matters(search):
    """Whether `search(distances, order)` depends on the order in which objects are added up."""
    rng = np.random.default_rng(1)
    # Many sums are equal but for rounding.
    points = np.array([(x, y) for x in range(5) for y in range(5)]) * 0.1
    distances = np.abs(points[:, None] - points).sum(axis=-1)
    return len({str(search(distances, rng.permutation(25))) for _ in range(20)}) > 1


def test_ticks_are_why_the_order_of_a_sum_does_not_matter():
    """Rows in another order: the same numbers, added as other ranks or vectors would."""
    start = [0, 1, 2, 3]

    def swapped(trace):
        return [(added, removed) for added, removed, _ in trace]

    assert rounding_matters(lambda d, order: swapped(reference.pam(d[order].tolist(), start)[1]))
    assert not rounding_matters(lambda d, order: swaps(pam(d[order], 4, init=start)))
    assert not rounding_matters(lambda d, order: swaps(fasterpam(d[order], 4, init=start)))


@pytest.mark.parametrize("search", [fasterpam, pam])
def test_every_k_works(search):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(30, 2))
    losses = [search(points, k, metric="euclidean", init="build").loss for k in range(1, 31)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0
    one = search(points, 1, metric="euclidean", init=[7])
    full = np.linalg.norm(points[:, None] - points, axis=-1).sum(axis=0)
    assert one.medoids[0] == full.argmin()
    assert one.loss == pytest.approx(full.min(), rel=1e-6)
    assert search([[0.0]], np.int32(1)).medoids.tolist() == [0]


@pytest.mark.parametrize("search", [fasterpam, pam])
def test_fewer_distinct_points_than_medoids(search, caplog):
    points = np.repeat([[0.0], [3.0]], 5, axis=0)
    with caplog.at_level(logging.WARNING):
        result = search(points, 4, metric="manhattan", init="build")
    assert result.loss == 0
    assert len(set(result.medoids.tolist())) == 4
    assert "fewer distinct objects than k=4" in caplog.text
    assert search(np.zeros((6, 6)), 3, init="build").medoids.tolist() == [0, 1, 2]


def test_max_iter_stops_the_search():
    points = np.random.default_rng(3).normal(size=(200, 2))
    free = pam(points, 10, metric="euclidean", init="first")
    short = pam(points, 10, metric="euclidean", init="first", max_iter=3)
    assert (short.n_swap, short.n_iter) == (3, 3) and free.n_swap > 3
    assert short.trace.tolist() == free.trace.tolist()[:3]
    assert fasterpam(points, 10, metric="euclidean", init="first", max_iter=1).n_iter == 1


def test_random_starts_follow_the_seed():
    points = np.random.default_rng(4).normal(size=(100, 2))
    first, again, other = (
        fasterpam(points, 8, metric="euclidean", random_state=s) for s in (5, 5, 6)
    )
    assert reference.digest(first) == reference.digest(again) != reference.digest(other)
    generator = np.random.default_rng(5)
    assert reference.digest(
        fasterpam(points, 8, metric="euclidean", random_state=generator)
    ) == reference.digest(first)


def test_weights_count_copies():
    points = np.random.default_rng(5).normal(size=(40, 2))
    weights = np.random.default_rng(6).integers(1, 4, 40)
    copies = np.repeat(np.arange(40), weights)
    few = pam(points, 5, metric="euclidean", init=[0, 1, 2, 3, 4], sample_weight=weights)
    distances = np.linalg.norm(points[copies][:, None] - points[copies], axis=-1)
    start = [int(np.flatnonzero(copies == medoid)[0]) for medoid in range(5)]
    many = pam(distances, 5, init=start)
    assert copies[many.medoids].tolist() == few.medoids.tolist()
    assert many.loss == pytest.approx(few.loss, rel=1e-6)
