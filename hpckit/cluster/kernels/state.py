"""Nearest and second medoid of all objects, and how a swap changes them."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.intrinsics import LANES, below, bits32, equal, lowest, value32
from hpckit.cluster.tables import DN_BITS, DS_BITS, NEAR, OBJECT, SECOND, SERVICE_LENGTH
from hpckit.native import export

_INFINITE = types.uint64(0x7F800000)  # bits of float32
_WHOLE = 8388608.0  # 2**23: from here on all float32 are whole


@njit
def _nearest_but(table, o, k, but):
    """Slot of o's nearest medoid not in slot `but`; the lowest of equals; -1: there is none."""
    best = (_INFINITE << types.uint64(32)) | types.uint64(0xFFFFFFFF)
    for i in range(k):  # distances before slots, in one whole number: that vectorises
        key = (types.uint64(bits32(table[o * k + i] + types.float32(0.0))) << 32) | types.uint64(
            i
        )  # 0 for -0
        key = best if i == but else key
        best = key if key < best else best
    return types.int64(types.int32(best & types.uint64(0xFFFFFFFF)))


@njit
def _distance(table, o, k, slot, far):
    return types.float32(far) if slot < 0 else table[o * k + slot]


@njit(inline="always")
def _limit(ds, tick):
    """The least x with rint(x / tick) >= ds: halves round to even."""
    half = ds - types.float32(0.5)
    if ds > types.float32(_WHOLE):
        half = ds
    elif types.int64(ds) & 1:
        half = value32(bits32(half) + types.uint32(1))
    return half * tick


@njit(inline="always")
def _note(changes, c, o, first, second, new, next_new):
    """Row c, a `tables.SERVICE`."""
    at = c * SERVICE_LENGTH
    changes[at + OBJECT], changes[at + NEAR], changes[at + SECOND] = o, first, second
    changes[at + DN_BITS], changes[at + DS_BITS] = bits32(new), bits32(next_new)


@njit(inline="always")
def noted(changes, c):
    """Row c: object, slots of its nearest and second medoid, and their distances."""
    at = c * SERVICE_LENGTH
    o, first = types.int64(changes[at + OBJECT]), types.int64(changes[at + NEAR])
    new = value32(types.uint32(changes[at + DN_BITS]))
    next_new = value32(types.uint32(changes[at + DS_BITS]))
    return o, first, changes[at + SECOND], new, next_new


@export("void(f4*, i8, i8, i8, i4*, f4)")
def assign(table, start, stop, k, changes, far):
    """Serve start <= o < stop from table[(o - start)*k + i], distances to the medoid in slot i."""
    for o in range(start, stop):
        first = _nearest_but(table, o - start, k, -1)
        second = _nearest_but(table, o - start, k, first)
        new, next_new = (
            _distance(table, o - start, k, first, far),
            _distance(table, o - start, k, second, far),
        )
        _note(changes, o - start, o, first, second, new, next_new)


@njit(inline="always")
def _served(o, d, slot, table, place, k, near, seco, dn, ds):
    """Slots and distances of the two nearest medoids of o after distance d has come into `slot`."""
    a, s, da, db = near[o], seco[o], dn[o], ds[o]
    if a == slot:
        if d < db or (d == db and slot < s) or s < 0:
            return a, s, d, db
        second = _nearest_but(table, place, k, s)
        return s, second, db, table[place * k + second]
    if d < da or (d == da and slot < a):
        return slot, a, d, da
    if s == slot and d > db:
        second = _nearest_but(table, place, k, a)
        return a, second, da, table[place * k + second]
    if s == slot or d < db or (d == db and slot < s):
        return a, slot, da, d
    return a, s, da, db


@export("i8(f4*, i8, i8, i8, i4*, i8, f4*, i4*, i4*, f4*, f4*)")
def swap(table, start, stop, k, changes, slot, row, near, seco, dn, ds):
    """Put the candidate with distances `row` into `slot`; how many are served otherwise now."""
    for o in range(start, stop):
        table[(o - start) * k + slot] = row[o]
    count = 0
    for begin in range(start, stop, LANES):
        concerned = types.uint64(0)
        if begin + LANES <= stop:
            concerned = (
                ~below(ds, row, 0, begin) | equal(near, slot, begin) | equal(seco, slot, begin)
            )
        else:
            for o in range(begin, stop):
                if row[o] <= ds[o] or near[o] == slot or seco[o] == slot:
                    concerned |= types.uint64(1) << (o - begin)
        while concerned:
            o = begin + lowest(concerned)
            concerned &= concerned - types.uint64(1)
            first, second, new, next_new = _served(
                o, row[o], slot, table, o - start, k, near, seco, dn, ds
            )
            if first != near[o] or second != seco[o] or new != dn[o] or next_new != ds[o]:
                _note(changes, count, o, first, second, new, next_new)
                count += 1
    return count


@export("void(i4*, i8, i4*, i4*, f4*, f4*, f4*, f4, f8*, f8*, i8*, i4*, f4*, f4*)")
def change(
    changes, count, near, seco, dn, ds, limit, tick, w, removal, changed, near_was, dn_was, ds_was
):
    """Do the changes of all ranks, and keep what was before."""
    for c in range(count):
        o, first, second, new, next_new = noted(changes, c)
        removal[near[o]] -= w[o] * types.float64(ds[o] - dn[o])
        removal[first] += w[o] * types.float64(next_new - new)
        changed[c], near_was[c], dn_was[c], ds_was[c] = o, near[o], dn[o], ds[o]
        near[o], seco[o], dn[o], ds[o] = first, second, new, next_new
        limit[o] = _limit(next_new, tick)
