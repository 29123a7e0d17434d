"""Strided copies in the memory of a device: planned once, then made by one launch.

The counterpart of `hpckit.comm.pack.Moves` there. Kernel: `hpckit.comm.device_kernels`; its tables:
`hpckit.comm.tables`. Speed on a GPU: not yet measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hpckit.comm.device import Device, Kernel, Memory
from hpckit.comm.pack import Move, fit, simplify
from hpckit.comm.tables import DIVISION, LOOPS, MOVE, PIECES, WORK

MOST = (1 << 31) - PIECES  # pieces of a move: their numbers are 32-bit integers, also beyond it
_KERNEL = Kernel("hpckit.comm.device_kernels", "moves")
_ALIGNED = 256  # bytes, of tables
_WIDEST = 16  # bytes of a word
_SHORT = 4


class DeviceMoves:
    """Strided copies that a device makes together, in one launch; none where there is nothing.

    device : that reaches all ends of the moves: its own memory, pinned memory, what it opened.
    moves : as for `hpckit.comm.pack.Moves`, addresses as the device sees them. No target may
        overlap another target or any source.
    stream : on which the copies are made; so is that of their tables to the device, here.

    Raises HpckitError where the device has no memory for the tables. ::

        column = Move((3,), 8, a.address, (32,), b.address, (8,))
        moves = DeviceMoves(device, [column], stream)
        moves.run()  # b is a's first column once the stream has come here
    """

    def __init__(self, device: Device, moves: Iterable[Move], stream: int) -> None:
        split = [part for move in fit(moves) for part in _split(move)]
        self._count = len(split)
        self._launch = _nothing
        if split:
            tables = tables_of(split)
            self._memory, addresses = _resident(device, tables, stream)
            self._launch = device.prepare(_KERNEL, len(tables[0]), addresses, stream)

    def __len__(self) -> int:
        return self._count

    def run(self) -> None:
        """Enqueue the copies."""
        self._launch()


def tables_of(moves: Iterable[Move]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the kernel reads, of moves with four loops and `MOST` pieces at most.

    Returns
    -------
    work : (blocks,) WORK
    moves : (n,) MOVE
    divisions : (n,) DIVISION
    """
    moves = list(moves)
    table = np.array([_row(move) for move in moves], MOVE)
    divisions = np.array([_division(move) for move in moves], DIVISION)
    blocks = divisions["last"] // PIECES + 1
    work = np.zeros(blocks.sum(), WORK)
    work["move"] = np.repeat(np.arange(len(moves)), blocks)
    before = np.repeat(blocks.cumsum() - blocks, blocks)
    work["first"] = PIECES * (np.arange(len(work)) - before)
    return work, table, divisions


def _row(move: Move) -> tuple:
    idle = (0,) * (LOOPS - len(move.shape))
    counts = (1,) * len(idle) + move.shape
    strides = (*idle, *move.source_strides), (*idle, *move.target_strides)
    return (move.source, move.target, 0, 0, move.row, counts, *strides)


def _division(move: Move) -> tuple:
    word, piece = _word_and_piece(move)
    counts = -(-move.row // piece), *reversed(move.shape)
    multipliers, shifts = zip(*map(multiplier, counts), strict=True)
    idle = (0,) * (LOOPS - len(move.shape))
    loops = (*counts, *idle, 0), (*multipliers, *idle), (*shifts, *idle)
    return (word, piece, math.prod(counts) - 1, *loops)


def multiplier(d: int) -> tuple[int, int]:
    """That, and the shift, which divide by d: n // d == (2 * n * multiplier >> 32) >> shift.

    That holds for all n below 2**31, with 1 <= d <= 2**31. With 2**(shift - 1) < d <= 2**shift and
    the multiplier 2**(31 + shift) / d rounded up, by less than 1, the quotient is too large by less
    than n / 2**(31 + shift) <= 1 / d: too little to reach the next integer. (Granlund and
    Montgomery, Division by invariant integers using multiplication, 1994.)
    """
    shift = (d - 1).bit_length()
    return -(-(1 << 31 + shift) // d), shift


def _word_and_piece(move: Move) -> tuple[int, int]:
    """Bytes of the widest word that all rows are made of and aligned to, at both ends; of a piece.

    Words below `_SHORT` bytes share what a piece costs.
    """
    ends = move.source, move.target, *move.source_strides, *move.target_strides
    word = math.gcd(_WIDEST, move.row, *ends)
    return word, word if word >= _SHORT else min(_SHORT * word, move.row)


def _split(move: Move) -> Iterator[Move]:
    """The move in parts of `MOST` pieces at most: halves of its outermost loop, or of its row."""
    move = simplify(move)
    _, piece = _word_and_piece(move)
    if math.prod(move.shape) * -(-move.row // piece) <= MOST:
        yield move
    elif move.shape:
        half = move.shape[0] // 2
        yield from _split(move._replace(shape=(half, *move.shape[1:])))
        rest = move._replace(shape=(move.shape[0] - half, *move.shape[1:]))
        yield from _split(
            _shifted(rest, half * move.source_strides[0], half * move.target_strides[0])
        )
    else:
        half = move.row // 2 // piece * piece
        yield from _split(move._replace(row=half))
        yield from _split(_shifted(move._replace(row=move.row - half), half, half))


def _shifted(move: Move, source: int, target: int) -> Move:
    return move._replace(source=move.source + source, target=move.target + target)


def _resident(
    device: Device, tables: Sequence[np.ndarray], stream: int
) -> tuple[tuple[Memory, ...], list[int]]:
    """Copies tables to the device: the memory to keep, and their addresses there.

    The host does not wait for that, so the memory that is copied from is kept too.
    """
    nbytes = [-(-table.nbytes // _ALIGNED) * _ALIGNED for table in tables]
    here, there = device.pinned(sum(nbytes)), device.allocate(sum(nbytes))
    assert here.host is not None
    offsets = [sum(nbytes[:i]) for i in range(len(tables))]
    for table, offset in zip(tables, offsets, strict=True):
        here.host[offset : offset + table.nbytes] = table.view(np.uint8)
    device.copy(there.address, here.address, sum(nbytes), stream)
    return (here, there), [there.address + offset for offset in offsets]


def _nothing() -> None:
    pass
