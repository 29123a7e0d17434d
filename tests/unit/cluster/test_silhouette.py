"""Silhouettes and searches that raise them, against plain Python, scikit-learn, `kmedoids`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit.cluster import dynmsc, fastermsc, medoid_silhouette, silhouette
from hpckit.cluster.swaps import visiting_order
from hpckit.comm import partition
from hpckit.errors import ConfigError

POINTS = np.random.default_rng(0).normal(size=(300, 5))
LATTICE = np.random.default_rng(1).integers(0, 4, (150, 3)).astype(float)  # ties and duplicates
BLOBS = np.arange(7).repeat(40)[:, None] * [30.0, 0] + np.random.default_rng(2).normal(
    size=(280, 2)
)


def ratio(a, b):
    """a by b, in units of 2**-24, halves to even; 0 by 0 is 0."""
    whole, rest = divmod(2**24 * a, b or 1)
    return whole + (2 * rest > b or (2 * rest == b != 0 and whole % 2))


def loss(distances, medoids, weights):
    """Sum of w dn / ds, in units of 2**-24."""
    pairs = (sorted(row[m] for m in medoids)[:2] for row in distances)
    return sum(w * ratio(*pair) for w, pair in zip(weights, pairs, strict=True))


def best_slot(distances, medoids, j, weights):
    return min(
        (loss(distances, [*medoids[:i], j, *medoids[i + 1 :]], weights), i)
        for i in range(len(medoids))
    )


def climb(distances, medoids, order, weights):
    """FasterMSC: (medoids, swaps); candidates are visited in `order` until n in a row fail."""
    medoids, swaps, failed = list(medoids), [], 0
    for j in itertools.cycle(order):
        if failed == len(order):
            return medoids, swaps
        failed += 1
        if j in medoids:
            continue
        after, slot = best_slot(distances, medoids, j, weights)
        if after < loss(distances, medoids, weights):
            swaps.append((j, medoids[slot], after))
            medoids[slot] = j
            failed = 0
    raise AssertionError


def steepest(distances, medoids, weights):
    """PAMMEDSIL: the best swap each time; of equals the lowest candidate, then the lowest slot."""
    medoids, swaps = list(medoids), []
    while True:
        options = [
            (*best_slot(distances, medoids, j, weights), j)
            for j in range(len(distances))
            if j not in medoids
        ]
        now = loss(distances, medoids, weights)
        none = (now, 0, 0)
        after, slot, j = min(options, key=lambda it: (it[0], it[2]), default=none)
        if after >= now:
            return medoids, swaps
        swaps.append((j, medoids[slot], after))
        medoids[slot] = j


def swaps(result, weights):
    """The trace with losses as sums, in units of 2**-24."""
    return [
        (added, removed, round(after * sum(weights) * 2**24))
        for added, removed, after in result.trace.tolist()
    ]


@settings(max_examples=50)
@given(reference.problems(fewest=2, most=12), st.booleans())
def test_blocks_of_one_are_fastermsc_and_one_block_is_pammedsil(problem, weighted):
    distances, init, weights = problem
    n, k, plain = len(distances), len(init), weights.tolist() if weighted else [1] * len(distances)
    for block, expected in (
        (1, climb(distances.tolist(), init.tolist(), visiting_order(n).tolist(), plain)),
        (n, steepest(distances.tolist(), init.tolist(), plain)),
    ):
        result = fastermsc(
            distances, k, init=init, block=block, sample_weight=weights if weighted else None
        )
        assert (result.medoids.tolist(), swaps(result, plain)) == expected
        assert result.loss == math.ldexp(
            loss(distances.tolist(), result.medoids.tolist(), plain), -24
        ) / sum(plain)
        assert result.labels.tolist() == [
            row.index(min(row)) for row in distances[:, result.medoids].tolist()
        ]


@pytest.mark.parametrize("k", [3, 25])
def test_fastermsc_ends_in_a_local_optimum(k):
    """Few medoids concern most objects, many medoids few of them: the kernel has a way for each."""
    points = np.random.default_rng(8).integers(0, 1000, (100, 2))
    distances = np.abs(points[:, None] - points).sum(axis=-1)
    result, rows, ones = fastermsc(distances, k, init="first"), distances.tolist(), [1] * 100
    medoids, others = result.medoids.tolist(), set(range(100)) - set(result.medoids.tolist())
    least = loss(rows, medoids, ones)
    assert swaps(result, ones)[-1][2] == round(result.loss * 100 * 2**24) == least
    assert min(best_slot(rows, medoids, j, ones)[0] for j in others) >= least


@settings(max_examples=30)
@given(reference.problems(fewest=2, most=12), st.booleans())
def test_dynmsc_drops_the_medoid_that_costs_least(problem, weighted):
    distances, init, weights = problem
    plain = weights.tolist() if weighted else [1] * len(distances)
    order = visiting_order(len(distances)).tolist()
    medoids, found = init.tolist(), []
    while len(medoids) >= 2:
        medoids, _ = climb(distances.tolist(), medoids, order, plain)
        found.append((loss(distances.tolist(), medoids, plain), len(medoids), medoids))
        fewer = [[*medoids[:i], *medoids[i + 1 :]] for i in range(len(medoids))]
        medoids = (
            min(fewer, key=lambda some: loss(distances.tolist(), some, plain))
            if len(medoids) > 2
            else []
        )
    result = dynmsc(
        distances, len(init), init=init, block=1, sample_weight=weights if weighted else None
    )
    lost = round(result.loss * sum(plain) * 2**24)
    assert (lost, len(result.medoids), result.medoids.tolist()) == min(found)
    assert result.scores["k"].tolist() == list(range(2, len(init) + 1))
    silhouettes = [1 - math.ldexp(lost, -24) / sum(plain) for lost, _, _ in reversed(found)]
    assert result.scores["silhouette"].tolist() == silhouettes
    assert result.labels.tolist() == [
        row.index(min(row)) for row in distances[:, result.medoids].tolist()
    ]


def test_dynmsc_finds_the_number_of_clusters():
    result = dynmsc(BLOBS, 20, metric="euclidean", random_state=0)
    assert len(result.medoids) == 7
    assert sorted(np.bincount(result.labels)) == [40] * 7
    assert len(set(result.labels[::40])) == 7
    assert dynmsc(BLOBS, 20, k_min=9, metric="euclidean", random_state=0).scores[
        "k"
    ].tolist() == list(range(9, 21))


def plain_silhouette(distances, labels):
    """Rousseeuw 1987, with lists."""
    result = []
    for o, row in enumerate(distances):
        means = {}
        for c in set(labels):
            others = [row[p] for p in range(len(row)) if labels[p] == c and p != o]
            means[c] = sum(others) / len(others) if others else None
        a = means.pop(labels[o])
        b = min(means.values())
        result.append(0.0 if a is None or a == b else (b - a) / max(a, b))
    return result


@settings(max_examples=60)
@given(reference.problems(fewest=2, most=12))
def test_silhouette_is_that_of_the_textbook(problem):
    distances, _, weights = problem
    labels = weights.tolist()
    if len(set(labels)) > 1:
        assert silhouette(distances, labels).tolist() == plain_silhouette(
            distances.tolist(), labels
        )


@settings(max_examples=60)
@given(reference.problems(fewest=2, most=12))
def test_medoid_silhouette_by_the_nearest_two(problem):
    distances, medoids, _ = problem
    nearest = [sorted(row[m] for m in medoids.tolist())[:2] for row in distances.tolist()]
    assert medoid_silhouette(distances, medoids).tolist() == [
        1 - (a / b if b else 0) for a, b in nearest
    ]


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine"])
def test_silhouette_of_scikit_learn(metric):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    labels = np.random.default_rng(4).integers(0, 6, len(POINTS)) - 1
    theirs = metrics.silhouette_samples(POINTS, labels, metric=metric)
    np.testing.assert_allclose(silhouette(POINTS, labels, metric=metric), theirs, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 20])
def test_the_package_kmedoids(k):
    """Without ties: it does not round ratios, and visits objects as they are numbered."""
    peer = pytest.importorskip("kmedoids", reason="the peer package kmedoids is not installed")
    points = np.random.default_rng(5).integers(0, 2**20, (300, 3))
    distances = np.abs(points[:, None] - points).sum(axis=-1).astype(np.float32)
    order, start = visiting_order(300), np.random.default_rng(6).permutation(300)[:k]
    number = np.argsort(order)
    numbered, first = distances[np.ix_(order, order)], number[start].astype(np.uint64)
    theirs, ours = peer.fastermsc(numbered, first), fastermsc(distances, k, init=start, block=1)
    assert order[np.asarray(theirs.medoids, np.int64)].tolist() == ours.medoids.tolist()
    assert (theirs.n_swap, theirs.loss) == (ours.n_swap, pytest.approx(1 - ours.loss, abs=1e-6))
    samples = peer.silhouette(distances, ours.labels.astype(np.uint64), True)[1]
    np.testing.assert_allclose(samples, silhouette(distances, ours.labels), atol=1e-6)
    samples = peer.medoid_silhouette(distances, ours.medoids.astype(np.uint64), True)[1]
    np.testing.assert_allclose(samples, medoid_silhouette(distances, ours.medoids), atol=1e-6)


def test_dynmsc_of_the_package_kmedoids():
    """It does not always drop the medoid that costs least; both find clusters that are there."""
    peer = pytest.importorskip("kmedoids", reason="the peer package kmedoids is not installed")
    distances = np.linalg.norm(BLOBS[:, None] - BLOBS, axis=-1)
    theirs = peer.dynmsc(distances, np.arange(0, 280, 20, dtype=np.uint64))
    ours = dynmsc(distances, 14)
    assert (theirs.bestk, theirs.loss) == (
        len(ours.medoids),
        pytest.approx(1 - ours.loss, abs=1e-6),
    )


def same_on_all(comm, search, *arguments, **options):
    """The result on all ranks of `comm`, once it equals that of one rank, and on each rank."""
    result = search(*arguments, **options, comm=comm)
    alone = search(*arguments, **options)
    assert set(comm.allgather(reference.digest(result))) == {reference.digest(alone)}
    return result


@pytest.mark.mpi
@pytest.mark.parametrize("k", [2, 3, 12])
def test_searches_on_any_number_of_ranks(comm, k):
    assert same_on_all(comm, fastermsc, POINTS, k, metric="euclidean", random_state=1).n_swap
    same_on_all(
        comm,
        fastermsc,
        LATTICE,
        k,
        metric="manhattan",
        init="first",
        sample_weight=np.arange(150),
        threads=2,
    )
    same_on_all(
        comm, fastermsc, POINTS, k, metric="euclidean", init="build", memory="free", threads=2
    )
    found = same_on_all(comm, dynmsc, POINTS, k, metric="euclidean", random_state=1)
    alone = dynmsc(POINTS, k, metric="euclidean", random_state=1)
    assert found.scores.tobytes() == alone.scores.tobytes()


@pytest.mark.mpi
@pytest.mark.parametrize("metric", ["euclidean", "precomputed"])
def test_silhouettes_on_any_number_of_ranks(comm, metric):
    for n in (2, 3, 300):
        data = POINTS[:n] if metric == "euclidean" else np.random.default_rng(7).random((n, n))
        mine = slice(*partition.starts(n, comm.size)[comm.rank : comm.rank + 2])
        for call, which in (
            (silhouette, np.arange(n) % 7),
            (medoid_silhouette, np.arange(0, n, n // 2)),
        ):
            alone = call(data, which, metric=metric).tobytes()
            assert call(data, which, metric=metric, comm=comm).tobytes() == alone
            slices = call(data[mine], which, metric=metric, comm=comm, threads=2, distributed=True)
            assert slices.tobytes() == alone


def test_edges():
    everything = fastermsc(POINTS[:6], 6, metric="euclidean")
    assert (everything.loss, everything.n_swap) == (0, 0)
    same = fastermsc(np.zeros((5, 5)), 3)
    assert (same.loss, same.labels.tolist()) == (0, [0] * 5)
    assert medoid_silhouette(np.zeros((5, 5)), [0, 1]).tolist() == [1] * 5
    assert silhouette(POINTS[:4], [5, 6, 7, 8], metric="euclidean").tolist() == [0] * 4


@pytest.mark.mpi
def test_bad_input_is_one_error_on_all_ranks(comm):
    for call, message in (
        (lambda: fastermsc(POINTS, 1, metric="euclidean", comm=comm), "k=1 must be at least 2"),
        (lambda: dynmsc(POINTS, 1, metric="euclidean", comm=comm), "k_max=1 must be at least 2"),
        (
            lambda: dynmsc(POINTS, 5, k_min=1, metric="euclidean", comm=comm),
            "k_min=1 must be at least 2",
        ),
        (
            lambda: dynmsc(POINTS, 5, k_min=6, metric="euclidean", comm=comm),
            "k_min=6 is above k_max=5",
        ),
        (
            lambda: silhouette(POINTS, np.zeros(300, int), metric="euclidean", comm=comm),
            "1 cluster",
        ),
        (
            lambda: silhouette(POINTS, [0, 1], metric="euclidean", comm=comm),
            r"labels have shape \(2,\)",
        ),
        (lambda: silhouette(POINTS, np.zeros(300), metric="euclidean", comm=comm), "whole numbers"),
        (
            lambda: medoid_silhouette(POINTS, [3], metric="euclidean", comm=comm),
            "k=1 must be at least 2",
        ),
        (lambda: medoid_silhouette(POINTS, [3, 300], metric="euclidean", comm=comm), "300"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.mark.mpi(min_size=2)
def test_ranks_that_disagree_fail_together(comm):
    with pytest.raises(ConfigError, match="labels"):
        silhouette(POINTS, np.arange(300) % (2 + comm.rank), metric="euclidean", comm=comm)
    with pytest.raises(ConfigError, match="same on all ranks"):
        dynmsc(POINTS, 9, k_min=2 + comm.rank, metric="euclidean", comm=comm)
