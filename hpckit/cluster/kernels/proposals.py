"""The best of several proposals.

A proposal is a row `tables.PROPOSAL`. The lowest block wins, then the lowest change, then the
lowest candidate, then the lowest slot. Kernels leave the block alone.
"""

from __future__ import annotations

from numba import njit

from hpckit.cluster.tables import BLOCK, CANDIDATE, CHANGE, PROPOSAL_LENGTH, SLOT
from hpckit.native import export


@njit
def no_proposal(proposal):
    proposal[CHANGE], proposal[CANDIDATE], proposal[SLOT] = 0.0, -1.0, -1.0


@njit
def offer(proposal, change, candidate, slot):
    """Make it this one, if this is better."""
    least, first = proposal[CHANGE], proposal[CANDIDATE]
    if first < 0 or change < least or (change == least and candidate < first):
        proposal[CHANGE], proposal[CANDIDATE], proposal[SLOT] = change, candidate, slot


@njit
def _better(proposals, one, other):
    """Whether the proposal that begins at `one` wins over the other."""
    for field in (BLOCK, CHANGE):
        mine, theirs = proposals[one + field], proposals[other + field]
        if mine != theirs:
            return mine < theirs
    return proposals[one + CANDIDATE] < proposals[other + CANDIDATE]


@export("i8(f8*, i8)")
def winner(proposals, size):
    """Which rank's proposal is the best; -1 when there is none."""
    best = -1
    for rank in range(size):
        start = rank * PROPOSAL_LENGTH
        if proposals[start + CANDIDATE] >= 0 and (
            best < 0 or _better(proposals, start, best * PROPOSAL_LENGTH)
        ):
            best = rank
    return best
