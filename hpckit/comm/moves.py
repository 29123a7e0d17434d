"""Kernel source: strided copies, and the flag protocol of ranks that share a node's memory.

Compiled by `hpckit.native`, used through `hpckit.comm.pack` and `hpckit.halo.shared`;
kernel modules import it, nothing else does.

A *move* copies `counts[0] * ... * counts[3]` rows of `row` bytes from one strided place to another.
It is one row of a table (`hpckit.comm.tables`); a table is run by one call, so a whole halo costs
one trip out of Python.

A twin is a second box with the same counts and strides, moved in the same sweep: the two
unit-stride faces of a block touch the same cache lines, and moving them together halves the memory
traffic.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hpckit.comm.tables import (
    EXCHANGE_AT,
    MOVE,
    MOVE_AT,
    NEIGHBOUR,
    NEIGHBOUR_AT,
)
from hpckit.machine.spin_kernels import get, put, reaches, release
from hpckit.native import export

_MOVE_BYTES = MOVE.itemsize
_NEIGHBOUR_BYTES = NEIGHBOUR.itemsize
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
    """A function that moves `width` = 2**k bytes, unaligned, through one register."""
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
    """Innermost loop for rows of `width` to `2*width - 1` bytes: two moves that overlap, or one."""
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
        move = table + _MOVE_BYTES * m
        source = get(move, MOVE_AT.source)
        target = get(move, MOVE_AT.target)
        twin_source = get(move, MOVE_AT.twin_source)
        twin_target = get(move, MOVE_AT.twin_target)
        row = get(move, MOVE_AT.row)
        count = get(move, MOVE_AT.counts + 3)
        ds = get(move, MOVE_AT.source_strides + 3)
        dt = get(move, MOVE_AT.target_strides + 3)
        for i in range(get(move, MOVE_AT.counts)):
            for j in range(get(move, MOVE_AT.counts + 1)):
                for k in range(get(move, MOVE_AT.counts + 2)):
                    s = _offset(move, MOVE_AT.source_strides, i, j, k)
                    t = _offset(move, MOVE_AT.target_strides, i, j, k)
                    if twin_source == 0:
                        _rows(target + t, source + s, row, count, dt, ds)
                    else:
                        u, v = twin_target + t, twin_source + s
                        _twin_rows(target + t, source + s, u, v, row, count, dt, ds)


@njit
def _offset(move, strides, i, j, k):
    """Bytes from the first row of a move to that of these trips of its outer loops."""
    return i * get(move, strides) + j * get(move, strides + 1) + k * get(move, strides + 2)


@export("void(i8, i8)")
def run(table, n):
    """Run the `n` moves of the table at this address."""
    _run(table, n)


# -- ranks that share a node's memory --------------------------------------------------------------
#
# Every rank owns two counters, each on its own cache lines: `posted` = k says that its data of
# exchange k can be read, `finished` = k that it has read all of its neighbours' data of exchange k.
# A counter is written by its owner only, with release order: whoever reads the new value, with
# acquire order, sees all data that was written before it. So no lock and no barrier is needed. What
# a writer may overwrite is what readers say that they have read: hence `lag`.


@njit
def _wait_for_all(exchange, counter, value):
    """Wait until every neighbour's counter, at that place, reaches `value`; False: call again."""
    at = get(exchange, EXCHANGE_AT.next)
    while at < get(exchange, EXCHANGE_AT.neighbours):
        neighbour = get(exchange, EXCHANGE_AT.table) + _NEIGHBOUR_BYTES * at
        polls, eager = get(exchange, EXCHANGE_AT.polls), get(exchange, EXCHANGE_AT.eager)
        if not reaches(get(neighbour, counter), value, polls, eager):
            put(exchange, EXCHANGE_AT.next, at)
            return False
        at += 1
    put(exchange, EXCHANGE_AT.next, 0)
    return True


@njit
def _post(exchange):
    k = get(get(exchange, EXCHANGE_AT.posted), 0) + 1
    lag = get(exchange, EXCHANGE_AT.lag)
    if not _wait_for_all(exchange, NEIGHBOUR_AT.finished, k - lag):
        return 1
    _run(get(exchange, EXCHANGE_AT.even + (k & 1)), get(exchange, EXCHANGE_AT.moves))
    release(get(exchange, EXCHANGE_AT.posted), k)
    return 0


@njit
def _collect(exchange):
    k = get(get(exchange, EXCHANGE_AT.posted), 0)
    at = get(exchange, EXCHANGE_AT.next)
    while at < get(exchange, EXCHANGE_AT.neighbours):
        neighbour = get(exchange, EXCHANGE_AT.table) + _NEIGHBOUR_BYTES * at
        polls, eager = get(exchange, EXCHANGE_AT.polls), get(exchange, EXCHANGE_AT.eager)
        if not reaches(get(neighbour, NEIGHBOUR_AT.posted), k, polls, eager):
            put(exchange, EXCHANGE_AT.next, at)
            return 1
        _run(get(neighbour, NEIGHBOUR_AT.even + (k & 1)), get(neighbour, NEIGHBOUR_AT.moves))
        at += 1
    put(exchange, EXCHANGE_AT.next, 0)
    release(get(exchange, EXCHANGE_AT.finished), k)
    return 0


@njit
def _drain(exchange):
    k = get(get(exchange, EXCHANGE_AT.posted), 0)
    return 0 if _wait_for_all(exchange, NEIGHBOUR_AT.finished, k) else 1


@export("i8(i8)")
def post(exchange):
    """Begin the next exchange: own moves, then `posted`; 1, call again: the buffer is in use."""
    return _post(exchange)


@export("i8(i8)")
def collect(exchange):
    """Finish it: each neighbour's data as it is posted, then `finished`; 1: call again."""
    return _collect(exchange)


@export("i8(i8)")
def drain(exchange):
    """Wait until every neighbour has read what was posted last. Returns 1 to be called again."""
    return _drain(exchange)


@export("i8(i8)")
def whole(exchange):
    """All steps of an exchange (`drain` is the third, if any); how many of them are done."""
    if _post(exchange):
        return 0
    if _collect(exchange):
        return 1
    return 2 if get(exchange, EXCHANGE_AT.drains) and _drain(exchange) else 3
