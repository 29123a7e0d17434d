"""The medoid silhouette: how much nearer objects are to their medoid than to the next one.

The medoid silhouette of an object is 1 - dn / ds; a search lowers the sum of w dn / ds. Ratios are whole numbers too,
of 2**-24, each rounded once, so that their sums are exact like those of distances. Beside the package's symbols:

    dt           distance of the third nearest medoid of o; FAR when there are two
    ratio        dn / ds, and 0 where both are 0
    no_near      ds / dt, the ratio once the nearest medoid is lost
    no_seco      dn / dt, the ratio once the second is lost
    removal      removal[i] = what losing medoid i adds to the sum, which may be less than nothing

Only objects with d < dt are concerned by a candidate. With a = ratio of d and dn, b = ratio of d and ds, theirs becomes
b if the candidate replaces their nearest medoid, a if it replaces their second, and if it replaces any other medoid a
where d < ds: one sweep over o serves all k slots (Lenssen & Schubert, Information Systems 120, 2024).
"""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.bids import no_bid, offer
from hpckit.cluster.kernels.hits import hits_below
from hpckit.cluster.kernels.intrinsics import bits
from hpckit.native import export

_FAR = 16777216.0  # 2**24, no distance is larger
_ONE = 16777216.0  # a ratio of 1
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding and subtracting it rounds to a whole number, halves to even


@njit(inline="always")
def _ratio(x, y):
    """The smaller by the larger, in units of 2**-24."""
    below, above = types.float64(min(x, y)), types.float64(max(x, y))
    return types.float32((below * _ONE / max(above, 1.0) + _ROUND) - _ROUND)


@njit(inline="always")
def _assign(o, table, k, near, seco, dn, ds, dt, ratio, no_near, no_seco):
    a, b, c = types.float32(2 * _FAR), types.float32(2 * _FAR), types.float32(_FAR)
    first, second = -1, -1
    for i in range(k):
        d = table[o * k + i]
        if d < a:
            first, second, a, b, c = i, first, d, a, b
        elif d < b:
            second, b, c = i, d, b
        elif d < c:
            c = d
    c = min(c, types.float32(_FAR))
    near[o], seco[o], dn[o], ds[o], dt[o] = first, second, a, b, c
    ratio[o], no_near[o], no_seco[o] = _ratio(a, b), _ratio(b, c), _ratio(a, c)


@export("void(f4*, i8, i8, i4*, i4*, f4*, f4*, f4*, f4*, f4*, f4*)")
def assign(table, n, k, near, seco, dn, ds, dt, ratio, no_near, no_seco):
    """The nearest medoids of all objects from table[o*k + i], the distance of o to the medoid in slot i."""
    for o in range(n):
        _assign(o, table, k, near, seco, dn, ds, dt, ratio, no_near, no_seco)


@export("i8(i8, f4*, f4*, i8, i8, i4*, i4*, f4*, f4*, f4*, f4*, f4*, f4*)")
def swap(slot, row, table, n, k, near, seco, dn, ds, dt, ratio, no_near, no_seco):
    """Put the candidate with distances `row` into `slot`; how many objects it came, or was, near enough to concern."""
    count = 0
    for o in range(n):
        was = table[o * k + slot]
        table[o * k + slot] = row[o]
        if min(was, row[o]) <= dt[o]:
            _assign(o, table, k, near, seco, dn, ds, dt, ratio, no_near, no_seco)
            count += 1
    return count


@export("f8(i8, i8, i4*, i4*, f4*, f4*, f4*, f8*, f8*)")
def weigh(n, k, near, seco, ratio, no_near, no_seco, w, removal):
    """What losing each medoid adds to the sum of all ratios, and that sum."""
    for i in range(k):
        removal[i] = 0.0
    total = 0.0
    for o in range(n):
        total += w[o] * types.float64(ratio[o])
        removal[near[o]] += w[o] * types.float64(no_near[o] - ratio[o])
        removal[seco[o]] += w[o] * types.float64(no_seco[o] - ratio[o])
    return total


@njit(inline="always")
def _rank(x):
    """An integer in the order of x: the least of integers is found by vectors."""
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


@export(
    "i8(f4*, i8, i8*, i8*, i8, i8, i8*, i4*, i4*, f4*, f4*, f4*, f4*, f4*, f4*, f8*, i8, f8*, f8*, i8*, f8*)",
)
def evaluate(
    rows, stride, candidates, places, count, n,
    taken, near, seco, dn, ds, dt, ratio, no_near, no_seco, w, k, removal, after, hits, bid,
):  # fmt: skip
    """As `evaluate.evaluate` does it for the loss: the best swap as a bid, and the candidates that lower the sum."""
    no_bid(bid)
    kept = 0
    for c in range(count):
        j, place = candidates[c], places[c]
        if taken[j]:
            continue
        start = place * stride
        for i in range(k):
            after[i] = removal[i]
        gain = 0.0
        for h in range(hits_below(rows, start, dt, n, hits)):
            o = hits[h]
            d, now = rows[start + o], ratio[o]
            a, b = _ratio(d, dn[o]), _ratio(d, ds[o])
            other = a if d < ds[o] else now
            gain += w[o] * types.float64(other - now)
            after[near[o]] += w[o] * (types.float64(b - other) - types.float64(no_near[o] - now))
            after[seco[o]] += w[o] * (types.float64(a - other) - types.float64(no_seco[o] - now))
        slot = _least(after, k)
        change = gain + after[slot]
        if change < 0:
            candidates[kept], places[kept] = j, place
            kept += 1
            offer(bid, change, types.float64(j), types.float64(slot))
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
