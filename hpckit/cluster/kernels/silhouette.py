"""The medoid silhouette: how much nearer objects are to their medoid than to the next one.

The medoid silhouette of an object is 1 - dn / ds; a search lowers the sum of w dn / ds. Ratios are
whole numbers too, of 2**-24, each rounded once, so that their sums are exact like those of
distances. Beside the package's symbols:

    dt           distance of the third nearest medoid of o; `far` when there are two
    ratio        dn / ds, and 0 where both are 0
    no_near      ds / dt, the ratio once the nearest medoid is lost
    no_seco      dn / dt, the ratio once the second is lost
    removal      removal[i] = what losing medoid i adds to the sum, which may be less than nothing

Only objects with d < dt are concerned by a candidate. With a = ratio of d and dn, b = ratio of d
and ds, theirs becomes b if the candidate replaces their nearest medoid, a if it replaces their
second, and if it replaces any other medoid a where d < ds: one sweep over o serves all k slots
(Lenssen & Schubert, Information Systems 120, 2024).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from hpckit.cluster.kernels.affected import affected_by
from hpckit.cluster.kernels.intrinsics import LANES, below, bits, population, scratch
from hpckit.cluster.kernels.proposals import no_proposal, offer
from hpckit.native import export

_ONE = 16777216.0  # a ratio of 1
_ROUND = 6755399441055744.0  # 1.5 * 2**52: added and subtracted, it rounds, halves to even
_PIECE = 256
_TINY = 2.2250738585072014e-308
_MANY = 5  # from n / _MANY affected on it is quicker to look at all objects


@njit(inline="always")
def _ratio(x, y):
    """The smaller by the larger, in units of 2**-24."""
    low, high = types.float64(min(x, y)), types.float64(max(x, y))
    return (low * _ONE / max(high, _TINY) + _ROUND) - _ROUND


@njit(inline="always")
def _assign(o, table, k, far, near, seco, dn, ds, dt, ratio, no_near, no_seco):
    a, b, c = types.float32(np.inf), types.float32(np.inf), types.float32(far)
    first, second = -1, -1
    for i in range(k):
        d = table[o * k + i]
        if d < a:
            first, second, a, b, c = i, first, d, a, b
        elif d < b:
            second, b, c = i, d, b
        elif d < c:
            c = d
    c = min(c, types.float32(far))
    near[o], seco[o], dn[o], ds[o], dt[o] = first, second, a, b, c
    ratio[o], no_near[o], no_seco[o] = _ratio(a, b), _ratio(b, c), _ratio(a, c)


@njit
def _weigh(n, k, near, seco, ratio, no_near, no_seco, w, removal):
    """Set `removal`; the sum of all ratios."""
    for i in range(k):
        removal[i] = 0.0
    total = 0.0
    for o in range(n):
        total += w[o] * ratio[o]
        removal[near[o]] += w[o] * (no_near[o] - ratio[o])
        removal[seco[o]] += w[o] * (no_seco[o] - ratio[o])
    return total


@export("f8(f4*, i8, i8, f4, i4*, i4*, f4*, f4*, f4*, f8*, f8*, f8*, f8*, f8*)")
def assign(table, n, k, far, near, seco, dn, ds, dt, ratio, no_near, no_seco, w, removal):
    """All of the objects from table[o*k + i], distances to medoid i; the sum of all ratios."""
    for o in range(n):
        _assign(o, table, k, far, near, seco, dn, ds, dt, ratio, no_near, no_seco)
    return _weigh(n, k, near, seco, ratio, no_near, no_seco, w, removal)


@export("i8(f4*, i8, i8, f4, i4*, i4*, f4*, f4*, f4*, f8*, f8*, f8*, f8*, f8*, i8, f4*)")
def swap(table, n, k, far, near, seco, dn, ds, dt, ratio, no_near, no_seco, w, removal, slot, row):
    """Put the candidate with this `row` into `slot`; how many objects that concerns."""
    count = 0
    for o in range(n):
        was = table[o * k + slot]
        table[o * k + slot] = row[o]
        if min(was, row[o]) <= dt[o]:
            _assign(o, table, k, far, near, seco, dn, ds, dt, ratio, no_near, no_seco)
            count += 1
    _weigh(n, k, near, seco, ratio, no_near, no_seco, w, removal)
    return count


@njit(inline="always")
def _rank(x):
    """An integer in the order of x, not -0.0: vectors find the least of integers."""
    pattern = types.int64(bits(x))
    return pattern ^ ((pattern >> 63) & 0x7FFFFFFFFFFFFFFF)


@njit
def _least(values, n):
    """Where the least of the values is, the first among equals."""
    least = _rank(values[0])
    for i in range(1, n):
        rank = _rank(values[i])
        least = rank if rank < least else least
    slot = 0
    while _rank(values[slot]) != least:
        slot += 1
    return slot


@njit
def _about(row, start, dt, n):
    """How many objects have d < dt, but for those beyond the last whole mask."""
    count = 0
    for o in range(0, n - n % LANES, LANES):
        count += population(below(row, dt, start, o))
    return count


@njit(inline="always")
def _terms(o, d, dn, ds, ratio, no_near, no_seco, w):
    """What o adds to the sum if some medoid goes, and more if its nearest or its second does."""
    a, b, now = _ratio(d, dn[o]), _ratio(d, ds[o]), ratio[o]
    other = (a if d < ds[o] else now) - now
    return w[o] * other, w[o] * (b - no_near[o] - other), w[o] * (a - no_seco[o] - other)


@njit
def _add_some(row, start, affected, count, near, seco, dn, ds, ratio, no_near, no_seco, w, after):
    """Over the objects `affected`: the sum of the first terms; the others go to after[slot]."""
    gain = 0.0
    for h in range(count):
        o = affected[h]
        other, first, second = _terms(o, row[start + o], dn, ds, ratio, no_near, no_seco, w)
        gain += other
        after[near[o]] += first
        after[seco[o]] += second
    return gain


@njit
def _add_all(row, start, n, near, seco, dn, ds, dt, ratio, no_near, no_seco, w, k, after):
    """The same over all objects, in vectors; neighbours add to two copies of `after`."""
    for i in range(k):
        after[k + i] = 0.0
    terms, gain = scratch(w), 0
    for begin in range(0, n, _PIECE):
        size = _PIECE if n - begin > _PIECE else n - begin
        for t in range(size):
            o = begin + t
            other, first, second = _terms(
                o, min(row[start + o], dt[o]), dn, ds, ratio, no_near, no_seco, w
            )
            gain += types.int64(other)  # whole, and sums of integers are vectorised
            terms[t], terms[_PIECE + t] = first, second
        for t in range(size):
            copy = k * (t & 1)
            after[copy + near[begin + t]] += terms[t]
            after[copy + seco[begin + t]] += terms[_PIECE + t]
    for i in range(k):
        after[i] += after[k + i]
    return types.float64(gain)


@export(
    "i8(f4*, i8, i8*, i8*, i8, i8, i8*, i4*, i4*, f4*, f4*, f4*, f8*, f8*, f8*, f8*, i8, f8*, f8*, "
    "i8*, f8*)"
)
def evaluate(
    rows, stride, candidates, places, count, n,
    taken, near, seco, dn, ds, dt, ratio, no_near, no_seco, w, k,
    removal, after, affected, proposal,
):  # fmt: skip
    """The best swap as a proposal, and the candidates that lower the sum.

    As `fasterpam.evaluate` does it for the loss.

    `after` has room for 2 k.
    """
    no_proposal(proposal)
    kept = 0
    for c in range(count):
        j, start = candidates[c], places[c] * stride
        if taken[j]:
            continue
        for i in range(k):
            after[i] = removal[i]
        if _about(rows, start, dt, n) < n // _MANY:
            many = affected_by(rows, start, dt, n, affected)
            gain = _add_some(
                rows, start, affected, many, near, seco, dn, ds, ratio, no_near, no_seco, w, after
            )
        else:
            gain = _add_all(
                rows, start, n, near, seco, dn, ds, dt, ratio, no_near, no_seco, w, k, after
            )
        slot = _least(after, k)
        change = gain + after[slot]
        if change < 0:
            candidates[kept], places[kept] = j, places[c]
            kept += 1
            offer(proposal, change, types.float64(j), types.float64(slot))
    return kept


@export("void(f4*, i8, i8*, i8*, i8, i8, i8*, f8*)")
def add_rows(rows, stride, places, candidates, count, n, clusters, sums):
    """sums[i*n + o] += d of all objects o to each candidate in cluster i, other than themselves."""
    for c in range(count):
        j, start = candidates[c], places[c] * stride
        into = clusters[j] * n
        for o in range(n):
            sums[into + o] += types.float64(rows[start + o])
        sums[into + j] -= types.float64(rows[start + j])
