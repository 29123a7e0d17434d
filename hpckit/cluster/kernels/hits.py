"""Objects that a candidate comes near enough to, few in all, found by masks."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.intrinsics import LANES, below, lowest, population


@njit
def hits_below(row, start, limit, length, hits):
    """Objects o with row[start + o] < limit[o], the only ones that a candidate concerns; `length`: whole LANES.

    Four places are written whatever the mask, so that sparse masks cost no mispredicted branch; `hits` has room.
    """
    count = 0
    for o in range(0, length, LANES):
        mask = below(row, limit, start, o)
        end = count + population(mask)
        for t in range(4):
            hits[count + t] = o + lowest(mask)
            mask &= mask - types.uint64(1)
        count += 4
        while count < end:
            hits[count] = o + lowest(mask)
            mask &= mask - types.uint64(1)
            count += 1
        count = end
    return count


@njit
def hits_below_scalar(row, start, limit, length, hits):
    """The same, object by object."""
    count = 0
    for o in range(length):
        if row[start + o] < limit[o]:
            hits[count] = o
            count += 1
    return count
