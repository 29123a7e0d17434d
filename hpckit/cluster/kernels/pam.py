"""PAM: the gains of all swaps are kept, and change by the rows of objects."""

from __future__ import annotations

from numba import types

from hpckit.cluster.kernels.intrinsics import rint
from hpckit.cluster.kernels.proposals import no_proposal, offer
from hpckit.native import export


@export("void(f4*, i8, i8*, f4, i8*, i4*, f4*, f4*, i8, i8, i4*, f4*, f4*, f8*, f8*, f8*)")
def update(
    rows,
    stride,
    places,
    scale,
    changed,
    near_was,
    dn_was,
    ds_was,
    count,
    m,
    near,
    dn,
    ds,
    w,
    gain,
    shift,
):
    """Replace what changed objects give to all candidates' gains (Resende & Werneck 2007).

    gain[j] is the first sum of the package's text, shift[i*m + j] the second; rows[places[c]*stride
    + j] * scale, rounded, is d of object changed[c].
    """
    for c in range(count):
        o = changed[c]
        row, weight = places[c] * stride, w[o]
        a, b, a_was, b_was = dn[o], ds[o], dn_was[c], ds_was[c]
        new, old = near[o] * m, near_was[c] * m
        if new == old:
            for j in range(m):
                d = rint(rows[row + j] * scale)
                gain[j] += weight * types.float64((min(d, a) - a) - (min(d, a_was) - a_was))
                now, was = min(max(d, a), b) - b, min(max(d, a_was), b_was) - b_was
                shift[new + j] += weight * types.float64(now - was)
        else:
            for j in range(m):
                d = rint(rows[row + j] * scale)
                gain[j] += weight * types.float64((min(d, a) - a) - (min(d, a_was) - a_was))
                shift[new + j] += weight * types.float64(min(max(d, a), b) - b)
                shift[old + j] -= weight * types.float64(min(max(d, a_was), b_was) - b_was)


@export("void(f8*, f8*, f8*, i8, i8, i8, i8*, f8*, f8*, f8*)")
def best_swap(gain, shift, removal, k, m, first, taken, lowest, slots, proposal):
    """The best swap of all candidates, as a proposal if it lowers the loss.

    `lowest` and `slots` are scratch of m.
    """
    no_proposal(proposal)
    for j in range(m):
        lowest[j] = shift[j] + removal[0]
        slots[j] = 0.0
    for i in range(1, k):
        for j in range(m):
            after = shift[i * m + j] + removal[i]
            better = after < lowest[j]
            lowest[j] = after if better else lowest[j]
            slots[j] = types.float64(i) if better else slots[j]
    for j in range(m):
        change = gain[j] + lowest[j]
        if change < 0 and not taken[first + j]:
            offer(proposal, change, types.float64(first + j), slots[j])
