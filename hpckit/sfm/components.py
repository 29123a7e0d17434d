"""What hangs together: images that see the same points, or that pairs join, over all ranks."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI


def by_points(
    comm: MPI.Intracomm, start: np.ndarray, image: np.ndarray, n: int
) -> list[np.ndarray]:
    """Those of `n` images that see the same points, also over others (collective).

    start, image : observations of this rank's points, as in `Observations`

    Ascending places, (k,) int64 each, the largest component first, the same on all ranks. An image
    that sees nothing is a component of its own. ::

        by_points(comm, np.array([0, 2, 4]), np.array([0, 1, 2, 3]), 4)  # [0, 1] and [2, 3]
    """
    joins = np.ones(max(len(image) - 1, 0), bool)  # an observation with the next one
    inner = start[1:-1]
    joins[inner[(inner > 0) & (inner < len(image))] - 1] = False
    keys = image[:-1][joins] * np.int64(n) + image[1:][joins]
    return by_pairs(comm, np.stack(np.divmod(_once(keys, n), max(n, 1)), axis=1), n)


def by_pairs(comm: MPI.Intracomm, pairs: np.ndarray, n: int) -> list[np.ndarray]:
    """The same of images that pairs of any rank join: (m, 2) integers (collective). ::

    by_pairs(comm, np.array([[0, 1], [1, 3]]), 4)  # [0, 1, 3] and [2]
    """
    mine = _labels(pairs[:, 0], pairs[:, 1], n)
    everyone = np.empty((comm.size, n), np.int64)
    comm.Allgather(mine, everyone)
    label = _labels(np.tile(np.arange(n), comm.size), everyone.ravel(), n)
    order = np.argsort(label, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(label[order])) + 1) if n else []
    return sorted(parts, key=lambda places: (-len(places), places[0]))


def _once(keys: np.ndarray, n: int) -> np.ndarray:
    """Different keys below n * n."""
    if n * n > 8 * len(keys):
        return np.unique(keys)
    there = np.zeros(n * n, bool)
    there[keys] = True
    return np.flatnonzero(there)


def _labels(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """The smallest place that each place hangs together with by pairs (a, b): (n,) int64.

    Labels of both ends are lowered to the smaller one, and labels of labels taken, until nothing
    changes: a chain of any length is done in about log2 of it rounds.
    """
    label = np.arange(n)
    while True:
        before = label.copy()
        low = np.minimum(label[a], label[b])
        for ends in (a, b, label[a], label[b]):
            np.minimum.at(label, ends, low)
        label = label[label]
        if (label == before).all():
            return label
