"""Kernel source: elementwise reductions, and the protocols of an allreduce in a node's memory.

Compiled by `hpckit.native`, used through `hpckit.collectives.algorithms.shared`. The reductions
`sum_f8`, `max_u2`, ... combine `n` bytes of some arrays, in their order; the result may replace one
of them.

A protocol is a kernel that goes as far as it can: `mode` says which operation it begins, GO_ON that
it goes on with what was begun. It returns DONE; LATE, to be called again, when a rank did not come
within so many polls (its number is then in the table); or REDUCE, to be called again when the
caller has combined the arrays that the table's pointers name, where no kernel does that. Counters
only rise, so nothing is ever reset.

Why this is safe: a rank writes its data first and then its counter with release order; who has read
that counter with acquire order sees the data. That is all the order there is, so each protocol says
which counter proves that a place may be read, and which that it may be written again.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hpckit.collectives.kernels.fold import REGISTERS, fold
from hpckit.collectives.kernels.table import (
    ALLGATHER,
    AT,
    COUNTERS,
    DONE,
    LATE,
    REDUCE,
    REDUCE_SCATTER,
)
from hpckit.comm.moves import copy_bytes
from hpckit.machine.spin_kernels import get, put, reaches, release
from hpckit.native import export

BLOCK = 4096  # bytes reduced before they are copied to the others: they stay in the nearest cache

# -- reductions


def _reduction(name, kind, size):
    whole, single = fold(name, kind, size, REGISTERS), fold(name, kind, size, size)

    def reduce(target, pointers, ranks, offset, n):
        wide = n - n % REGISTERS
        done = 0
        while done < wide:
            whole(target + done, pointers, ranks, offset + done)
            done += REGISTERS
        while done < n:
            single(target + done, pointers, ranks, offset + done)
            done += size

    reduce.__name__ = f"{name}_{kind}{size}"
    export("void(i8, i8, i8, i8, i8)")(reduce)


_INTEGERS, _FLOATS = [("i", 1), ("i", 2), ("i", 4), ("i", 8)], [("f", 2), ("f", 4), ("f", 8)]
_UNSIGNED, _COMPLEX = [("u", size) for _, size in _INTEGERS], [("c", 8), ("c", 16)]

for _names, _kinds in (
    ("sum", _INTEGERS + _FLOATS),
    ("prod", _INTEGERS + _FLOATS + _COMPLEX),
    ("min max", _INTEGERS + _UNSIGNED + _FLOATS),
    ("land lor lxor", _INTEGERS),
    ("band bor bxor", _INTEGERS[:1]),
):
    for _name in _names.split():
        for _kind, _size in _kinds:
            _reduction(_name, _kind, _size)


# -- floats as integers that are in the same order, which MPI compares as the rule says


def _ordered(size):
    infinity, highest = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0 << 48}[size], (1 << (8 * size - 1)) - 1
    canonical, sign = infinity | (infinity >> 1) & ~infinity, 8 * size - 1

    def order(integers, floats, nan, n):
        """Negative numbers and -0 below the others; NaN is `nan`, the greatest or the least."""
        for i in range(n):
            bits = floats[i]
            integers[i] = nan if bits & highest > infinity else bits ^ ((bits >> sign) & highest)

    def restore(floats, n):
        """In place; NaN without its payload."""
        for i in range(n):
            bits = floats[i] ^ ((floats[i] >> sign) & highest)
            floats[i] = canonical if bits & highest > infinity else bits

    def clean(floats, n):
        """NaN loses its payload; where there is none, nothing is written."""
        start = 0
        while start < n:
            end, top = min(start + BLOCK // size, n), 0
            for i in range(start, end):
                top = max(top, floats[i] & highest)
            if top > infinity:
                for i in range(start, end):
                    floats[i] = canonical if floats[i] & highest > infinity else floats[i]
            start = end

    order.__name__, restore.__name__, clean.__name__ = (
        f"order_f{size}",
        f"restore_f{size}",
        f"clean_f{size}",
    )
    export(f"void(i{size}*, i8)")(clean)
    export(f"void(i{size}*, i{size}*, i8, i8)")(order)
    export(f"void(i{size}*, i8)")(restore)


for _size in (2, 4, 8):
    _ordered(_size)


# -- what the protocols have in common


@intrinsic
def _call(typing, function, target, pointers, ranks, offset, n):
    """The reduction at the address `function`."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 5)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@njit
def _least(a, b):
    return a if a < b else b


@njit
def _all_reach(table, counter, value, polls):
    """Wait for the counter `counter` bytes into each rank's memory to reach `value`."""
    other = get(table, AT.awaited)
    while other < get(table, AT.ranks):
        if not reaches(
            get(get(table, AT.bases), other) + counter, value, polls, get(table, AT.eager)
        ):
            put(table, AT.awaited, other)
            return False
        other += 1
    put(table, AT.awaited, 0)
    return True


@njit
def _combine(table, offset, n):
    """Reduce `n` bytes, `offset` bytes after the pointers, in the order of the ranks."""
    if n > 0:
        _call(
            get(table, AT.reduction),
            get(table, AT.result) + offset,
            get(table, AT.pointers),
            get(table, AT.ranks),
            offset,
            n,
        )


@njit
def _is_callers(table):
    """Whether there is something to reduce that no kernel can."""
    return get(table, AT.reduction) == 0 and get(table, AT.length) > 0


@njit
def _begin(table, mode):
    if mode:
        put(table, AT.stage, 1)
        put(table, AT.step, 0)
        put(table, AT.mode, mode)


# -- slots: everyone writes its array to a slot of its own, and reduces all slots
#
# Two slots alternate: whoever writes slot k + 2 has seen everyone's k + 1, and they had read all
# slots k by then. The counter lies in the slot's first line, beside the data, so that a small array
# costs one cache line.


@export("i8(i8, i8, i8)")
def slots(table, mode, polls):
    """Allreduce of small arrays (no halves)."""
    _begin(table, mode)
    k = get(table, AT.counter)
    if mode:
        k += 1
        put(table, AT.counter, k)
        slot = get(get(table, AT.bases), get(table, AT.rank)) + (k & 1) * get(table, AT.slot)
        copy_bytes(slot + 8, get(table, AT.source), get(table, AT.length))
        release(slot, k)
    if get(table, AT.stage) == 1:
        if not _all_reach(table, (k & 1) * get(table, AT.slot), k, polls):
            return LATE
        put(table, AT.pointers, get(table, AT.odd if k & 1 else AT.even))
        put(table, AT.stage, 0)
        if _is_callers(table):
            return REDUCE
        _combine(table, 0, get(table, AT.length))
    return DONE


# -- direct: the arrays themselves are in shared memory


@njit
def _share_directly(table, offset, n):
    """Copy part of our slice, which is complete, to everyone."""
    own = get(table, AT.result) + offset
    for other in range(get(table, AT.ranks)):
        if other != get(table, AT.rank):
            copy_bytes(get(get(table, AT.targets), other) + own - get(table, AT.target), own, n)


@njit
def _arrive(table):
    count = get(table, AT.counter) + 1
    put(table, AT.counter, count)
    release(get(get(table, AT.bases), get(table, AT.rank)), count)


@export("i8(i8, i8, i8)")
def direct(table, mode, polls):
    """Rank r reduces slice r of all arrays where they are, for all; a barrier before and after."""
    _begin(table, mode)
    if mode & REDUCE_SCATTER:
        _arrive(table)
    if get(table, AT.stage) == 1:
        if get(table, AT.mode) & REDUCE_SCATTER and not _all_reach(
            table, 0, get(table, AT.counter), polls
        ):
            return LATE
        put(table, AT.stage, 2)
        if get(table, AT.mode) & REDUCE_SCATTER and _is_callers(table):
            return REDUCE
    if get(table, AT.stage) == 2:
        offset, n = 0, get(table, AT.length)
        while offset < n:
            part = _least(BLOCK, n - offset)
            if get(table, AT.mode) & REDUCE_SCATTER and not _is_callers(table):
                _combine(table, offset, part)
            if get(table, AT.mode) & ALLGATHER:
                _share_directly(table, offset, part)
            offset += BLOCK
        put(table, AT.stage, 3)
        if get(table, AT.mode) & ALLGATHER:
            _arrive(table)
    if get(table, AT.stage) == 3:
        if get(table, AT.mode) & ALLGATHER and not _all_reach(
            table, 0, get(table, AT.counter), polls
        ):
            return LATE
        put(table, AT.stage, 0)
    return DONE


# -- staged: arrays that nobody else can see, through pieces small enough for the caches
#
# Each rank's memory holds, twice: a piece of every slice, what it contributes to the others; and a
# piece of its own slice, complete. Counter `posted` = j says that our contributions to pieces < j
# can be read, `reduced` = j that our pieces < j are complete. In step t a rank collects what others
# completed of piece t - 2, contributes to piece t and reduces piece t - 1, so that others have a
# whole step for what it waits for. That one may overwrite: all have reduced t - 2 before anyone
# contributes t, and have collected t - 3 before they post t - 1.


@njit
def _piece(table, owner, j):
    """(offset in the array, length) of piece j of the owner's slice."""
    cuts, most = get(table, AT.cuts), get(table, AT.piece)
    start = get(cuts, owner) + j * most
    n = _least(most, get(cuts, owner + 1) - start)
    return start, n if n > 0 else 0


@njit
def _contributed(table, rank, owner, j):
    """Address of what `rank` contributes to piece j of the owner's slice."""
    parts = get(table, AT.ranks) + 1
    return (
        get(get(table, AT.bases), rank)
        + COUNTERS
        + (((get(table, AT.counter) + j) & 1) * parts + owner) * get(table, AT.piece)
    )


@njit
def _completed(table, owner, j):
    return _contributed(table, owner, get(table, AT.ranks), j)


@njit
def _collect(table, j):
    for owner in range(get(table, AT.ranks)):
        if owner != get(table, AT.rank):
            start, n = _piece(table, owner, j)
            copy_bytes(get(table, AT.target) + start, _completed(table, owner, j), n)


@njit
def _contribute(table, j):
    rank = get(table, AT.rank)
    for owner in range(get(table, AT.ranks)):
        if owner != rank:
            start, n = _piece(table, owner, j)
            copy_bytes(_contributed(table, rank, owner, j), get(table, AT.source) + start, n)


@njit
def _point_at(table, j):
    """Let the pointers name what all ranks contribute to piece j of our slice."""
    rank = get(table, AT.rank)
    start, n = _piece(table, rank, j)
    for other in range(get(table, AT.ranks)):
        put(get(table, AT.pointers), other, _contributed(table, other, rank, j))
    put(get(table, AT.pointers), rank, get(table, AT.source) + start)
    put(table, AT.result, get(table, AT.target) + start)
    put(table, AT.length, n)


@export("i8(i8, i8, i8)")
def staged(table, mode, polls):
    """Rank r reduces slice r, piece by piece, from memory to which all ranks copy their parts."""
    _begin(table, mode)
    base = get(get(table, AT.bases), get(table, AT.rank))
    pieces, done, mode = get(table, AT.pieces), get(table, AT.counter), get(table, AT.mode)
    while get(table, AT.stage):
        stage, t = get(table, AT.stage), get(table, AT.step)
        if stage == 1:
            if t >= 2:
                if not _all_reach(table, COUNTERS // 2, done + t - 1, polls):
                    return LATE
                if mode & ALLGATHER:
                    _collect(table, t - 2)
            if t < pieces:
                if mode & REDUCE_SCATTER:
                    _contribute(table, t)
                release(base, done + t + 1)
            put(table, AT.stage, 2)
        elif stage == 2:
            put(table, AT.stage, 3)
            if 1 <= t <= pieces:
                if not _all_reach(table, 0, done + t, polls):
                    put(table, AT.stage, 2)
                    return LATE
                _point_at(table, t - 1)
                if mode & REDUCE_SCATTER and _is_callers(table):
                    return REDUCE
                if mode & REDUCE_SCATTER:
                    _combine(table, 0, get(table, AT.length))
        else:
            if 1 <= t <= pieces:
                if mode & ALLGATHER:
                    copy_bytes(
                        _completed(table, get(table, AT.rank), t - 1),
                        get(table, AT.result),
                        get(table, AT.length),
                    )
                release(base + COUNTERS // 2, done + t)
            put(table, AT.step, t + 1)
            put(table, AT.stage, 1)
            if t == pieces + 1:
                put(table, AT.counter, done + pieces)
                put(table, AT.stage, 0)
    return DONE
