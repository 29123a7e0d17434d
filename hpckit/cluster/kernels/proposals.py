"""The best of several.

A bid is four float64: change of the loss, candidate, slot, block; a candidate of -1 is no bid. The
lowest block wins, then the lowest change, then the lowest candidate, then the lowest slot. Kernels
leave the block alone.
"""

from __future__ import annotations

from numba import njit

from hpckit.native import export


@njit
def no_bid(bid):
    bid[0], bid[1], bid[2] = 0.0, -1.0, -1.0


@njit
def offer(bid, change, candidate, slot):
    if bid[1] < 0 or change < bid[0] or (change == bid[0] and candidate < bid[1]):
        bid[0], bid[1], bid[2] = change, candidate, slot


@njit
def _better(bids, one, other):
    """Whether the bid that begins at `one` wins over the other."""
    if bids[one + 3] != bids[other + 3]:
        return bids[one + 3] < bids[other + 3]
    return bids[one] < bids[other] or (bids[one] == bids[other] and bids[one + 1] < bids[other + 1])


@export("i8(f8*, i8)")
def winner(bids, size):
    """Which rank's bid is the best; -1 when there is none."""
    best = -1
    for rank in range(size):
        if bids[4 * rank + 1] >= 0 and (best < 0 or _better(bids, 4 * rank, 4 * best)):
            best = rank
    return best
