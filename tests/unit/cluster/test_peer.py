"""The same answers as the package `kmedoids` (Rust) on the same matrix, where it is installed."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import reference

from hpckit.cluster import fasterpam, pam, swaps

kmedoids = pytest.importorskip("kmedoids", reason="the peer package kmedoids is not installed")
DATA = Path(os.environ.get("HPCKIT_DATA", Path(__file__).parents[4] / "shared/data")) / "kmedoids"


def distances(points):
    """(n, n) float32, euclidean, rounded to ticks, so that the peer's sums are exact as well."""
    exact = np.stack([np.linalg.norm(points - point, axis=1) for point in points])
    e = math.ceil(math.log2(exact.max())) - 24
    return np.ldexp(np.rint(np.ldexp(exact, -e)), e).astype(np.float32)


@pytest.fixture(scope="module", params=["random", "leaves"])
def matrix(request):
    if request.param == "random":
        return distances(np.random.default_rng(0).normal(size=(400, 3)))
    if not (DATA / "tex.txt").exists():
        pytest.skip(f"no {DATA / 'tex.txt'}: set HPCKIT_DATA")
    leaves = np.loadtxt(DATA / "tex.txt", delimiter=",", usecols=range(1, 65))
    return distances(np.unique(leaves, axis=0)[::2])


@pytest.fixture(params=[2, 10, 100])
def start(request, matrix):
    return np.random.default_rng(1).permutation(len(matrix))[: request.param].astype(np.uint64)


def numbers(result, number=None):
    """Medoids, labels, loss, passes and swaps; `number` renumbers the objects of a matrix."""
    medoids, labels = np.asarray(result.medoids, np.int64), np.asarray(result.labels)
    if number is not None:
        medoids, labels = np.argsort(number)[medoids], labels[number]
    return medoids.tolist(), labels.tolist(), result.loss, result.n_iter, result.n_swap


def test_fasterpam(matrix, start):
    """The peer visits objects as numbered: number them as blocks of one visit them."""
    order = swaps.visiting_order(len(matrix))
    number = np.argsort(order)
    theirs = kmedoids.fasterpam(
        matrix[np.ix_(order, order)], number[start.astype(int)].astype(np.uint64), n_cpu=1
    )
    assert numbers(fasterpam(matrix, len(start), init=start, block=1)) == numbers(theirs, number)


def test_pam(matrix, start):
    theirs = kmedoids.fastpam1(matrix, start, max_iter=len(matrix))
    assert numbers(pam(matrix, len(start), init=start)) == numbers(theirs)


def test_build(matrix, start):
    k = len(start)
    theirs = np.asarray(kmedoids.pam_build(matrix, k).medoids, np.int64)
    assert reference.digest(pam(matrix, k, init="build")) == reference.digest(
        pam(matrix, k, init=theirs)
    )


def test_losses_with_ties():
    """Among equal swaps choices may differ; both end in local optima of about the same loss."""
    points = np.random.default_rng(0).integers(0, 9, (400, 3))
    ties = np.abs(points[:, None] - points).sum(axis=-1).astype(np.float32)
    start = np.arange(20, dtype=np.uint64)
    theirs = kmedoids.fasterpam(ties, start, n_cpu=1)
    assert fasterpam(ties, 20, init=start).loss == pytest.approx(theirs.loss, rel=0.05)
