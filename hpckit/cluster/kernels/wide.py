"""The kernels that add distances beyond what a common tick can hold: float32, exact sums.

A sum is a whole number of 2**-149, of which every float32 is a multiple, in two's complement: LIMBS
words of 64 bits, the lowest first, so that sum i of an array begins at word LIMBS*i. They hold
2**29 times the largest float32. As no addition rounds, no order of additions matters; what is
compared, or leaves a kernel, is the nearest float64.

Each kernel is called as the one of its name in the modules beside, with `removal`, `gain` and
`shift` as sums; its distances are what rows hold, without scale. Terms that are equal cancel before
they are added: most do.
"""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.fasterpam import evaluation
from hpckit.cluster.kernels.intrinsics import bits32, leading, value, words
from hpckit.cluster.kernels.proposals import no_proposal, offer
from hpckit.cluster.kernels.state import noted
from hpckit.native import export

LIMBS = 5
_FAR = 3.4028234663852886e38  # the largest float32, no distance is larger
_HALF = types.uint64(2**63)
_ONE, _NONE = types.uint64(1), types.uint64(0)


@njit(inline="always")
def _add_term(sums, i, w, x, flip):
    """sums[i] += w*x, or with all ones in `flip` -= w*x, as -(-a + b) = a - b and ~a = -a - 1."""
    pattern = bits32(x) & types.uint32(0x7FFFFFFF)
    shift, digits = (
        types.int64(pattern >> types.uint32(23)),
        types.uint64(pattern & types.uint32(0x7FFFFF)),
    )
    if shift > 0:
        shift, digits = shift - 1, digits | types.uint64(0x800000)
    digits *= types.uint64(types.int64(w))  # below 2**53
    low = types.uint64(shift & 63)
    at, end = LIMBS * i + (shift >> 6), LIMBS * (i + 1)
    part = digits << low
    total = (sums[at] ^ flip) + part
    carry = _ONE if total < part else _NONE
    sums[at] = total ^ flip
    part = ((digits >> _ONE) >> (types.uint64(63) - low)) + carry  # does not overflow
    at += 1
    while part != _NONE and at < end:
        total = (sums[at] ^ flip) + part
        sums[at] = total ^ flip
        part = _ONE if total < part else _NONE
        at += 1


@njit
def _put(sums, i, w, plus, minus):
    """sums[i] += w (plus - minus)."""
    if plus != minus and w != 0:
        _add_term(sums, i, w, plus, _NONE)
        _add_term(sums, i, w, minus, ~_NONE)


@njit
def _add(sums, i, others, j):
    """sums[i] += others[j]."""
    carry = _NONE
    for limb in range(LIMBS):
        part = others[LIMBS * j + limb]
        first = sums[LIMBS * i + limb] + part
        total = first + carry
        carry = _ONE if first < part or total < first else _NONE
        sums[LIMBS * i + limb] = total


@njit
def _copy(sums, i, others, j):
    for limb in range(LIMBS):
        sums[LIMBS * i + limb] = others[LIMBS * j + limb]


@njit
def _clear(sums, i):
    for limb in range(LIMBS):
        sums[LIMBS * i + limb] = _NONE


@njit
def _nearest(sums, i):
    """The float64 nearest to a sum."""
    first, high = LIMBS * i, LIMBS - 1
    negative = sums[first + high] >= _HALF
    lowest = 0
    while lowest < high and sums[first + lowest] == _NONE:
        lowest += 1
    while high > lowest and _size(sums, first, high, lowest, negative) == _NONE:
        high -= 1
    word, next_word = _size(sums, first, high, lowest, negative), _NONE
    if word == _NONE:
        return 0.0
    if high > lowest:
        next_word = _size(sums, first, high - 1, lowest, negative)
    zeros = leading(word)
    if zeros > 0:  # the 64 highest bits, and whether any other is set: so they are rounded once
        word = (word << types.uint64(zeros)) | (next_word >> types.uint64(64 - zeros))
        next_word <<= types.uint64(zeros)
    if next_word != _NONE or high > lowest + 1:
        word |= _ONE
    size = types.float64(word) * value(
        types.uint64(64 * high - zeros - 149 + 1023) << types.uint64(52)
    )
    return -size if negative else size


@njit(inline="always")
def _size(sums, first, limb, lowest, negative):
    """A limb, not below the lowest that is not 0, of the sum without its sign."""
    word = sums[first + limb]
    if negative:
        word = ~word + (_ONE if limb == lowest else _NONE)
    return word


@export("void(u8*, i8, f8*)")
def values(sums, n, nearest):
    """nearest[i] = the float64 nearest to sums[i]."""
    for i in range(n):
        nearest[i] = _nearest(sums, i)


@export("void(i4*, i8, i4*, i4*, f4*, f4*, f4*, f4, f8*, u8*, i8*, i4*, f4*, f4*, u8*)")
def change(
    changes,
    count,
    near,
    seco,
    dn,
    ds,
    limit,
    tick,
    w,
    removal,
    changed,
    near_was,
    dn_was,
    ds_was,
    loss,
):
    """As `state.change`; `loss` is one sum."""
    for c in range(count):
        o, first, second, new, next_new = noted(changes, c)
        _put(removal, types.int64(near[o]), w[o], dn[o], ds[o])
        _put(removal, first, w[o], next_new, new)
        _put(loss, 0, w[o], new, dn[o])
        changed[c], near_was[c], dn_was[c], ds_was[c] = o, near[o], dn[o], ds[o]
        near[o], seco[o], dn[o], ds[o] = first, second, new, next_new
        limit[o] = next_new


@njit(inline="always")
def _start(after, removal, k):
    for i in range(k):
        _copy(after, i, removal, i)
    _clear(after, k)


@njit(inline="always")
def _concern(after, k, gain, slot, weight, d, dn, ds):
    _put(after, k, weight, min(d, dn), dn)
    _put(after, types.int64(slot), weight, max(d, dn), ds)
    return gain


@njit(inline="always")
def _least_change(after, k, gain):
    least, slot = 0.0, 0
    for i in range(k):
        _add(after, i, after, k)
        change = _nearest(after, i)
        if change < least:
            least, slot = change, i
    return least, slot


@njit(inline="always")
def _slot_of(after, gain, change, slot):
    return slot


_itself = njit(lambda x, scale: x)
_evaluate = evaluation(_itself, _start, _concern, _least_change, _slot_of)


@export("i8(f4*, i8, i8*, i8*, i8, i8, i8*, i4*, f4*, f4*, f8*, i8, u8*, f4*, f4, u8*, i8*, f8*)")
def evaluate(
    rows, stride, candidates, places, count, n,
    taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
):  # fmt: skip
    """As `fasterpam.evaluate`; `after` begins with k sums after each slot's loss, then the gain."""
    return _evaluate(
        rows, stride, candidates, places, count, n,
        taken, near, dn, ds, w, k, removal, limit, scale, after, affected, proposal,
    )  # fmt: skip


@export("void(f4*, i8, i8*, f4, i8*, i4*, f4*, f4*, i8, i8, i4*, f4*, f4*, f8*, u8*, u8*)")
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
    """As `pam.update`."""
    for c in range(count):
        o = changed[c]
        row, weight = places[c] * stride, w[o]
        a, b, a_was, b_was = dn[o], ds[o], dn_was[c], ds_was[c]
        new, old = types.int64(near[o]) * m, types.int64(near_was[c]) * m
        for j in range(m):
            d = rows[row + j]
            if d >= b and d >= b_was:
                continue
            _put(gain, j, weight, min(d, a), a)
            _put(gain, j, weight, a_was, min(d, a_was))
            _put(shift, new + j, weight, min(max(d, a), b), b)
            _put(shift, old + j, weight, b_was, min(max(d, a_was), b_was))


@export("void(u8*, u8*, u8*, i8, i8, i8, i8*, f8*, f8*, f8*)")
def best_swap(gain, shift, removal, k, m, first, taken, lowest, slots, proposal):
    """As `pam.best_swap`."""
    no_proposal(proposal)
    total = words()
    for j in range(m):
        lowest[j] = 0.0
    for i in range(k):
        for j in range(m):
            _copy(total, 0, gain, j)
            _add(total, 0, shift, i * m + j)
            _add(total, 0, removal, i)
            change = _nearest(total, 0)
            if change < lowest[j]:
                lowest[j], slots[j] = change, types.float64(i)
    for j in range(m):
        if lowest[j] < 0 and not taken[first + j]:
            offer(proposal, lowest[j], types.float64(first + j), slots[j])


@njit(inline="always")
def _come_nearer(gain, j, weight, d, new, old):
    """What a candidate gains: x - min(d, x); -d of those not served yet, without `_FAR`."""
    far = types.float32(_FAR)
    _put(gain, j, weight, types.float32(0.0) if new == far else new, min(d, new))
    _put(gain, j, weight, min(d, old), types.float32(0.0) if old == far else old)


@export("void(f4*, i8, i8*, f4, i8, i8*, f4*, i8, f4*, f8*, u8*)")
def update_by_object(rows, stride, places, scale, m, changed, dn_was, count, dn, w, gain):
    """As `build.update_by_object`."""
    for c in range(count):
        o, start = changed[c], places[c] * stride
        for j in range(m):
            _come_nearer(gain, j, w[o], rows[start + j], dn[o], dn_was[c])


@export("void(f4*, i8, i8*, f4, i8, i8*, f4*, i8, f4*, f8*, u8*)")
def update_by_candidate(rows, stride, places, scale, m, changed, dn_was, count, dn, w, gain):
    """As `build.update_by_candidate`."""
    for j in range(m):
        start = places[j] * stride
        for c in range(count):
            o = changed[c]
            _come_nearer(gain, j, w[o], rows[start + o], dn[o], dn_was[c])


@export("void(u8*, i8, i8, i8*, f8*)")
def best_addition(gain, m, first, taken, proposal):
    """As `build.best_addition`."""
    no_proposal(proposal)
    for j in range(m):
        if not taken[first + j]:
            offer(proposal, -_nearest(gain, j), types.float64(first + j), 0.0)


@export("void(f4*, i8, i8*, i8*, i8, i4*, i8*, i8*, f8*, f8*, i8*)")
def centre(rows, stride, places, candidates, count, near, members, starts, w, least, best):
    """As `alternate.centre`."""
    cost = words()
    for c in range(count):
        j, start = candidates[c], places[c] * stride
        slot = near[j]
        _clear(cost, 0)
        for member in range(starts[slot], starts[slot + 1]):
            o = members[member]
            _put(cost, 0, w[o], rows[start + o], types.float32(0.0))
        total = _nearest(cost, 0)
        if total < least[slot]:
            least[slot], best[slot] = total, j


@export("void(f4*, i8, i8*, i8*, i8, i8, i8*, u8*)")
def add_rows(rows, stride, places, candidates, count, n, clusters, sums):
    """As `silhouette.add_rows`."""
    for c in range(count):
        j, start = candidates[c], places[c] * stride
        into = clusters[j] * n
        for o in range(n):
            if o != j:
                _put(sums, into + o, 1.0, rows[start + o], types.float32(0.0))
