"""The best of several.

A proposal is four float64: change of the loss, candidate, slot, block; a candidate of -1 is no proposal. The
lowest block wins, then the lowest change, then the lowest candidate, then the lowest slot. Kernels
leave the block alone.
"""

from __future__ import annotations

from numba import njit

from hpckit.native import export


@njit
def no_proposal(proposal):
    proposal[0], proposal[1], proposal[2] = 0.0, -1.0, -1.0


@njit
def offer(proposal, change, candidate, slot):
    if (
        proposal[1] < 0
        or change < proposal[0]
        or (change == proposal[0] and candidate < proposal[1])
    ):
        proposal[0], proposal[1], proposal[2] = change, candidate, slot


@njit
def _better(proposals, one, other):
    """Whether the proposal that begins at `one` wins over the other."""
    if proposals[one + 3] != proposals[other + 3]:
        return proposals[one + 3] < proposals[other + 3]
    return proposals[one] < proposals[other] or (
        proposals[one] == proposals[other] and proposals[one + 1] < proposals[other + 1]
    )


@export("i8(f8*, i8)")
def winner(proposals, size):
    """Which rank's proposal is the best; -1 when there is none."""
    best = -1
    for rank in range(size):
        if proposals[4 * rank + 1] >= 0 and (best < 0 or _better(proposals, 4 * rank, 4 * best)):
            best = rank
    return best
