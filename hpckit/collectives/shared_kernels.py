"""Kernel source: elementwise reductions, and the protocols of an allreduce among ranks that share a
node's memory.

Compiled by `hpckit.native`, used through `hpckit.collectives.shared`. The reductions `sum_f8`,
`max_u2`, ... combine `n` bytes of some arrays, in their order; the result may replace one of them.

A protocol is a kernel that goes as far as it can: `mode` 1 begins a reduce_scatter, 2 an allgather,
3 an allreduce, 0 goes on with what was begun. It returns DONE; LATE, to be called again, when a
rank did not come within `patience` polls (its number is then in the plan); or REDUCE, to be called
again when the caller has combined the arrays that the plan's pointers name, where no kernel does
that. Counters only rise, so nothing is ever reset.

A plan is an int64 table of the words named below; offsets and lengths are in bytes.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hpckit.collectives.fold_kernels import REGISTERS, fold
from hpckit.comm.moves import copy_bytes
from hpckit.machine.spin_kernels import get, put, reaches, release
from hpckit.native import export

DONE, LATE, REDUCE = 0, 1, 2
BLOCK = (
    4096  # bytes reduced before they are copied to the others: they stay in the first-level cache
)
COUNTERS = 256  # bytes before the data in each rank's memory: two counters, 128 bytes apart

# The words of a plan.
COUNTER, STAGE, STEP, MODE = (
    0,
    1,
    2,
    3,
)  # state: what we have posted; where in which operation we are
AWAITED, EAGER = 4, 5  # the rank that we wait for; polls before yielding the core
RANK, RANKS, REDUCTION, BASES = (
    6,
    7,
    8,
    9,
)  # address of a reduction, or 0; of a table of each rank's memory for the plan
POINTERS, RESULT, LENGTH = (
    10,
    11,
    12,
)  # what is reduced next: table of what the ranks contribute; where the sum goes
SOURCE, TARGET = 13, 14  # own arrays
EVEN, ODD, SLOT = 15, 16, 17  # slots: pointers of even and of odd calls; length of a slot
TARGETS = 15  # direct: table of each rank's target
CUTS, PIECES, PIECE = (
    15,
    16,
    17,
)  # staged: table of where each rank's slice begins; pieces of a slice; length of one

# -- reductions
# ------------------------------------------------------------------------------------------------------


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
# -------------------------------


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
# -------------------------------------------------------------------------------


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
def _all_reach(plan, counter, value, patience):
    """Wait until the counter that lies `counter` bytes into each rank's memory has reached
    `value`.
    """
    other = get(plan, AWAITED)
    while other < get(plan, RANKS):
        if not reaches(get(get(plan, BASES), other) + counter, value, patience, get(plan, EAGER)):
            put(plan, AWAITED, other)
            return False
        other += 1
    put(plan, AWAITED, 0)
    return True


@njit
def _combine(plan, offset, n):
    """Reduce `n` bytes, `offset` bytes after the pointers, in the order of the ranks."""
    if n > 0:
        _call(
            get(plan, REDUCTION),
            get(plan, RESULT) + offset,
            get(plan, POINTERS),
            get(plan, RANKS),
            offset,
            n,
        )


@njit
def _is_callers(plan):
    """Whether there is something to reduce that no kernel can."""
    return get(plan, REDUCTION) == 0 and get(plan, LENGTH) > 0


@njit
def _begin(plan, mode):
    if mode:
        put(plan, STAGE, 1)
        put(plan, STEP, 0)
        put(plan, MODE, mode)


# -- slots: everyone writes its array to a slot of its own, and reduces all slots
# -----------------------------------
#
# Two slots alternate: whoever writes slot k + 2 has seen everyone's k + 1, and they had read all
# slots k by then. The counter lies in the slot's first line, beside the data, so that a small array
# costs one cache line.


@export("i8(i8, i8, i8)")
def slots(plan, mode, patience):
    """Allreduce of small arrays (no halves)."""
    _begin(plan, mode)
    k = get(plan, COUNTER)
    if mode:
        k += 1
        put(plan, COUNTER, k)
        slot = get(get(plan, BASES), get(plan, RANK)) + (k & 1) * get(plan, SLOT)
        copy_bytes(slot + 8, get(plan, SOURCE), get(plan, LENGTH))
        release(slot, k)
    if get(plan, STAGE) == 1:
        if not _all_reach(plan, (k & 1) * get(plan, SLOT), k, patience):
            return LATE
        put(plan, POINTERS, get(plan, EVEN + (k & 1)))
        put(plan, STAGE, 0)
        if _is_callers(plan):
            return REDUCE
        _combine(plan, 0, get(plan, LENGTH))
    return DONE


# -- direct: the arrays themselves are in shared memory
# -------------------------------------------------------------


@njit
def _share_directly(plan, offset, n):
    """Copy part of our slice, which is complete, to everyone."""
    own = get(plan, RESULT) + offset
    for other in range(get(plan, RANKS)):
        if other != get(plan, RANK):
            copy_bytes(get(get(plan, TARGETS), other) + own - get(plan, TARGET), own, n)


@njit
def _arrive(plan):
    count = get(plan, COUNTER) + 1
    put(plan, COUNTER, count)
    release(get(get(plan, BASES), get(plan, RANK)), count)


@export("i8(i8, i8, i8)")
def direct(plan, mode, patience):
    """Rank r reduces slice r of all arrays where they are, and writes it to all of them; a barrier
    before and after.
    """
    _begin(plan, mode)
    if mode & 1:
        _arrive(plan)
    if get(plan, STAGE) == 1:
        if get(plan, MODE) & 1 and not _all_reach(plan, 0, get(plan, COUNTER), patience):
            return LATE
        put(plan, STAGE, 2)
        if get(plan, MODE) & 1 and _is_callers(plan):
            return REDUCE
    if get(plan, STAGE) == 2:
        offset, n = 0, get(plan, LENGTH)
        while offset < n:
            part = _least(BLOCK, n - offset)
            if get(plan, MODE) & 1 and not _is_callers(plan):
                _combine(plan, offset, part)
            if get(plan, MODE) & 2:
                _share_directly(plan, offset, part)
            offset += BLOCK
        put(plan, STAGE, 3)
        if get(plan, MODE) & 2:
            _arrive(plan)
    if get(plan, STAGE) == 3:
        if get(plan, MODE) & 2 and not _all_reach(plan, 0, get(plan, COUNTER), patience):
            return LATE
        put(plan, STAGE, 0)
    return DONE


# -- staged: arrays that nobody else can see, through pieces small enough for the caches
# ----------------------------
#
# Each rank's memory holds, twice: a piece of every slice, what it contributes to the others; and a
# piece of its own slice, complete. Counter `posted` = j says that our contributions to pieces < j
# can be read, `reduced` = j that our pieces < j are complete. In step t a rank collects what others
# completed of piece t - 2, contributes to piece t and reduces piece t - 1, so that others have a
# whole step for what it waits for. That one may overwrite: all have reduced t - 2 before anyone
# contributes t, and have collected t - 3 before they post t - 1.


@njit
def _piece(plan, owner, j):
    """(offset in the array, length) of piece j of the owner's slice."""
    cuts, most = get(plan, CUTS), get(plan, PIECE)
    start = get(cuts, owner) + j * most
    n = _least(most, get(cuts, owner + 1) - start)
    return start, n if n > 0 else 0


@njit
def _contributed(plan, rank, owner, j):
    """Address of what `rank` contributes to piece j of the owner's slice."""
    parts = get(plan, RANKS) + 1
    return (
        get(get(plan, BASES), rank)
        + COUNTERS
        + (((get(plan, COUNTER) + j) & 1) * parts + owner) * get(plan, PIECE)
    )


@njit
def _completed(plan, owner, j):
    return _contributed(plan, owner, get(plan, RANKS), j)


@njit
def _collect(plan, j):
    for owner in range(get(plan, RANKS)):
        if owner != get(plan, RANK):
            start, n = _piece(plan, owner, j)
            copy_bytes(get(plan, TARGET) + start, _completed(plan, owner, j), n)


@njit
def _contribute(plan, j):
    rank = get(plan, RANK)
    for owner in range(get(plan, RANKS)):
        if owner != rank:
            start, n = _piece(plan, owner, j)
            copy_bytes(_contributed(plan, rank, owner, j), get(plan, SOURCE) + start, n)


@njit
def _point_at(plan, j):
    """Let the pointers name what all ranks contribute to piece j of our slice."""
    rank = get(plan, RANK)
    start, n = _piece(plan, rank, j)
    for other in range(get(plan, RANKS)):
        put(get(plan, POINTERS), other, _contributed(plan, other, rank, j))
    put(get(plan, POINTERS), rank, get(plan, SOURCE) + start)
    put(plan, RESULT, get(plan, TARGET) + start)
    put(plan, LENGTH, n)


@export("i8(i8, i8, i8)")
def staged(plan, mode, patience):
    """Rank r reduces slice r, piece by piece, from memory to which all ranks copy what they
    contribute to it.
    """
    _begin(plan, mode)
    base = get(get(plan, BASES), get(plan, RANK))
    pieces, done, mode = get(plan, PIECES), get(plan, COUNTER), get(plan, MODE)
    while get(plan, STAGE):
        stage, t = get(plan, STAGE), get(plan, STEP)
        if stage == 1:
            if t >= 2:
                if not _all_reach(plan, COUNTERS // 2, done + t - 1, patience):
                    return LATE
                if mode & 2:
                    _collect(plan, t - 2)
            if t < pieces:
                if mode & 1:
                    _contribute(plan, t)
                release(base, done + t + 1)
            put(plan, STAGE, 2)
        elif stage == 2:
            put(plan, STAGE, 3)
            if 1 <= t <= pieces:
                if not _all_reach(plan, 0, done + t, patience):
                    put(plan, STAGE, 2)
                    return LATE
                _point_at(plan, t - 1)
                if mode & 1 and _is_callers(plan):
                    return REDUCE
                if mode & 1:
                    _combine(plan, 0, get(plan, LENGTH))
        else:
            if 1 <= t <= pieces:
                if mode & 2:
                    copy_bytes(
                        _completed(plan, get(plan, RANK), t - 1),
                        get(plan, RESULT),
                        get(plan, LENGTH),
                    )
                release(base + COUNTERS // 2, done + t)
            put(plan, STEP, t + 1)
            put(plan, STAGE, 1)
            if t == pieces + 1:
                put(plan, COUNTER, done + pieces)
                put(plan, STAGE, 0)
    return DONE
