"""Kernel source: elementwise reductions, and the protocols of an allreduce among ranks that share a node's memory.

Compiled by `hpckit.native`, used through `hpckit.collectives.shared`. The reductions `sum_f8`, `max_u2`, ... combine
`n` bytes of two arrays into a third, which may be one of the two: each register is loaded before it is stored.

A protocol is a kernel that goes as far as it can: `mode` 1 begins a reduce_scatter, 2 an allgather, 3 an allreduce,
0 goes on with what was begun. It returns DONE; LATE, to be called again, when a rank did not come within `patience`
polls (its number is then in the plan); or REDUCE, to be called again when the caller has combined the arrays that the
plan's pointers name, where no kernel does that. Counters only rise, so nothing is ever reset.

A plan is an int64 table; offsets and lengths are in bytes::

    0 counter   1 stage   2 step   3 mode   4 rank waited for   5 polls before yielding   6 own rank   7 ranks
    8 reduction, or 0   9 scratch   10 pointers: what the ranks contribute   11 where their sum goes   12 its length
    13 own source   14 own target   15 bases: each rank's memory for this plan   16 cuts: where each rank's slice begins
    17 sources   18 targets: each rank's arrays   19 pieces of a slice   20 length of a piece
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hpckit.comm.moves import copy_bytes
from hpckit.comm.spin_kernels import get, put, reaches, release
from hpckit.native import export

DONE, LATE, REDUCE = 0, 1, 2
LINE = 64  # bytes of a cache line, and of the widest register
SCRATCH = 8192  # bytes reduced at a time: the intermediate results of several ranks stay in the first-level cache
COUNTERS = 256  # bytes before the data in each rank's memory: two counters, 128 bytes apart

# -- reductions ------------------------------------------------------------------------------------------------------


def _add(builder, kind, a, b):
    return builder.add(a, b) if kind in "iu" else builder.fadd(a, b)


def _multiply(builder, kind, a, b):
    if kind != "c":
        return builder.mul(a, b) if kind in "iu" else builder.fmul(a, b)

    def picked(x, lanes):
        return builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    n = range(a.type.count)  # real and imaginary parts alternate
    sign = ir.Constant(a.type, [1.0 if i % 2 else -1.0 for i in n])
    real, imaginary = picked(a, [i & ~1 for i in n]), picked(a, [i | 1 for i in n])
    crossed = builder.fmul(sign, picked(b, [i ^ 1 for i in n]))
    return builder.fadd(builder.fmul(real, b), builder.fmul(imaginary, crossed))


def _extreme(sign):
    def extreme(builder, kind, a, b):
        if kind != "f":
            compare = builder.icmp_signed if kind == "i" else builder.icmp_unsigned
            return builder.select(compare(sign, a, b), a, b)
        chosen = builder.select(builder.fcmp_ordered(sign, a, b), a, b)
        return builder.select(builder.fcmp_unordered("uno", a, a), a, chosen)  # NaN wins, wherever it is

    return extreme


def _logical(word):
    def logical(builder, kind, a, b):
        true = [builder.icmp_unsigned("!=", x, ir.Constant(x.type, None)) for x in (a, b)]
        return builder.zext(getattr(builder, word)(*true), a.type)

    return logical


def _step(operation, kind, size, nbytes):
    """Combine `nbytes` at three addresses: one register, or one element."""
    part = size // 2 if kind == "c" else size
    element = ir.IntType(8 * part) if kind in "iu" else {2: ir.HalfType, 4: ir.FloatType, 8: ir.DoubleType}[part]()
    register = ir.VectorType(element, nbytes // part)
    single = ir.VectorType(ir.FloatType(), nbytes // part)

    @intrinsic
    def step(typing, target, first, second):
        def generate(context, builder, signature, arguments):
            target, *pair = (builder.inttoptr(a, register.as_pointer()) for a in arguments)
            pair = [builder.load(a, align=1) for a in pair]
            if part == 2 and kind == "f":  # half precision is for storage
                result = builder.fptrunc(operation(builder, kind, *(builder.fpext(a, single) for a in pair)), register)
            else:
                result = operation(builder, kind, *pair)
            builder.store(result, target, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return step


def _reduction(name, operation, kind, size):
    whole, single = _step(operation, kind, size, LINE), _step(operation, kind, size, size)

    def reduce(target, first, second, n):
        lines = n // LINE
        for i in range(lines):
            whole(target + LINE * i, first + LINE * i, second + LINE * i)
        for i in range(lines * LINE // size, n // size):
            single(target + size * i, first + size * i, second + size * i)

    reduce.__name__ = f"{name}_{kind}{size}"
    export("void(i8, i8, i8, i8)")(reduce)


_INTEGERS, _FLOATS = [("i", 1), ("i", 2), ("i", 4), ("i", 8)], [("f", 2), ("f", 4), ("f", 8)]
_UNSIGNED, _COMPLEX = [("u", size) for _, size in _INTEGERS], [("c", 8), ("c", 16)]

for _name, _operation, _kinds in (
    ("sum", _add, _INTEGERS + _FLOATS),
    ("prod", _multiply, _INTEGERS + _FLOATS + _COMPLEX),
    ("min", _extreme("<"), _INTEGERS + _UNSIGNED + _FLOATS),
    ("max", _extreme(">"), _INTEGERS + _UNSIGNED + _FLOATS),
    ("land", _logical("and_"), _INTEGERS),
    ("lor", _logical("or_"), _INTEGERS),
):
    for _kind, _size in _kinds:
        _reduction(_name, _operation, _kind, _size)


# -- what the protocols have in common -------------------------------------------------------------------------------


@intrinsic
def _call(typing, function, target, first, second, n):
    """The reduction at the address `function`."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@njit
def _least(a, b):
    return a if a < b else b


@njit
def _all_reach(plan, counter, value, patience):
    """Wait until the counter that lies `counter` bytes into each rank's memory has reached `value`."""
    other = get(plan, 4)
    while other < get(plan, 7):
        if not reaches(get(get(plan, 15), other) + counter, value, patience, get(plan, 5)):
            put(plan, 4, other)
            return False
        other += 1
    put(plan, 4, 0)
    return True


@njit
def _combine(plan, offset, n):
    """Reduce `n` bytes, `offset` bytes after the pointers, in the order of the ranks."""
    pointers, target, ranks = get(plan, 10), get(plan, 11) + offset, get(plan, 7)
    first = get(pointers, 0) + offset
    if ranks == 1 and target != first:
        copy_bytes(target, first, n)
    for other in range(1, ranks):
        result = target if other == ranks - 1 else get(plan, 9)  # an earlier sum may not replace our own contribution
        _call(get(plan, 8), result, first, get(pointers, other) + offset, n)
        first = result


@njit
def _combine_all(plan):
    """All bytes, a scratch of them at a time."""
    offset, n = 0, get(plan, 12)
    while offset < n:
        _combine(plan, offset, _least(SCRATCH, n - offset))
        offset += SCRATCH


@njit
def _is_callers(plan):
    """Whether there is something to reduce that no kernel can."""
    return get(plan, 8) == 0 and get(plan, 12) > 0


@njit
def _begin(plan, mode):
    if mode:
        put(plan, 1, 1)
        put(plan, 2, 0)
        put(plan, 3, mode)


# -- slots: everyone writes its array to a slot of its own, and reduces all slots -----------------------------------
#
# Two slots alternate: whoever writes slot k + 2 has seen everyone's k + 1, and they had read all slots k by then.
# The counter lies in the slot's first line, beside the data, so that a small array costs one cache line.


@export("i8(i8, i8, i8)")
def slots(plan, mode, patience):
    """Allreduce of small arrays; words 17, 18 are the pointers of even and odd calls, 20 the length of a slot."""
    _begin(plan, mode)
    k = get(plan, 0)
    if mode:
        k += 1
        put(plan, 0, k)
        slot = get(get(plan, 15), get(plan, 6)) + (k & 1) * get(plan, 20)
        copy_bytes(slot + 8, get(plan, 13), get(plan, 12))
        release(slot, k)
    if get(plan, 1) == 1:
        if not _all_reach(plan, (k & 1) * get(plan, 20), k, patience):
            return LATE
        put(plan, 10, get(plan, 17 + (k & 1)))
        put(plan, 1, 0)
        if _is_callers(plan):
            return REDUCE
        _combine_all(plan)
    return DONE


# -- direct: the arrays themselves are in shared memory -------------------------------------------------------------


@njit
def _share_directly(plan, offset, n):
    """Copy part of our slice, which is complete, to everyone."""
    own = get(plan, 11) + offset
    for other in range(get(plan, 7)):
        if other != get(plan, 6):
            copy_bytes(get(get(plan, 18), other) + own - get(plan, 14), own, n)


@njit
def _arrive(plan):
    count = get(plan, 0) + 1
    put(plan, 0, count)
    release(get(get(plan, 15), get(plan, 6)), count)


@export("i8(i8, i8, i8)")
def direct(plan, mode, patience):
    """Rank r reduces slice r of all arrays where they are, and writes it to all of them; a barrier before and after."""
    _begin(plan, mode)
    if mode & 1:
        _arrive(plan)
    if get(plan, 1) == 1:
        if get(plan, 3) & 1 and not _all_reach(plan, 0, get(plan, 0), patience):
            return LATE
        put(plan, 1, 2)
        if get(plan, 3) & 1 and _is_callers(plan):
            return REDUCE
    if get(plan, 1) == 2:
        offset, n = 0, get(plan, 12)
        while offset < n:
            part = _least(SCRATCH, n - offset)
            if get(plan, 3) & 1 and not _is_callers(plan):
                _combine(plan, offset, part)
            if get(plan, 3) & 2:
                _share_directly(plan, offset, part)
            offset += SCRATCH
        put(plan, 1, 3)
        if get(plan, 3) & 2:
            _arrive(plan)
    if get(plan, 1) == 3:
        if get(plan, 3) & 2 and not _all_reach(plan, 0, get(plan, 0), patience):
            return LATE
        put(plan, 1, 0)
    return DONE


# -- staged: arrays that nobody else can see, through pieces small enough for the caches ----------------------------
#
# Each rank's memory holds, twice: a piece of every slice, what it contributes to the others; and a piece of its own
# slice, complete. Counter `posted` = j says that our contributions to pieces < j can be read, `reduced` = j that our
# pieces < j are complete. In step t a rank collects what others completed of piece t - 2, contributes
# to piece t and reduces piece t - 1, so that others have a whole step for what it waits for. That one may overwrite:
# all have reduced t - 2 before anyone contributes t, and have collected t - 3 before they post t - 1.


@njit
def _piece(plan, owner, j):
    """(offset in the array, length) of piece j of the owner's slice."""
    cuts, most = get(plan, 16), get(plan, 20)
    start = get(cuts, owner) + j * most
    n = _least(most, get(cuts, owner + 1) - start)
    return start, n if n > 0 else 0


@njit
def _contributed(plan, rank, owner, j):
    """Address of what `rank` contributes to piece j of the owner's slice."""
    parts = get(plan, 7) + 1
    return get(get(plan, 15), rank) + COUNTERS + (((get(plan, 0) + j) & 1) * parts + owner) * get(plan, 20)


@njit
def _completed(plan, owner, j):
    return _contributed(plan, owner, get(plan, 7), j)


@njit
def _collect(plan, j):
    for owner in range(get(plan, 7)):
        if owner != get(plan, 6):
            start, n = _piece(plan, owner, j)
            copy_bytes(get(plan, 14) + start, _completed(plan, owner, j), n)


@njit
def _contribute(plan, j):
    rank = get(plan, 6)
    for owner in range(get(plan, 7)):
        if owner != rank:
            start, n = _piece(plan, owner, j)
            copy_bytes(_contributed(plan, rank, owner, j), get(plan, 13) + start, n)


@njit
def _point_at(plan, j):
    """Let the pointers name what all ranks contribute to piece j of our slice."""
    rank = get(plan, 6)
    start, n = _piece(plan, rank, j)
    for other in range(get(plan, 7)):
        put(get(plan, 10), other, _contributed(plan, other, rank, j))
    put(get(plan, 10), rank, get(plan, 13) + start)
    put(plan, 11, get(plan, 14) + start)
    put(plan, 12, n)


@export("i8(i8, i8, i8)")
def staged(plan, mode, patience):
    """Rank r reduces slice r, piece by piece, from memory to which all ranks copy what they contribute to it."""
    _begin(plan, mode)
    base = get(get(plan, 15), get(plan, 6))
    pieces, done, mode = get(plan, 19), get(plan, 0), get(plan, 3)
    while get(plan, 1):
        stage, t = get(plan, 1), get(plan, 2)
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
            put(plan, 1, 2)
        elif stage == 2:
            put(plan, 1, 3)
            if 1 <= t <= pieces:
                if not _all_reach(plan, 0, done + t, patience):
                    put(plan, 1, 2)
                    return LATE
                _point_at(plan, t - 1)
                if mode & 1 and _is_callers(plan):
                    return REDUCE
                if mode & 1:
                    _combine_all(plan)
        else:
            if 1 <= t <= pieces:
                if mode & 2:
                    copy_bytes(_completed(plan, get(plan, 6), t - 1), get(plan, 11), get(plan, 12))
                release(base + COUNTERS // 2, done + t)
            put(plan, 2, t + 1)
            put(plan, 1, 1)
            if t == pieces + 1:
                put(plan, 0, done + pieces)
                put(plan, 1, 0)
    return DONE
