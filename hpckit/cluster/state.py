"""What all ranks know of all objects: nearest and second medoids; and the swaps so far."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from hpckit import native
from hpckit.cluster.distances import Distances
from hpckit.cluster.ranks import Proposal, Ranks
from hpckit.cluster.tables import SERVICE_LENGTH, SWAP


class State(ABC):
    """k medoids and how they serve n objects: the same on all ranks, for kernels to write.

    medoids : (k,) int64, the medoid in each slot; taken : (candidates,) int64, 1 for medoids
    near, seco : (n,) int32, slot of the nearest and of the second medoid, the lowest among equals;
        seco = -1 if k = 1
    dn, ds : (n,) float32, their distances in ticks
    weights : (n,) float64, whole numbers
    removal : k sums, what losing each medoid costs
    loss : what swaps lower, a whole number
    swaps : (added, removed, loss) of each swap so far
    """

    loss: float

    def __init__(
        self,
        distances: Distances,
        weights: np.ndarray,
        medoids: np.ndarray,
        ranks: Ranks,
        own: slice | None = None,
    ) -> None:
        """own : the objects of which this rank keeps the distances to all medoids; None: all."""
        n, k = distances.n, len(medoids)
        self.distances = distances
        self.ranks = ranks
        self.n = n
        self.k = k
        self.weights = weights
        self.medoids = medoids
        self.taken = np.zeros(distances.candidates, np.int64)
        self.taken[medoids] = 1
        self.near = np.zeros(n, np.int32)
        self.seco = np.empty(n, np.int32)
        self.dn, self.ds = np.zeros((2, n), np.float32)
        self.removal = self.sums(k)
        self.swaps: list[tuple[int, int, float]] = []
        own = own or slice(n)
        self._column = np.empty(n, np.float32)
        self._table = np.empty((len(self._column[own]), k), np.float32)
        for slot, medoid in enumerate(medoids.tolist()):
            distances.fetch(medoid, self._column, ranks)
            self._table[:, slot] = self._column[own]

    def sums(self, *shape: int) -> np.ndarray:
        """Room for exact sums of what the loss adds up, all 0."""
        return np.zeros(shape)

    def swap(self, proposal: Proposal) -> int:
        """Do the swap; how many objects changed (collective)."""
        removed, self.medoids[proposal.slot] = int(self.medoids[proposal.slot]), proposal.candidate
        self.taken[removed], self.taken[proposal.candidate] = 0, 1
        self.distances.fetch(proposal.candidate, self._column, self.ranks)
        self.loss += proposal.change
        count = self._replace(proposal.slot)
        self.swaps.append((proposal.candidate, removed, self.true_loss))
        return count

    @abstractmethod
    def _replace(self, slot: int) -> int:
        """Serve the objects after `_column` has come into this slot; how many changed."""

    @abstractmethod
    def evaluation(self) -> tuple[Callable[..., int], list[Any]]:
        """The kernel that judges candidates, and what it is to know of the objects."""

    @property
    @abstractmethod
    def true_loss(self) -> float:
        """The loss in units of the user."""

    @property
    def trace(self) -> np.ndarray:
        """(n_swap,) of `SWAP`: which object became a medoid, for which, and the loss then."""
        return np.array(self.swaps, SWAP)


class DistanceState(State):
    """Medoids whose loss is the distances to the nearest, in ticks times units of weight.

    weights : in units of 2**weight_exponent
    limit : (n,) float32, the distance, in units of the rows of candidates, from which on one is no
        less than ds
    changed, near_was, dn_was, ds_was : what the last swap changed, and what was there before
    """

    def __init__(
        self,
        distances: Distances,
        weights: np.ndarray,
        weight_exponent: int,
        medoids: np.ndarray,
        ranks: Ranks,
    ) -> None:
        first, stop = ranks.block(distances.n)
        super().__init__(distances, weights, medoids, ranks, slice(first, stop))
        n = self.n
        self._unit = distances.exponent + weight_exponent
        self.changed = np.arange(n)
        self.near_was = np.empty(n, np.int32)
        self.dn_was, self.ds_was, self.limit = np.zeros((3, n), np.float32)
        self._kernels = native.load("hpckit.cluster.kernels.state")
        self._apply = distances.kernels("state").change
        self._sum = distances.sums()
        self._changes = np.empty((stop - first, SERVICE_LENGTH), np.int32)
        self._all_changes = np.empty((n, SERVICE_LENGTH), np.int32)
        self._own = native.address(self._table), first, stop, self.k, native.address(self._changes)
        self._served = [*map(native.address, (self.near, self.seco, self.dn, self.ds))]
        self._column_at, self._all_changes_at = map(
            native.address, (self._column, self._all_changes)
        )
        kept = self.weights, self.removal, self.changed, self.near_was, self.dn_was, self.ds_was
        self._kept = [native.address(self.limit), 1 / distances.scale, *map(native.address, kept)]
        if distances.wide:
            self._kept.append(native.address(self._sum))
        self._kernels.assign(*self._own, distances.far)
        self._change(stop - first)
        if not distances.wide:
            self.loss = float(weights @ self.dn)

    def sums(self, *shape: int) -> np.ndarray:
        return self.distances.sums(*shape)

    def _replace(self, slot: int) -> int:
        return self._change(self._kernels.swap(*self._own, slot, self._column_at, *self._served))

    def _change(self, count: int) -> int:
        """Do the changes that the ranks found, each in its part of the objects; how many."""
        count = self.ranks.collect(self._changes[:count], self._all_changes)
        self._apply(self._all_changes_at, count, *self._served, *self._kept)
        if self.distances.wide:  # a change is rounded, this is not
            self.loss = float(self.distances.nearest(self._sum))
        return count

    def evaluation(self) -> tuple[Callable[..., int], list[Any]]:
        objects = map(native.address, (self.taken, self.near, self.dn, self.ds, self.weights))
        judged = native.address(self.removal), native.address(self.limit), self.distances.scale
        return self.distances.kernels("fasterpam").evaluate, [self.n, *objects, self.k, *judged]

    @property
    def true_loss(self) -> float:
        return math.ldexp(self.loss, self._unit)
