"""The two searches: swaps as soon as a block of candidates offers one, and the best of all swaps each time.

Both take each rank's bid, let the best win, and do its swap on every rank. The last state is a local optimum: no swap
of a medoid with another object lowers the loss.
"""

from __future__ import annotations

import math

import numpy as np

from hpckit import native
from hpckit.cluster._state import State


def eager(state: State, block: int, limit: float) -> int:
    """FasterPAM by blocks of candidates (needs distances by candidate); how many passes over all candidates it took.

    All candidates of a block are judged against the same medoids, and the best swap is done; those that had offered
    one are judged again, until none is left. The search ends when a whole pass has found nothing. With blocks of one
    this is FasterPAM. A block of all is judged again as a whole, which is PAM.
    """
    judge, order = _Judge(state), visiting_order(state.n)
    mine = (order >= state.distances.first) & (order < state.distances.first + state.distances.m)
    parts = [order[p : p + block][mine[p : p + block]] for p in range(0, state.n, block)]
    blocks = [(native.address(part), len(part)) for part in parts]
    improving = native.address(judge.improving)
    passes = quiet = 0
    while passes < limit:
        passes += 1
        for candidates, many in blocks:
            count = judge(candidates, many)
            quiet += 1
            while bid := state.ranks.settle():
                state.swap(bid)
                quiet = 0
                if len(blocks) == 1:
                    break
                count = judge(improving, count)
            if quiet == len(blocks):
                return passes
    return passes


def best(state: State, limit: float) -> int:
    """PAM (needs distances by object): how many times it looked for the best of all swaps.

    The gains of all swaps are kept, k for each candidate, and a swap replaces only what the objects contribute whose
    nearest or second medoid changed: the same swaps as PAM at a fraction of its work (Resende & Werneck, Annals of
    Operations Research 150, 2007).
    """
    kernels = native.load("hpckit.cluster.kernels")
    n, k, m, first = state.n, state.k, state.distances.m, state.distances.first
    shift = np.empty((0, 0))
    with state.ranks.together():  # there may be no room for it
        shift = np.zeros((k, m))
    gain, lowest, slots = np.zeros(m), np.empty(m), np.empty(m)
    state.near_was[:] = state.near  # no object has contributed yet: as if its medoids were at distance 0
    old = state.changed, state.near_was, state.dn_was, state.ds_was
    block, changed, *was = map(native.address, (state.distances.ticks, *old))
    now = [*map(native.address, (state.near, state.dn, state.ds, state.weights, gain, shift))]
    choice = [*map(native.address, (gain, shift, state.removal))]
    bid_at = [*map(native.address, (state.taken, lowest, slots, state.ranks.bid))]
    rounds, count = 0, n
    while rounds < limit:
        rounds += 1
        kernels.update(block, m, changed, count, *was, *now)
        kernels.best_swap(*choice, k, m, first, *bid_at)
        bid = state.ranks.settle()
        if bid is None:
            break
        count = state.swap(bid)
    return rounds


def visiting_order(n: int) -> np.ndarray:
    """All objects, (n,) int64, in steps of about the golden section of n: each block is spread over all ranks."""
    step = round(n * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, n) > 1:
        step += 1
    return np.arange(n) * step % n


class _Judge:
    """Evaluates candidates of this rank, puts its bid, and lists those that would lower the loss in `improving`."""

    def __init__(self, state: State) -> None:
        distances = state.distances
        length = distances.ticks.shape[1]
        self.improving = np.empty(distances.m, np.int64)
        self._evaluate = native.load("hpckit.cluster.kernels").evaluate
        self._scratch = np.empty(state.k), np.empty(length + 4, np.int64)
        self._rows = native.address(distances.ticks), length, distances.first
        objects = state.taken, state.near, state.dn, state.ds, state.weights
        self._objects = [*map(native.address, objects), state.k, native.address(state.removal)]
        self._out = [*map(native.address, (*self._scratch, self.improving, state.ranks.bid))]

    def __call__(self, candidates: int, count: int) -> int:
        """How many of `count` candidates, int64 at this address, would lower the loss."""
        return self._evaluate(*self._rows, candidates, count, *self._objects, *self._out)
