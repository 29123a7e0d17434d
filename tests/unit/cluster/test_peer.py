"""The same answers as the package `kmedoids` (Rust) on the same matrix, where it is installed."""

import numpy as np
import pytest

from hpckit.cluster import _swap, fasterpam, pam

kmedoids = pytest.importorskip("kmedoids", reason="the peer package kmedoids is not installed")
N = 400


def matrix(ties):
    """(N, N) float32 that needs no rounding to ticks; in the order in which blocks of one visit the candidates."""
    rng = np.random.default_rng(0)
    points = rng.integers(0, 9, (N, 3)) if ties else rng.integers(0, 2**20, (N, 3))
    return np.abs(points[:, None] - points).sum(axis=-1).astype(np.float32)


def start(k):
    return np.random.default_rng(1).permutation(N)[:k].astype(np.uint64)


@pytest.mark.parametrize("k", [2, 10, 60])
def test_fasterpam(k):
    """The peer visits objects as they are numbered: number them in our order, and go back."""
    distances, order = matrix(ties=False), _swap.visiting_order(N)
    number = np.argsort(order)
    theirs = kmedoids.fasterpam(distances[np.ix_(order, order)], number[start(k)].astype(np.uint64), n_cpu=1)
    ours = fasterpam(distances, k, init=start(k), block=1)
    assert order[np.asarray(theirs.medoids, np.int64)].tolist() == ours.medoids.tolist()
    assert (theirs.n_swap, theirs.loss) == (ours.n_swap, ours.loss)


@pytest.mark.parametrize("k", [2, 10, 60])
def test_pam(k):
    distances = matrix(ties=False)
    theirs = kmedoids.fastpam1(distances, start(k))
    ours = pam(distances, k, init=start(k))
    assert np.asarray(theirs.medoids).tolist() == ours.medoids.tolist()
    assert (theirs.n_swap, theirs.loss) == (ours.n_swap, ours.loss)


@pytest.mark.parametrize("k", [2, 10, 60])
def test_build(k):
    distances = matrix(ties=False)
    theirs = kmedoids.pam_build(distances, k)
    ours = pam(distances, k, init="build", max_iter=1)
    removed = {swap["added"]: swap["removed"] for swap in ours.trace}
    assert np.asarray(theirs.medoids).tolist() == [removed.get(medoid, medoid) for medoid in ours.medoids.tolist()]


def test_losses_with_ties():
    """Among equal swaps the packages may choose differently; both end in local optima of about the same loss."""
    distances = matrix(ties=True)
    theirs = kmedoids.fasterpam(distances, start(20), n_cpu=1)
    assert fasterpam(distances, 20, init=start(20)).loss == pytest.approx(theirs.loss, rel=0.05)
