"""Objects that a candidate comes near enough to, few in all, found by masks."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.intrinsics import LANES, below, lowest, pointer_to, population, prefetch

AT_ONCE = 4  # rows that share their reading of the limits
_AHEAD = 1024  # objects


@njit(inline="always")
def _put(mask, o, affected, count):
    """Append a mask's objects; always writes four places: sparse masks mispredict nothing."""
    end = count + population(mask)
    for t in range(4):
        affected[count + t] = o + lowest(mask)
        mask &= mask - types.uint64(1)
    count += 4
    while count < end:
        affected[count] = o + lowest(mask)
        mask &= mask - types.uint64(1)
        count += 1
    return end


@njit
def _put_rest(row, start, limit, length, affected, count):
    """Append those beyond the last whole mask."""
    for o in range(length - length % LANES, length):
        affected[count] = o
        count += 1 if row[start + o] < limit[o] else 0
    return count


@njit(inline="always")
def _prefetch(rows, start):
    for t in range(0, LANES, 16):
        prefetch(rows, start + t)


@njit
def affected_by(row, start, limit, length, affected):
    """Objects o with row[start + o] < limit[o], the only ones that a candidate concerns.

    `affected` has room for 4 more.
    """
    count = 0
    for o in range(0, length - length % LANES, LANES):
        _prefetch(row, start + o + _AHEAD)
        count = _put(below(row, limit, start, o), o, affected, count)
    return _put_rest(row, start, limit, length, affected, count)


@njit
def affected_by_each(rows, stride, places, many, limit, length, affected):
    """The same for AT_ONCE of `many` rows: row t's follow their number at t*(length + 5).

    Meanwhile what comes _AHEAD, in these rows or in the next, is fetched: the processor itself
    stops at pages.
    """
    room = length + 5
    if many < AT_ONCE:
        for t in range(many):
            affected[t * room] = affected_by(
                rows, places[t] * stride, limit, length, pointer_to(affected, t * room + 1)
            )
        return
    s0, s1, s2, s3 = places[0] * stride, places[1] * stride, places[2] * stride, places[3] * stride
    n0, n1, n2, n3 = s0, s1, s2, s3
    if many >= 2 * AT_ONCE:
        n0, n1, n2, n3 = (
            places[4] * stride,
            places[5] * stride,
            places[6] * stride,
            places[7] * stride,
        )
    h0, h1 = pointer_to(affected, 1), pointer_to(affected, room + 1)
    h2, h3 = pointer_to(affected, 2 * room + 1), pointer_to(affected, 3 * room + 1)
    c0 = c1 = c2 = c3 = 0
    for o in range(0, length - length % LANES, LANES):
        ahead = o + _AHEAD
        f0, f1, f2, f3 = s0, s1, s2, s3
        if ahead >= length:
            ahead -= length
            f0, f1, f2, f3 = n0, n1, n2, n3
        _prefetch(rows, f0 + ahead)
        _prefetch(rows, f1 + ahead)
        _prefetch(rows, f2 + ahead)
        _prefetch(rows, f3 + ahead)
        c0 = _put(below(rows, limit, s0, o), o, h0, c0)
        c1 = _put(below(rows, limit, s1, o), o, h1, c1)
        c2 = _put(below(rows, limit, s2, o), o, h2, c2)
        c3 = _put(below(rows, limit, s3, o), o, h3, c3)
    affected[0] = _put_rest(rows, s0, limit, length, h0, c0)
    affected[room] = _put_rest(rows, s1, limit, length, h1, c1)
    affected[2 * room] = _put_rest(rows, s2, limit, length, h2, c2)
    affected[3 * room] = _put_rest(rows, s3, limit, length, h3, c3)
