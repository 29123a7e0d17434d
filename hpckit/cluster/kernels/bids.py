"""The best of several.

A bid is three float64: change of the loss, candidate, slot; a candidate of -1 is no bid. The lowest change wins, then
the lowest candidate, then the lowest slot.
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


@export("i8(f8*, i8)")
def winner(bids, size):
    """Which rank's bid is the best; -1 when there is none."""
    best = -1
    for rank in range(size):
        if bids[3 * rank + 1] >= 0 and (
            best < 0
            or bids[3 * rank] < bids[3 * best]
            or (bids[3 * rank] == bids[3 * best] and bids[3 * rank + 1] < bids[3 * best + 1])
        ):
            best = rank
    return best
