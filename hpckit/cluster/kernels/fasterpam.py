"""FasterPAM: candidates are judged by their rows, the distances of all objects to each."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.affected import AT_ONCE, affected_by_each, affected_scalar
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


def _evaluation(find):
    @njit
    def evaluate(
        rows, stride, candidates, places, count, n,
        taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
    ):  # fmt: skip
        no_proposal(proposal)
        kept, room = 0, n + 5
        for c in range(0, count, AT_ONCE):
            find(rows, stride, pointer_to(places, c), count - c, limit, n, affected)
            for t in range(AT_ONCE if count - c > AT_ONCE else count - c):
                j, place = candidates[c + t], places[c + t]
                if taken[j]:
                    continue
                for i in range(k):
                    after[i] = removal[i]
                gain = 0.0
                for h in range(affected[t * room]):
                    o = affected[t * room + 1 + h]
                    d, a = rint(rows[place * stride + o] * scale), dn[o]
                    gain += w[o] * types.float64(min(d, a) - a)
                    after[near[o]] += w[o] * types.float64(max(d, a) - ds[o])
                change = gain + _least(after, k)
                if change < 0:
                    candidates[kept], places[kept] = j, place
                    kept += 1
                    slot = 0
                    while gain + after[slot] != change:
                        slot += 1
                    offer(proposal, change, types.float64(j), types.float64(slot))
        return kept

    return evaluate


_evaluate = _evaluation(affected_by_each)
_evaluate_scalar = _evaluation(affected_scalar)
_EVALUATE = (
    "i8(f4*, i8, i8*, i8*, i8, i8, i8*, i4*, f4*, f4*, f8*, i8, f8*, f4*, f4, f8*, i8*, f8*)"
)


@export(_EVALUATE)
def evaluate(
    rows, stride, candidates, places, count, n,
    taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
):  # fmt: skip
    """The best swap among the candidates, as a proposal if it lowers the loss; how many would, now the
    first in their list.

    rows[places[c]*stride + o] * scale, rounded, is d of candidates[c], and below ds where rows[...]
    is below limit[o]; taken[j]: j is a medoid. `after` and `affected` are scratch.
    """
    return _evaluate(
        rows,
        stride,
        candidates,
        places,
        count,
        n,
        taken,
        near,
        dn,
        ds,
        w,
        k,
        removal,
        limit,
        scale,
        after,
        affected,
        proposal,
    )


@export(_EVALUATE)
def evaluate_scalar(
    rows, stride, candidates, places, count, n,
    taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
):  # fmt: skip
    """What `evaluate` computes, without masks: the tests compare them."""
    return _evaluate_scalar(
        rows,
        stride,
        candidates,
        places,
        count,
        n,
        taken,
        near,
        dn,
        ds,
        w,
        k,
        removal,
        limit,
        scale,
        after,
        affected,
        proposal,
    )
