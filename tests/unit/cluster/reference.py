"""k-medoids as in textbooks: plain Python, whole numbers, losses summed anew; and problems."""

from __future__ import annotations

import hashlib
import operator
from functools import reduce

import numpy as np
from hypothesis import strategies as st


@st.composite
def problems(draw, fewest=1, most=24):
    """Whole distances with many ties, symmetric or not, medoids to start from, and weights.

    fewest : medoids, most : objects
    """
    n = draw(st.integers(fewest, most))
    k = draw(st.integers(fewest, n))
    top = draw(st.sampled_from([1, 2, 5, 1000, 2**24]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distances = rng.integers(0, top, (n, n), endpoint=True)
    if draw(st.booleans()):
        distances = np.tril(distances, -1) + np.tril(distances, -1).T
    return distances, rng.permutation(n)[:k], rng.integers(1, 6, n)


def loss(distances, medoids, weights=None):
    """Weighted distances to the nearest medoids, summed: exact if distances are whole numbers."""
    weights = weights or [1] * len(distances)
    terms = (w * min(row[m] for m in medoids) for w, row in zip(weights, distances, strict=True))
    return reduce(operator.add, terms)  # sum() would compensate the rounding of floats


def build(distances, k):
    """PAM's BUILD; ties go to the lowest object."""
    medoids = []
    for _ in range(k):
        others = [j for j in range(len(distances)) if j not in medoids]
        medoids.append(min(others, key=lambda j: (loss(distances, [*medoids, j]), j)))
    return medoids


def pam(distances, medoids, weights=None):
    """PAM's SWAP: (medoids, trace); ties go to the lowest candidate, then to the lowest slot."""
    medoids, trace = list(medoids), []
    while True:
        now = loss(distances, medoids, weights)
        others = [j for j in range(len(distances)) if j not in medoids]
        options = [(*_best_slot(distances, medoids, j, weights), j) for j in others]
        none = (now, 0, 0)
        after, slot, j = min(options, key=lambda it: (it[0], it[2]), default=none)
        if after >= now:
            return medoids, trace
        trace.append((j, medoids[slot], after))
        medoids[slot] = j


def fasterpam(distances, medoids, order):
    """FasterPAM: (medoids, trace); candidates are visited in `order` until n in a row fail."""
    medoids, trace, failed, p = list(medoids), [], 0, 0
    while failed < len(order):
        j = order[p % len(order)]
        p += 1
        failed += 1
        if j in medoids:
            continue
        after, slot = _best_slot(distances, medoids, j)
        if after < loss(distances, medoids):
            trace.append((j, medoids[slot], after))
            medoids[slot] = j
            failed = 0
    return medoids, trace


def is_local_optimum(distances, medoids):
    """Whether no swap of a medoid with another object lowers the loss."""
    others = [j for j in range(len(distances)) if j not in medoids]
    return all(_best_slot(distances, medoids, j)[0] >= loss(distances, medoids) for j in others)


def digest(result):
    """One hash of all that a search returns."""
    parts = (
        result.medoids.tobytes(),
        result.labels.tobytes(),
        result.loss.hex().encode(),
        result.trace.tobytes(),
    )
    counts = f"{result.n_iter} {result.n_swap}".encode()
    return hashlib.sha256(b"".join([*parts, counts])).hexdigest()


def _best_slot(distances, medoids, j, weights=None):
    """Loss and slot of the best medoid to give up for j."""
    return min(
        (loss(distances, [*medoids[:i], j, *medoids[i + 1 :]], weights), i)
        for i in range(len(medoids))
    )
