"""BUILD: the gains of all candidates, kept up to date by rows of candidates or of objects."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.intrinsics import rint
from hpckit.cluster.kernels.proposals import no_proposal, offer
from hpckit.native import export


@export("i8(i8, f4*, f4*, i8*, f4*)")
def approach(n, row, dn, changed, dn_was):
    """dn = min(dn, row); how many objects changed, and what they were before."""
    count = 0
    for o in range(n):
        if row[o] < dn[o]:
            changed[count], dn_was[count] = o, dn[o]
            dn[o] = row[o]
            count += 1
    return count


@njit(inline="always")
def _nearer(d, new, old):
    """What a candidate at distance d gains by an object whose medoid was at `old`, now `new`."""
    return types.float64((new - min(d, new)) - (old - min(d, old)))


@export("void(f4*, i8, i8*, f4, i8, i8*, f4*, i8, f4*, f8*, f8*)")
def update_by_object(rows, stride, places, scale, m, changed, dn_was, count, dn, w, gain):
    """gain[j] = sum of w max(dn - d, 0) after objects came nearer.

    rows[places[c]*stride + j] * scale, rounded, is d of changed[c].
    """
    for c in range(count):
        o, start = changed[c], places[c] * stride
        new, old, weight = dn[o], dn_was[c], w[o]
        for j in range(m):
            gain[j] += weight * _nearer(rint(rows[start + j] * scale), new, old)


@export("void(f4*, i8, i8*, f4, i8, i8*, f4*, i8, f4*, f8*, f8*)")
def update_by_candidate(rows, stride, places, scale, m, changed, dn_was, count, dn, w, gain):
    """The same for m candidates; rows[places[j]*stride + o] * scale, rounded, is d."""
    for j in range(m):
        start, sum = places[j] * stride, 0.0
        for c in range(count):
            o = changed[c]
            sum += w[o] * _nearer(rint(rows[start + o] * scale), dn[o], dn_was[c])
        gain[j] += sum


@export("void(f8*, i8, i8, i8*, f8*)")
def best_addition(gain, m, first, taken, proposal):
    """The candidate whose addition gains most, as a proposal."""
    no_proposal(proposal)
    for j in range(m):
        if not taken[first + j]:
            offer(proposal, -gain[j], types.float64(first + j), 0.0)
