"""FasterPAM: candidates are judged by their rows, the distances of all objects to each."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.affected import AT_ONCE, affected_by_each
from hpckit.cluster.kernels.intrinsics import bits, pointer_to, rint, value
from hpckit.cluster.kernels.proposals import no_proposal, offer
from hpckit.native import export


@njit
def _least(values, n):
    """The least of values that are not negative: compared by their bits, which vectorises."""
    least = bits(values[0])
    for i in range(1, n):
        other = bits(values[i])
        least = other if other < least else least
    return value(least)


def evaluation(distance, start, concern, least_change, slot_of):
    """The loop over candidates, with the arithmetic of ticks (here) or of wide distances (`wide`).

    distance(x, scale) : of what a row holds
    start(after, removal, k) : `after` as if no object were concerned
    concern(after, k, gain, slot, weight, d, dn, ds) : add one object; the new gain
    least_change(after, k, gain) : of the loss, over all slots; and a slot not beyond that of it
    slot_of(after, gain, change, slot) : the first slot from there on that has this change; asked
        only where it lowers the loss, as ticks find the least quicker without its slot

    Numba inlines all five: the loop costs what it would cost written out.
    """

    @njit
    def evaluate(
        rows, stride, candidates, places, count, n,
        taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
    ):  # fmt: skip
        no_proposal(proposal)
        kept, room = 0, n + 5
        for c in range(0, count, AT_ONCE):
            affected_by_each(rows, stride, pointer_to(places, c), count - c, limit, n, affected)
            for t in range(AT_ONCE if count - c > AT_ONCE else count - c):
                j, place = candidates[c + t], places[c + t]
                if taken[j]:
                    continue
                start(after, removal, k)
                gain = 0.0
                for a in range(affected[t * room]):
                    o = affected[t * room + 1 + a]
                    d = distance(rows[place * stride + o], scale)
                    gain = concern(after, k, gain, near[o], w[o], d, dn[o], ds[o])
                change, slot = least_change(after, k, gain)
                if change < 0:
                    candidates[kept], places[kept] = j, place
                    kept += 1
                    slot = slot_of(after, gain, change, slot)
                    offer(proposal, change, types.float64(j), types.float64(slot))
        return kept

    return evaluate


@njit(inline="always")
def _start(after, removal, k):
    for i in range(k):
        after[i] = removal[i]


@njit(inline="always")
def _concern(after, k, gain, slot, weight, d, dn, ds):
    after[slot] += weight * types.float64(max(d, dn) - ds)
    return gain + weight * types.float64(min(d, dn) - dn)


@njit(inline="always")
def _least_change(after, k, gain):
    return gain + _least(after, k), 0


@njit(inline="always")
def _slot_of(after, gain, change, slot):
    while gain + after[slot] != change:
        slot += 1
    return slot


_rounded = njit(lambda x, scale: rint(x * scale))
_evaluate = evaluation(_rounded, _start, _concern, _least_change, _slot_of)


@export("i8(f4*, i8, i8*, i8*, i8, i8, i8*, i4*, f4*, f4*, f8*, i8, f8*, f4*, f4, f8*, i8*, f8*)")
def evaluate(
    rows, stride, candidates, places, count, n,
    taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
):  # fmt: skip
    """The best swap, a proposal if it lowers the loss; how many would, now first in their list.

    rows[places[c]*stride + o] * scale, rounded, is d of candidates[c], and below ds where rows[...]
    is below limit[o]; taken[j]: j is a medoid. `after` and `affected` are scratch.
    """
    return _evaluate(
        rows, stride, candidates, places, count, n,
        taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
    )  # fmt: skip
