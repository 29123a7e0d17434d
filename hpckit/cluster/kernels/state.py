"""Nearest and second medoid of all objects, and how a swap changes them."""

from __future__ import annotations

from numba import njit, types

from hpckit.native import export

_FAR = 16777216.0  # 2**24, no distance is larger


@njit
def _nearest_but(table, o, k, but):
    """Slot of the nearest medoid of o other than slot `but`; among equals the lowest; -1 if there is none."""
    best, slot = types.float32(2 * _FAR), -1
    for i in range(k):
        d = table[o * k + i]
        if d < best and i != but:
            best, slot = d, i
    return slot


@njit
def _distance(table, o, k, slot):
    return types.float32(_FAR) if slot < 0 else table[o * k + slot]


@export("void(f4*, i8, i8, i4*, i4*, f4*, f4*)")
def assign(table, n, k, near, seco, dn, ds):
    """Nearest and second medoid of all objects from table[o*k + i], the distance of o to the medoid in slot i."""
    for o in range(n):
        first = _nearest_but(table, o, k, -1)
        second = _nearest_but(table, o, k, first)
        near[o], dn[o] = first, _distance(table, o, k, first)
        seco[o], ds[o] = second, _distance(table, o, k, second)


@export("i8(f4*, i8, i8, i8, f4*, i4*, i4*, f4*, f4*, i8*, i4*, f4*, f4*)")
def swap(table, n, k, slot, row, near, seco, dn, ds, changed, near_was, dn_was, ds_was):
    """Put the candidate with distances `row` into `slot`; how many objects changed, and what they were before."""
    count = 0
    for o in range(n):
        d = row[o]
        table[o * k + slot] = d
        a, s, da, db = near[o], seco[o], dn[o], ds[o]
        first, second, new, next_new = a, s, da, db
        if a == slot:
            if d < db or (d == db and slot < s) or s < 0:
                new = d
            else:
                first, new = s, db
                second = _nearest_but(table, o, k, s)
                next_new = table[o * k + second]
        elif d < da or (d == da and slot < a):
            first, second, new, next_new = slot, a, d, da
        elif s == slot:
            if d > db:
                second = _nearest_but(table, o, k, a)
                next_new = table[o * k + second]
            else:
                next_new = d
        elif d < db or (d == db and slot < s):
            second, next_new = slot, d
        if first != a or second != s or new != da or next_new != db:
            changed[count], near_was[count], dn_was[count], ds_was[count] = o, a, da, db
            count += 1
            near[o], seco[o], dn[o], ds[o] = first, second, new, next_new
    return count


@export("void(i8, i8, i4*, f4*, f4*, f8*, f8*)")
def removal_loss(n, k, near, dn, ds, w, removal):
    """What losing each medoid costs."""
    for i in range(k):
        removal[i] = 0.0
    for o in range(n):
        removal[near[o]] += w[o] * types.float64(ds[o] - dn[o])


@export("f8(i8, f4*, f8*)")
def total(n, dn, w):
    """The loss: sum of w dn."""
    loss = 0.0
    for o in range(n):
        loss += w[o] * types.float64(dn[o])
    return loss
