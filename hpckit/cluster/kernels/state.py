"""Nearest and second medoid of all objects, and how a swap changes them."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.intrinsics import LANES, below, bits32, equal, lowest, value32
from hpckit.native import export

_FAR = 16777216.0  # 2**24, no distance is larger
_WHOLE = 8388608.0  # 2**23: from here on all float32 are whole


@njit
def _nearest_but(table, o, k, but):
    """Slot of the nearest medoid of o other than slot `but`; among equals the lowest; -1 if there is none."""
    best = (types.uint64(bits32(types.float32(2 * _FAR))) << 32) | types.uint64(0xFFFFFFFF)
    for i in range(k):  # distances before slots, in one whole number: that vectorises
        key = (types.uint64(bits32(table[o * k + i])) << 32) | types.uint64(i)
        key = best if i == but else key
        best = key if key < best else best
    return types.int64(types.int32(best & types.uint64(0xFFFFFFFF)))


@njit
def _distance(table, o, k, slot):
    return types.float32(_FAR) if slot < 0 else table[o * k + slot]


@njit(inline="always")
def _limit(ds, tick):
    """The least x with rint(x / tick) >= ds: halves round to even."""
    half = ds - types.float32(0.5)
    if ds > types.float32(_WHOLE):
        half = ds
    elif types.int64(ds) & 1:
        half = value32(bits32(half) + types.uint32(1))
    return half * tick


@export("f8(f4*, i8, i8, f8*, i4*, i4*, f4*, f4*, f4*, f4, f8*)")
def assign(table, n, k, w, near, seco, dn, ds, limit, tick, removal):
    """Serve all objects from table[o*k + i], the distance of o to the medoid in slot i; the loss."""
    for i in range(k):
        removal[i] = 0.0
    loss = 0.0
    for o in range(n):
        first = _nearest_but(table, o, k, -1)
        second = _nearest_but(table, o, k, first)
        near[o], dn[o] = first, _distance(table, o, k, first)
        seco[o], ds[o] = second, _distance(table, o, k, second)
        limit[o] = _limit(ds[o], tick)
        removal[first] += w[o] * types.float64(ds[o] - dn[o])
        loss += w[o] * types.float64(dn[o])
    return loss


@njit(inline="always")
def _served(o, d, slot, table, k, near, seco, dn, ds):
    """Slots and distances of the two nearest medoids of o after distance d has come into `slot`."""
    a, s, da, db = near[o], seco[o], dn[o], ds[o]
    if a == slot:
        if d < db or (d == db and slot < s) or s < 0:
            return a, s, d, db
        second = _nearest_but(table, o, k, s)
        return s, second, db, table[o * k + second]
    if d < da or (d == da and slot < a):
        return slot, a, d, da
    if s == slot and d > db:
        second = _nearest_but(table, o, k, a)
        return a, second, da, table[o * k + second]
    if s == slot or d < db or (d == db and slot < s):
        return a, slot, da, d
    return a, s, da, db


@export("i8(f4*, i8, i8, f8*, i4*, i4*, f4*, f4*, f4*, f4, f8*, i8, f4*, i8*, i4*, f4*, f4*)")
def swap(table, n, k, w, near, seco, dn, ds, limit, tick, removal, slot, row, changed, near_was, dn_was, ds_was):
    """Put the candidate with distances `row` into `slot`; how many objects changed, and what they were before."""
    for o in range(n):
        table[o * k + slot] = row[o]
    count = 0
    for start in range(0, n, LANES):
        concerned = types.uint64(0)
        if start + LANES <= n:
            concerned = ~below(ds, row, 0, start) | equal(near, slot, start) | equal(seco, slot, start)
        else:
            for o in range(start, n):
                if row[o] <= ds[o] or near[o] == slot or seco[o] == slot:
                    concerned |= types.uint64(1) << (o - start)
        while concerned:
            o = start + lowest(concerned)
            concerned &= concerned - types.uint64(1)
            a, s, da, db = near[o], seco[o], dn[o], ds[o]
            first, second, new, next_new = _served(o, row[o], slot, table, k, near, seco, dn, ds)
            if first != a or second != s or new != da or next_new != db:
                changed[count], near_was[count], dn_was[count], ds_was[count] = o, a, da, db
                count += 1
                near[o], seco[o], dn[o], ds[o] = first, second, new, next_new
                limit[o] = _limit(next_new, tick)
                removal[a] -= w[o] * types.float64(db - da)
                removal[first] += w[o] * types.float64(next_new - new)
    return count
