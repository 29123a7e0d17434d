"""Kernel source: strided copies on a device, all moves of a plan in one launch.

Compiled as `hpckit.ptx` says, used through `hpckit.comm.device_moves`.

A *piece* of a move is a word of its rows, or up to four where words are shorter than 4 bytes. The
pieces of a move are numbered, those of a row first, then by the loops from the inside out, and a
block copies `PIECES` of one move: its line in the table of work says which. Where a piece is
follows from its number by one division for each loop. Devices have no instruction for that, so the
table of divisions says what to multiply with, and how far to shift.
"""

from hpckit.comm.tables import DIVISION, DIVISION_AT, LOOPS, MOVE, MOVE_AT, PIECES, WORK, WORK_AT
from hpckit.native import export
from hpckit.ptx.on_cpu import launch, on_cpu

_MOVE_BYTES, _DIVISION_BYTES, _WORK_BYTES = MOVE.itemsize, DIVISION.itemsize, WORK.itemsize
_SOURCE, _TARGET, _ROW = 8 * MOVE_AT.source, 8 * MOVE_AT.target, 8 * MOVE_AT.row
_INNERMOST = 8 * (LOOPS - 1)  # of a move's loops
_SOURCE_STRIDES = 8 * MOVE_AT.source_strides + _INNERMOST
_TARGET_STRIDES = 8 * MOVE_AT.target_strides + _INNERMOST
_WORD, _PIECE, _LAST = 4 * DIVISION_AT.word, 4 * DIVISION_AT.piece, 4 * DIVISION_AT.last
_COUNTS, _SHIFTS = 4 * DIVISION_AT.counts, 4 * DIVISION_AT.shifts
_MULTIPLIERS = 4 * DIVISION_AT.multipliers


def moves_thread(on):
    """Four pieces of each `4 * on.THREADS`, that far apart that neighbours copy neighbours.

    All four are read before the first is written: four loads under way hide how long each takes.
    Beyond the end of a move its last piece is copied again, and in rows that pieces do not fill the
    last piece begins earlier: cheaper than to ask whether there is one more.
    """

    @on.function
    def lesser(a, b):
        return a if a < b else b

    @on.function
    def turn(n, source, target, division, source_stride, target_stride):
        """Without its innermost loop, what is the number of a piece, and where is it then?"""
        count, multiplier = on.load_u4(division + _COUNTS), on.load_u4(division + _MULTIPLIERS)
        n, trip = on.divide(n, count, multiplier, on.load_u4(division + _SHIFTS))
        trip = on.i8(trip)
        return n, source + trip * source_stride, target + trip * target_stride

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
    def begin(n, move, division):
        """The number of a piece's row, and where the piece is in the first row."""
        n = on.u4(lesser(on.i4(n), on.load_i4(division + _LAST)))
        piece = on.i8(on.load_i4(division + _PIECE))
        n, into, _ = turn(n, 0, 0, division, piece, 0)
        into = lesser(into, on.load_i8(move + _ROW) - piece)
        return n, on.load_i8(move + _SOURCE) + into, on.load_i8(move + _TARGET) + into

    @on.function
    def copy(n, move, division):
        n0, s0, t0 = begin(n, move, division)
        n1, s1, t1 = begin(n + on.THREADS, move, division)
        n2, s2, t2 = begin(n + 2 * on.THREADS, move, division)
        n3, s3, t3 = begin(n + 3 * on.THREADS, move, division)
        # To the 0 after the last count: a number of turns that is not known beforehand keeps the
        # compiler from unrolling, for which there are not registers enough.
        at = division + 4
        while on.load_u4(at + _COUNTS):
            ds, dt = on.load_i8(move + _SOURCE_STRIDES), on.load_i8(move + _TARGET_STRIDES)
            n0, s0, t0 = turn(n0, s0, t0, at, ds, dt)
            n1, s1, t1 = turn(n1, s1, t1, at, ds, dt)
            n2, s2, t2 = turn(n2, s2, t2, at, ds, dt)
            n3, s3, t3 = turn(n3, s3, t3, at, ds, dt)
            at, move = at + 4, move - 8
        word = on.load_i4(division + _WORD)
        if word == 16:
            copy_16(s0, s1, s2, s3, t0, t1, t2, t3)
        elif word == 8:
            copy_8(s0, s1, s2, s3, t0, t1, t2, t3)
        elif word == 4:
            copy_4(s0, s1, s2, s3, t0, t1, t2, t3)
        else:
            end = s0 + on.load_i4(division + _PIECE)
            while s0 < end:
                if word == 2:
                    copy_2(s0, s1, s2, s3, t0, t1, t2, t3)
                else:
                    copy_1(s0, s1, s2, s3, t0, t1, t2, t3)
                s0, s1, s2, s3 = s0 + word, s1 + word, s2 + word, s3 + word
                t0, t1, t2, t3 = t0 + word, t1 + word, t2 + word, t3 + word

    def thread(block, lane, work, moves, divisions):
        at = work + _WORK_BYTES * block
        number = on.load_i4(at + 4 * WORK_AT.move)
        move, division = moves + _MOVE_BYTES * number, divisions + _DIVISION_BYTES * number
        last = on.load_i4(division + _LAST)
        for part in range(PIECES // (4 * on.THREADS)):
            n = on.i4(on.load_i4(at + 4 * WORK_AT.first) + part * 4 * on.THREADS + lane)
            if n <= last:
                copy(n, move, division)

    return thread


_moves = on_cpu(moves_thread)


@export("void(i8, i8, i8, i8)")
def moves(blocks, work, moves, divisions):
    """Copy what the tables at these addresses say: a line of work for each block."""
    launch(_moves, blocks, work, moves, divisions)
