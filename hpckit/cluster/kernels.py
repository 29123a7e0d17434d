"""Kernels of k-medoids: sources for numba, compiled by `hpckit.native`.

Distances are whole numbers of ticks, at most 2**24, in float32; every sum of them, times a weight, is a whole number
below 2**53 in float64. No sum is rounded, so the order of a loop, its vector width and the number of ranks are free.

Symbols, for n objects o, k slots i with one medoid each, and m candidates j that this rank owns:

    d         distance of object o to candidate j
    near, dn  slot and distance of the nearest medoid of o; among equals the lowest slot
    seco, ds  the same for the second; _FAR when there is one medoid only
    w         weight of object o
    removal   removal[i] = sum over near(o) = i of w (ds - dn): what losing medoid i costs

Putting candidate j in slot i changes the loss by

    sum over o of w (min(d, dn) - dn)  +  removal[i]  +  sum over near(o) = i of w (min(max(d, dn), ds) - ds)

(Schubert & Rousseeuw, Information Systems 101, 2021): one sweep over o serves all k slots.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from hpckit.native import export

_FAR = 16777216.0  # 2**24, no distance is larger
_LANES = 64  # objects per compare mask; rows of candidates are padded to a multiple
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding and subtracting it rounds to a whole number, halves to even
_TILE = 64


@intrinsic
def _bits(typing, x):
    """The bits of a float64: in the order of the values where they are not negative."""
    return types.uint64(types.float64), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
def _value(typing, bits):
    """The float64 of these bits."""
    return types.float64(types.uint64), lambda _, builder, __, args: builder.bitcast(args[0], ir.DoubleType())


@intrinsic
def _scratch(typing, like):
    """Room for a tile of the type that `like` points to, on the stack."""

    def codegen(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=_TILE * _TILE)

    return like(like), codegen


@intrinsic
def _transpose(typing, tile, ticks, start, stride):
    """ticks[start + i*stride + j] = tile[j*_TILE + i] for i, j < 16: blocks of 8, 4, 2 and 1 change places."""

    def codegen(context, builder, signature, arguments):
        tile, ticks, start, stride = arguments
        word, line = ir.IntType(64), ir.VectorType(ir.FloatType(), 16).as_pointer()

        def place(base, index):
            return builder.bitcast(builder.gep(base, [index]), line)

        rows = [builder.load(place(tile, word(j * _TILE)), align=4) for j in range(16)]
        for s in (8, 4, 2, 1):
            low = [lane if not lane & s else 16 + lane - s for lane in range(16)]
            high = [lane + s if not lane & s else 16 + lane for lane in range(16)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), 16), lanes) for lanes in (low, high)]
            for i in range(16):
                if not i & s:
                    pair = rows[i], rows[i + s]
                    rows[i], rows[i + s] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        for i, row in enumerate(rows):
            builder.store(row, place(ticks, builder.add(start, builder.mul(stride, word(i)))), align=4)
        return context.get_dummy_value()

    return types.none(tile, ticks, types.int64, types.int64), codegen


@intrinsic
def _from(typing, pointer, index):
    """The address of pointer[index], as a pointer."""
    return pointer(pointer, types.int64), lambda _, builder, __, args: builder.gep(args[0], [args[1]])


@intrinsic
def _below(typing, row, limit, start, o):
    """Mask of _LANES objects: bit t says row[start + o + t] < limit[o + t]."""

    def codegen(context, builder, signature, arguments):
        lanes = ir.VectorType(ir.FloatType(), _LANES).as_pointer()
        row, limit, start, o = arguments
        places = builder.gep(row, [builder.add(start, o)]), builder.gep(limit, [o])
        values = [builder.load(builder.bitcast(place, lanes), align=4) for place in places]
        return builder.bitcast(builder.fcmp_ordered("<", *values), ir.IntType(64))

    return types.uint64(row, limit, types.int64, types.int64), codegen


@intrinsic
def _population(typing, mask):
    """How many bits are set."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.ctpop(args[0])


@intrinsic
def _lowest(typing, mask):
    """The lowest bit that is set; 64 for none."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.cttz(args[0], ir.IntType(1)(0))


# -- distances to ticks ------------------------------------------------------------------------------------------------


@export("f8(f4*, i8, i8, i8, i8)", "f8(f8*, i8, i8, i8, i8)")
def largest(x, n0, n1, s0, s1):
    """Largest of x[i*s0 + j*s1]; infinite, NaN or negative as soon as one of them is."""
    top = types.uint64(0)
    for i in range(n0):
        for j in range(n1):
            bits = _bits(types.float64(x[i * s0 + j * s1]) + 0.0)  # + 0.0 makes -0.0 positive
            top = bits if bits > top else top
    return _value(top)


@njit(inline="always")
def _round(x, scale):
    return types.float32((types.float64(x) * scale + _ROUND) - _ROUND)


@njit
def _to_ticks_across(x, n0, n1, s1, scale, ticks, t0):
    """Transpose x[i + j*s1] by tiles; the scratch tile lets both the reads and the writes run along rows."""
    tile = _scratch(ticks)
    for i0 in range(0, n0, _TILE):
        rows = min(_TILE, n0 - i0)
        for j0 in range(0, n1, _TILE):
            columns = min(_TILE, n1 - j0)
            for j in range(columns):
                start = i0 + (j0 + j) * s1
                for i in range(rows):
                    tile[j * _TILE + i] = _round(x[start + i], scale)
            if rows == _TILE and columns == _TILE:
                for i in range(0, _TILE, 16):
                    for j in range(0, _TILE, 16):
                        _transpose(_from(tile, j * _TILE + i), ticks, (i0 + i) * t0 + j0 + j, t0)
            else:
                for i in range(rows):
                    start = (i0 + i) * t0 + j0
                    for j in range(columns):
                        ticks[start + j] = tile[j * _TILE + i]


@njit
def _to_ticks_along(x, n0, n1, s0, scale, ticks, t0):
    """Rows, piece by piece through the scratch tile, so that LLVM vectorises although `ticks` may be `x`."""
    tile = _scratch(ticks)
    for i in range(n0):
        for j0 in range(0, n1, _TILE * _TILE):
            columns = min(_TILE * _TILE, n1 - j0)
            for j in range(columns):
                tile[j] = _round(x[i * s0 + j0 + j], scale)
            for j in range(columns):
                ticks[i * t0 + j0 + j] = tile[j]


@export("void(f4*, i8, i8, i8, i8, f8, f4*, i8)", "void(f8*, i8, i8, i8, i8, f8, f4*, i8)")
def to_ticks(x, n0, n1, s0, s1, scale, ticks, t0):
    """ticks[i*t0 + j] = round(x[i*s0 + j*s1] * scale); `ticks` may be `x` if s1 = 1."""
    if s1 == 1:
        _to_ticks_along(x, n0, n1, s0, scale, ticks, t0)
    elif s0 == 1:
        _to_ticks_across(x, n0, n1, s1, scale, ticks, t0)
    else:
        for i in range(n0):
            for j in range(n1):
                ticks[i * t0 + j] = _round(x[i * s0 + j * s1], scale)


# -- state of the objects ----------------------------------------------------------------------------------------------


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


# -- the best of several -----------------------------------------------------------------------------------------------
#
# A bid is three float64: change of the loss, candidate, slot; a candidate of -1 is no bid. The lowest change wins, then
# the lowest candidate, then the lowest slot.


@njit
def _no_bid(bid):
    bid[0], bid[1], bid[2] = 0.0, -1.0, -1.0


@njit
def _offer(bid, change, candidate, slot):
    if bid[1] < 0 or change < bid[0] or (change == bid[0] and candidate < bid[1]):
        bid[0], bid[1], bid[2] = change, candidate, slot


@export("i8(f8*, i8)")
def winner(bids, size):
    """Which rank's bid is the best; -1 when there is none."""
    best = -1
    for rank in range(size):
        if bids[3 * rank + 1] >= 0 and (
            best < 0
            or bids[3 * rank] < bids[3 * best]
            or (bids[3 * rank] == bids[3 * best] and bids[3 * rank + 1] < bids[3 * best + 1])
        ):
            best = rank
    return best


# -- FasterPAM: rows of candidates -------------------------------------------------------------------------------------


@njit
def _hits(row, start, ds, length, hits):
    """Objects with d < ds, the only ones that a candidate changes; `length` is a multiple of _LANES.

    Four places are written whatever the mask, so that sparse masks cost no mispredicted branch; `hits` has room.
    """
    count = 0
    for o in range(0, length, _LANES):
        mask = _below(row, ds, start, o)
        end = count + _population(mask)
        for t in range(4):
            hits[count + t] = o + _lowest(mask)
            mask &= mask - types.uint64(1)
        count += 4
        while count < end:
            hits[count] = o + _lowest(mask)
            mask &= mask - types.uint64(1)
            count += 1
        count = end
    return count


@njit
def _hits_scalar(row, start, ds, length, hits):
    """The same, object by object."""
    count = 0
    for o in range(length):
        if row[start + o] < ds[o]:
            hits[count] = o
            count += 1
    return count


@njit
def _least(values, n):
    """The least of values that are not negative: compared by their bits, which vectorises."""
    least = _bits(values[0])
    for i in range(1, n):
        bits = _bits(values[i])
        least = bits if bits < least else least
    return _value(least)


def _evaluation(find):
    @njit
    def evaluate(rows, length, first, todo, count, taken, near, dn, ds, w, k, removal, after, hits, improving, bid):
        _no_bid(bid)
        kept = 0
        for c in range(count):
            j = todo[c]
            if taken[j]:
                continue
            start = (j - first) * length
            for i in range(k):
                after[i] = removal[i]
            gain = 0.0
            for h in range(find(rows, start, ds, length, hits)):
                o = hits[h]
                d, a = rows[start + o], dn[o]
                gain += w[o] * types.float64(min(d, a) - a)
                after[near[o]] += w[o] * types.float64(max(d, a) - ds[o])
            change = gain + _least(after, k)
            if change < 0:
                improving[kept] = j
                kept += 1
                slot = 0
                while gain + after[slot] != change:
                    slot += 1
                _offer(bid, change, types.float64(j), types.float64(slot))
        return kept

    return evaluate


_evaluate = _evaluation(_hits)
_evaluate_scalar = _evaluation(_hits_scalar)
_EVALUATE = "i8(f4*, i8, i8, i8*, i8, i8*, i4*, f4*, f4*, f8*, i8, f8*, f8*, i8*, i8*, f8*)"


@export(_EVALUATE)
def evaluate(rows, length, first, todo, count, taken, near, dn, ds, w, k, removal, after, hits, improving, bid):
    """The best swap among the candidates `todo`, as a bid if it lowers the loss; how many would, listed in `improving`.

    rows[(j - first)*length + o] = d; taken[j]: j is a medoid. `after` and `hits` are scratch. `improving` may be
    `todo` itself.
    """
    return _evaluate(rows, length, first, todo, count, taken, near, dn, ds, w, k, removal, after, hits, improving, bid)


@export(_EVALUATE)
def evaluate_scalar(rows, length, first, todo, count, taken, near, dn, ds, w, k, removal, after, hits, improving, bid):
    """What `evaluate` computes, without masks: the tests compare them."""
    return _evaluate_scalar(
        rows, length, first, todo, count, taken, near, dn, ds, w, k, removal, after, hits, improving, bid
    )


# -- exact PAM: rows of objects ----------------------------------------------------------------------------------------


@export("void(f4*, i8, i8*, i8, i4*, f4*, f4*, i4*, f4*, f4*, f8*, f8*, f8*)")
def update(block, m, changed, count, near_was, dn_was, ds_was, near, dn, ds, w, gain, shift):
    """Replace what the changed objects contribute to the gains of all candidates (Resende & Werneck 2007).

    gain[j] is the first sum of the module's text, shift[i*m + j] the second; block[o*m + j] = d.
    """
    for c in range(count):
        o = changed[c]
        row, weight = o * m, w[o]
        a, b, a_was, b_was = dn[o], ds[o], dn_was[c], ds_was[c]
        new, old = near[o] * m, near_was[c] * m
        if new == old:
            for j in range(m):
                d = block[row + j]
                gain[j] += weight * types.float64((min(d, a) - a) - (min(d, a_was) - a_was))
                now, was = min(max(d, a), b) - b, min(max(d, a_was), b_was) - b_was
                shift[new + j] += weight * types.float64(now - was)
        else:
            for j in range(m):
                d = block[row + j]
                gain[j] += weight * types.float64((min(d, a) - a) - (min(d, a_was) - a_was))
                shift[new + j] += weight * types.float64(min(max(d, a), b) - b)
                shift[old + j] -= weight * types.float64(min(max(d, a_was), b_was) - b_was)


@export("void(f8*, f8*, f8*, i8, i8, i8, i8*, f8*, f8*, f8*)")
def best_swap(gain, shift, removal, k, m, first, taken, lowest, slots, bid):
    """The best swap of all candidates, as a bid if it lowers the loss; `lowest` and `slots` are scratch of m."""
    _no_bid(bid)
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
            _offer(bid, change, types.float64(first + j), slots[j])


# -- BUILD: either layout ----------------------------------------------------------------------------------------------


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
    """How much more a candidate at distance d gains by an object whose medoid was at `old` and is at `new`."""
    return types.float64((new - min(d, new)) - (old - min(d, old)))


@export("void(f4*, i8, i8, i8, i8*, i8, f4*, f4*, f8*, f8*)")
def build_update(block, so, sj, m, changed, count, dn_was, dn, w, gain):
    """gain[j] = sum of w max(dn - d, 0) after the changed objects came nearer; block[o*so + j*sj] = d."""
    if sj == 1:
        for c in range(count):
            o = changed[c]
            start, new, old, weight = o * so, dn[o], dn_was[c], w[o]
            for j in range(m):
                gain[j] += weight * _nearer(block[start + j], new, old)
    else:
        for j in range(m):
            start, sum = j * sj, 0.0
            for c in range(count):
                o = changed[c]
                sum += w[o] * _nearer(block[start + o * so], dn[o], dn_was[c])
            gain[j] += sum


@export("void(f8*, i8, i8, i8*, f8*)")
def best_addition(gain, m, first, taken, bid):
    """The candidate whose addition gains most, as a bid."""
    _no_bid(bid)
    for j in range(m):
        if not taken[first + j]:
            _offer(bid, -gain[j], types.float64(first + j), 0.0)


# -- metrics without a matrix product: tile[i*t + j] from objects x[i*dim + c] and, transposed, y[c*t + j] -------------


@export("void(f8*, f8*, i8, i8, f8*)")
def manhattan(x, y, t, dim, tile):
    """Sum of |x - y|, coordinate after coordinate."""
    for i in range(t):
        for j in range(t):
            tile[i * t + j] = 0.0
        for c in range(dim):
            a = x[i * dim + c]
            for j in range(t):
                tile[i * t + j] += abs(a - y[c * t + j])


@export("void(f8*, f8*, i8, i8, f8*)")
def chebyshev(x, y, t, dim, tile):
    """Largest |x - y|."""
    for i in range(t):
        for j in range(t):
            tile[i * t + j] = 0.0
        for c in range(dim):
            a = x[i * dim + c]
            for j in range(t):
                tile[i * t + j] = max(tile[i * t + j], abs(a - y[c * t + j]))


@export("void(f8*, f8*, i8, i8, f8*)")
def hamming(x, y, t, dim, tile):
    """Fraction of coordinates that differ."""
    for i in range(t):
        for j in range(t):
            tile[i * t + j] = 0.0
        for c in range(dim):
            a = x[i * dim + c]
            for j in range(t):
                tile[i * t + j] += 1.0 if a != y[c * t + j] else 0.0
        for j in range(t):
            tile[i * t + j] /= dim


@export("void(f8*, f8*, f8*, f8*, i8, i8, f8, f8*)")
def refine(x, y, xx, yy, t, dim, tolerance, tile):
    """Squared distances that lost their digits in |x|^2 + |y|^2 - 2 x.y, again from the differences.

    Those below tolerance * (xx[i] + yy[j]); y[j*dim + c] is not transposed here.
    """
    for i in range(t):
        for j in range(t):
            if tile[i * t + j] < tolerance * (xx[i] + yy[j]):
                square = 0.0
                for c in range(dim):
                    difference = x[i * dim + c] - y[j * dim + c]
                    square += difference * difference
                tile[i * t + j] = square
