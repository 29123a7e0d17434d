"""FasterPAM: candidates are judged by their rows, the distances of all objects to each."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.bids import no_bid, offer
from hpckit.cluster.kernels.hits import hits_below, hits_below_scalar
from hpckit.cluster.kernels.intrinsics import bits, value
from hpckit.native import export


@njit
def _least(values, n):
    """The least of values that are not negative: compared by their bits, which vectorises."""
    least = bits(values[0])
    for i in range(1, n):
        other = bits(values[i])
        least = other if other < least else least
    return value(least)


def _evaluation(find):
    @njit
    def evaluate(rows, stride, candidates, places, count, n, taken, near, dn, ds, w, k, removal, after, hits, bid):
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
            for h in range(find(rows, start, ds, n, hits)):
                o = hits[h]
                d, a = rows[start + o], dn[o]
                gain += w[o] * types.float64(min(d, a) - a)
                after[near[o]] += w[o] * types.float64(max(d, a) - ds[o])
            change = gain + _least(after, k)
            if change < 0:
                candidates[kept], places[kept] = j, place
                kept += 1
                slot = 0
                while gain + after[slot] != change:
                    slot += 1
                offer(bid, change, types.float64(j), types.float64(slot))
        return kept

    return evaluate


_evaluate = _evaluation(hits_below)
_evaluate_scalar = _evaluation(hits_below_scalar)
_EVALUATE = "i8(f4*, i8, i8*, i8*, i8, i8, i8*, i4*, f4*, f4*, f8*, i8, f8*, f8*, i8*, f8*)"


@export(_EVALUATE)
def evaluate(rows, stride, candidates, places, count, n, taken, near, dn, ds, w, k, removal, after, hits, bid):
    """The best swap among the candidates, as a bid if it lowers the loss; how many would, now the first in their list.

    rows[places[c]*stride + o] = d of candidates[c]; n is padded to whole masks; taken[j]: j is a medoid. `after` and
    `hits` are scratch.
    """
    return _evaluate(rows, stride, candidates, places, count, n, taken, near, dn, ds, w, k, removal, after, hits, bid)


@export(_EVALUATE)
def evaluate_scalar(rows, stride, candidates, places, count, n, taken, near, dn, ds, w, k, removal, after, hits, bid):
    """What `evaluate` computes, without masks: the tests compare them."""
    return _evaluate_scalar(
        rows, stride, candidates, places, count, n, taken, near, dn, ds, w, k, removal, after, hits, bid
    )
