"""Kernel source: strided copies on a device, all moves of a plan in one launch.

Compiled as `hpckit.ptx` says, used through `hpckit.comm.device_moves`.

A *piece* of a move is a word of its rows, or four where words are shorter than 4 bytes. The pieces
of a move are numbered, those of a row first, then by the loops from the inside out, and a block
copies `PIECES` of one move, in the table of work its line says which. Where a piece is follows from
its number by one division for each loop; as devices have no instruction for that, the table of
divisions holds what to multiply with and how far to shift instead.
"""

from hpckit.comm.tables import DIVISION, LOOPS, MOVE, MOVE_AT, PIECES, WORK
from hpckit.native import export
from hpckit.ptx.on_cpu import launch, on_cpu

_MOVE_BYTES, _DIVISION_BYTES, _WORK_BYTES = MOVE.itemsize, DIVISION.itemsize, WORK.itemsize
_FIRST = WORK.fields["first"][1]
_WORD, _PIECE, _LAST, _COUNTS, _MULTIPLIERS, _SHIFTS = (at for _, at in DIVISION.fields.values())
_SOURCE, _TARGET, _ROW = 8 * MOVE_AT.source, 8 * MOVE_AT.target, 8 * MOVE_AT.row
_SOURCE_STRIDES, _TARGET_STRIDES = 8 * MOVE_AT.source_strides, 8 * MOVE_AT.target_strides


def moves_thread(on):
    """Four pieces of every `on.THREADS` * 4: all of them are read before the first is written.

    So four loads are on their way at once, which hides how long each takes. Beyond the end of a
    move, or of a row, its last word is copied again: cheaper than to ask whether there is one.
    """

    @on.function
    def turn(n, division, loop):
        """What remains of the number of a piece without this loop, and the trip of the loop."""
        divisor = on.load_i4(division + _COUNTS + 4 * loop)
        multiplier = on.load_u4(division + _MULTIPLIERS + 4 * loop)
        rest = on.quotient(n, multiplier, on.load_u4(division + _SHIFTS + 4 * loop))
        return rest, on.i4(n - rest * divisor)

    @on.function
    def place(n, move, division):
        """Where its row is at both ends, and how far into the row it begins."""
        source, target = on.load_i8(move + _SOURCE), on.load_i8(move + _TARGET)
        n, trip = turn(min(n, on.load_i4(division + _LAST)), division, 0)
        into = trip * on.load_i4(division + _PIECE)
        for loop in range(LOOPS):
            stride = 8 * (LOOPS - 1 - loop)
            n, trip = turn(n, division, 1 + loop)
            source += trip * on.load_i8(move + _SOURCE_STRIDES + stride)
            target += trip * on.load_i8(move + _TARGET_STRIDES + stride)
        return source, target, into

    def words(load, store):
        @on.function
        def copy(s0, s1, s2, s3, t0, t1, t2, t3):
            a, b, c, d = load(s0), load(s1), load(s2), load(s3)
            store(t0, a)
            store(t1, b)
            store(t2, c)
            store(t3, d)

        return copy

    copy_16 = words(on.load_pair, on.store_pair)
    copy_8 = words(on.load_u8, on.store_u8)
    copy_4 = words(on.load_u4, on.store_u4)
    copy_2 = words(on.load_u2, on.store_u2)
    copy_1 = words(on.load_u1, on.store_u1)

    @on.function
    def copy(n, move, division):
        s0, t0, i0 = place(n, move, division)
        s1, t1, i1 = place(n + on.THREADS, move, division)
        s2, t2, i2 = place(n + 2 * on.THREADS, move, division)
        s3, t3, i3 = place(n + 3 * on.THREADS, move, division)
        word, piece = on.load_i4(division + _WORD), on.load_i4(division + _PIECE)
        last = on.load_i8(move + _ROW) - word
        for i in range(0, piece, word):
            a, b, c, d = min(i0 + i, last), min(i1 + i, last), min(i2 + i, last), min(i3 + i, last)
            if word == 16:
                copy_16(s0 + a, s1 + b, s2 + c, s3 + d, t0 + a, t1 + b, t2 + c, t3 + d)
            elif word == 8:
                copy_8(s0 + a, s1 + b, s2 + c, s3 + d, t0 + a, t1 + b, t2 + c, t3 + d)
            elif word == 4:
                copy_4(s0 + a, s1 + b, s2 + c, s3 + d, t0 + a, t1 + b, t2 + c, t3 + d)
            elif word == 2:
                copy_2(s0 + a, s1 + b, s2 + c, s3 + d, t0 + a, t1 + b, t2 + c, t3 + d)
            else:
                copy_1(s0 + a, s1 + b, s2 + c, s3 + d, t0 + a, t1 + b, t2 + c, t3 + d)

    def thread(block, lane, work, moves, divisions):
        at = work + _WORK_BYTES * block
        number = on.load_i4(at)
        move, division = moves + _MOVE_BYTES * number, divisions + _DIVISION_BYTES * number
        last = on.load_i4(division + _LAST)
        for part in range(PIECES // (4 * on.THREADS)):
            n = on.load_i4(at + _FIRST) + part * 4 * on.THREADS + lane
            if n <= last:
                copy(n, move, division)

    return thread


_moves = on_cpu(moves_thread)


@export("void(i8, i8, i8, i8)")
def moves(blocks, work, moves, divisions):
    """Copy what the tables at these addresses say: a line of work for each block."""
    launch(_moves, blocks, work, moves, divisions)
