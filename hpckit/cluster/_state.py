"""What all ranks know of all objects: their nearest and second medoids; and the swaps that led there."""

from __future__ import annotations

import math

import numpy as np

from hpckit import native
from hpckit.cluster._dist import LANES, Distances
from hpckit.cluster._ranks import Bid, Ranks

SWAP = np.dtype([("added", np.int64), ("removed", np.int64), ("loss", np.float64)])


class State:
    """The same on all ranks, for n objects and k medoids, which are candidates; kernels read and write it.

    medoids : (k,) int64, the medoid in each slot; taken : (candidates,) int64, 1 for medoids
    near, seco : (n,) int32, slot of the nearest and of the second medoid, the lowest among equals; seco = -1 if k = 1
    dn, ds : float32, their distances in ticks; ds has zeros up to a multiple of `LANES`, so that masks end in no hits
    weights : (n,) float64, whole numbers in units of 2**weight_exponent
    removal : (k,) float64, what losing each medoid costs
    loss : in ticks times units of weight, a whole number
    changed, near_was, dn_was, ds_was : what the last swap changed, and what was there before
    swaps : (added, removed, loss) of each swap so far
    """

    def __init__(
        self, distances: Distances, weights: np.ndarray, weight_exponent: int, medoids: np.ndarray, ranks: Ranks
    ) -> None:
        n, k = distances.n, len(medoids)
        self.distances, self.ranks, self.n, self.k, self.weights = distances, ranks, n, k, weights
        self._unit = distances.exponent + weight_exponent
        self.medoids, self.taken = medoids, np.zeros(distances.candidates, np.int64)
        self.taken[medoids] = 1
        self.near, self.near_was = np.empty(n, np.int32), np.empty(n, np.int32)
        self.dn, self.dn_was, self.ds_was = (np.zeros(n, np.float32) for _ in range(3))
        self.seco, self.ds = np.empty(n, np.int32), np.zeros(-(-n // LANES) * LANES, np.float32)
        self.changed, self.removal = np.arange(n), np.empty(k)
        self.swaps: list[tuple[int, int, float]] = []
        self._column, self._table = np.empty(n, np.float32), np.empty((n, k), np.float32)
        self._kernels = native.load("hpckit.cluster.kernels.state")
        for slot, medoid in enumerate(medoids.tolist()):
            distances.fetch(medoid, self._column, ranks)
            self._table[:, slot] = self._column
        near = self.near, self.seco, self.dn, self.ds
        self._table_at, self._column_at, *self._near_at = map(native.address, (self._table, self._column, *near))
        self._changes_at = [*map(native.address, (self.changed, self.near_was, self.dn_was, self.ds_was))]
        weighed = self.near, self.dn, self.ds, self.weights, self.removal
        self._weigh = native.bind(self._kernels.removal_loss, n, k, *map(native.address, weighed), keep=weighed)
        self._kernels.assign(self._table_at, n, k, *self._near_at)
        self.loss = self._kernels.total(n, native.address(self.dn), native.address(self.weights))
        self._weigh()

    def swap(self, bid: Bid) -> int:
        """Do the swap; how many objects changed (collective)."""
        removed, self.medoids[bid.slot] = int(self.medoids[bid.slot]), bid.candidate
        self.taken[removed], self.taken[bid.candidate] = 0, 1
        self.distances.fetch(bid.candidate, self._column, self.ranks)
        count = self._kernels.swap(
            self._table_at, self.n, self.k, bid.slot, self._column_at, *self._near_at, *self._changes_at
        )
        self._weigh()
        self.loss += bid.change
        self.swaps.append((bid.candidate, removed, self.true_loss))
        return count

    @property
    def true_loss(self) -> float:
        """The loss in units of the data."""
        return math.ldexp(self.loss, self._unit)

    @property
    def trace(self) -> np.ndarray:
        """(n_swap,) of `SWAP`: which object became a medoid, for which, and the loss then."""
        return np.array(self.swaps, SWAP)
