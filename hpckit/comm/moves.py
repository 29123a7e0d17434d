"""Kernel source: strided copies, and the flag protocol of ranks that share a node's memory.

Compiled by `hpckit.native`, used through `hpckit.comm.pack_host` and `hpckit.halo.shared`; nothing
else imports it.

A *move* copies `c0*c1*c2*c3` rows of `row` bytes from one strided place to another. It is one line
of an int64 table, `MOVE` words long; a table is run by one call, so a whole halo costs one trip out
of Python::

    0 source  1 target  2 twin source  3 twin target  4 row  5-8 counts  9-12 source strides  13-16 target strides

A twin is a second box with the same counts and strides, moved in the same sweep: the two
unit-stride faces of a block touch the same cache lines, and moving them together halves the memory
traffic.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hpckit.machine.spin_kernels import get, put, reaches, release
from hpckit.native import export

MOVE = 17
_BYTE = ir.IntType(8)
_WORD = ir.IntType(64)


@intrinsic
def copy_bytes(typing, target, source, n):
    """memcpy(target, source, n)"""

    def generate(context, builder, signature, arguments):
        pointers = [builder.inttoptr(a, _BYTE.as_pointer()) for a in arguments[:2]]
        copy = builder.module.declare_intrinsic(
            "llvm.memcpy", [_BYTE.as_pointer(), _BYTE.as_pointer(), _WORD]
        )
        builder.call(copy, [*pointers, arguments[2], ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _register_move(width):
    """A function that loads `width` bytes into one register and stores them: unaligned, any `width`
    = 2**k.
    """
    word = ir.IntType(8 * width) if width <= 8 else ir.VectorType(_WORD, width // 8)

    @intrinsic
    def move(typing, target, source):
        def generate(context, builder, signature, arguments):
            target, source = (builder.inttoptr(a, word.as_pointer()) for a in arguments)
            builder.store(builder.load(source, align=1), target, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return move


def _sweep(width):
    """Innermost loop for rows of `width` to `2*width - 1` bytes: two overlapping register moves a
    row, one if exact.
    """
    move = _register_move(width)

    @njit
    def sweep(target, source, row, n, target_stride, source_stride):
        rest = row - width
        for i in range(n):
            t = target + i * target_stride
            s = source + i * source_stride
            move(t, s)
            if rest:
                move(t + rest, s + rest)

    @njit
    def sweep_twins(target, source, twin_target, twin_source, row, n, target_stride, source_stride):
        rest = row - width
        for i in range(n):
            t = i * target_stride
            s = i * source_stride
            move(target + t, source + s)
            move(twin_target + t, twin_source + s)
            if rest:
                move(target + t + rest, source + s + rest)
                move(twin_target + t + rest, twin_source + s + rest)

    return sweep, sweep_twins


_sweep1, _twins1 = _sweep(1)
_sweep2, _twins2 = _sweep(2)
_sweep4, _twins4 = _sweep(4)
_sweep8, _twins8 = _sweep(8)
_sweep16, _twins16 = _sweep(16)
_sweep32, _twins32 = _sweep(32)
_sweep64, _twins64 = _sweep(64)


@njit
def _rows(t, s, row, n, dt, ds):
    if row >= 128:
        for i in range(n):
            copy_bytes(t + i * dt, s + i * ds, row)
    elif row >= 64:
        _sweep64(t, s, row, n, dt, ds)
    elif row >= 32:
        _sweep32(t, s, row, n, dt, ds)
    elif row >= 16:
        _sweep16(t, s, row, n, dt, ds)
    elif row >= 8:
        _sweep8(t, s, row, n, dt, ds)
    elif row >= 4:
        _sweep4(t, s, row, n, dt, ds)
    elif row >= 2:
        _sweep2(t, s, row, n, dt, ds)
    else:
        _sweep1(t, s, row, n, dt, ds)


@njit
def _twin_rows(t, s, u, v, row, n, dt, ds):
    if row >= 64:
        _twins64(t, s, u, v, row, n, dt, ds)
    elif row >= 32:
        _twins32(t, s, u, v, row, n, dt, ds)
    elif row >= 16:
        _twins16(t, s, u, v, row, n, dt, ds)
    elif row >= 8:
        _twins8(t, s, u, v, row, n, dt, ds)
    elif row >= 4:
        _twins4(t, s, u, v, row, n, dt, ds)
    elif row >= 2:
        _twins2(t, s, u, v, row, n, dt, ds)
    else:
        _twins1(t, s, u, v, row, n, dt, ds)


@njit
def _run(table, n):
    for m in range(n):
        p = table + 8 * MOVE * m
        source, target, twin_source, twin_target = get(p, 0), get(p, 1), get(p, 2), get(p, 3)
        row, count = get(p, 4), get(p, 8)
        ds, dt = get(p, 12), get(p, 16)
        for i in range(get(p, 5)):
            for j in range(get(p, 6)):
                for k in range(get(p, 7)):
                    s = i * get(p, 9) + j * get(p, 10) + k * get(p, 11)
                    t = i * get(p, 13) + j * get(p, 14) + k * get(p, 15)
                    if twin_source == 0:
                        _rows(target + t, source + s, row, count, dt, ds)
                    else:
                        _twin_rows(
                            target + t,
                            source + s,
                            twin_target + t,
                            twin_source + s,
                            row,
                            count,
                            dt,
                            ds,
                        )


@export("void(i8, i8)")
def run(table, n):
    """Run the `n` moves of the table at this address."""
    _run(table, n)


# -- ranks that share a node's memory
# ---------------------------------------------------------------------------------
#
# Every rank owns two counters, each on its own cache lines: `posted` = k says that its data of
# exchange k can be read, `finished` = k that it has read all of its neighbours' data of exchange k.
# A plan is an int64 table:
#
#     0 own posted   1 own finished   2 polls before giving up   3 polls before yielding   4 next link
#     5 number of links   6 links   7 number of own moves   8, 9 own moves for even and odd k
#     10 exchanges that a neighbour may lag behind: as many as there are buffers, which alternate
#     11 whether the exchange ends only when the neighbours have read, as with direct reading
#
# and a link is: 0 its posted   1 its finished   2 number of moves   3, 4 moves for even and odd k.

LINK = 5


@njit
def _wait_for_all(plan, counter, value):
    """Wait until `counter` (0 posted, 1 finished) of every neighbour has reached `value`; False to
    be called again.
    """
    link = get(plan, 4)
    while link < get(plan, 5):
        p = get(plan, 6) + 8 * LINK * link
        if not reaches(get(p, counter), value, get(plan, 2), get(plan, 3)):
            put(plan, 4, link)
            return False
        link += 1
    put(plan, 4, 0)
    return True


@njit
def _post(plan):
    k = get(get(plan, 0), 0) + 1
    if not _wait_for_all(plan, 1, k - get(plan, 10)):
        return 1
    _run(get(plan, 8 + (k & 1)), get(plan, 7))
    release(get(plan, 0), k)
    return 0


@njit
def _collect(plan):
    k = get(get(plan, 0), 0)
    link = get(plan, 4)
    while link < get(plan, 5):
        p = get(plan, 6) + 8 * LINK * link
        if not reaches(get(p, 0), k, get(plan, 2), get(plan, 3)):
            put(plan, 4, link)
            return 1
        _run(get(p, 3 + (k & 1)), get(p, 2))
        link += 1
    put(plan, 4, 0)
    release(get(plan, 1), k)
    return 0


@njit
def _drain(plan):
    return 0 if _wait_for_all(plan, 1, get(get(plan, 0), 0)) else 1


@export("i8(i8)")
def post(plan):
    """Begin the next exchange: own moves, then `posted`. Returns 1, to be called again, while the
    buffer is in use.
    """
    return _post(plan)


@export("i8(i8)")
def collect(plan):
    """Finish the exchange: each neighbour's data as it is posted, then `finished`. Returns 1 to be
    called again.
    """
    return _collect(plan)


@export("i8(i8)")
def drain(plan):
    """Wait until every neighbour has read what was posted last. Returns 1 to be called again."""
    return _drain(plan)


@export("i8(i8)")
def whole(plan):
    """All steps of an exchange (with direct reading, `drain` is the third). Returns how many of
    them are done.
    """
    if _post(plan):
        return 0
    if _collect(plan):
        return 1
    return 2 if get(plan, 11) and _drain(plan) else 3
