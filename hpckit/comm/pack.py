"""Pack and unpack strided blocks in host memory: planned once, then moved by one native call.

Kernels: `hpckit.comm.moves`; their table: `hpckit.comm.tables`. Reached on rows of 256 bytes and
more: the speed of memcpy.
"""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.lib.array_utils import byte_bounds

from hpckit import native
from hpckit.comm.strided import NotStrided, StridedBlock, from_datatype
from hpckit.comm.tables import LOOPS, MOVE
from hpckit.errors import HpckitError
from hpckit.machine.lifetime import free_with

_TWIN_ROW = 128  # twins pay where rows are shorter than this: longer ones share few cache lines

_Row: Any = namedtuple("_Row", MOVE.names or ())


class Move(NamedTuple):
    """A strided copy: `shape` items of `row` bytes; strides in bytes, signed, outermost first.

    `owner` names the memory that the copy walks (an array's number, say): moves of one owner may
    become twins.
    """

    shape: tuple[int, ...]
    row: int
    source: int
    source_strides: tuple[int, ...]
    target: int
    target_strides: tuple[int, ...]
    owner: int = 0


class Moves:
    """Strided copies that are run together, by one native call (the GIL is released meanwhile).

    The copies may run in any order: no target may overlap another target or any source. `run()`
    makes them all; whoever made them keeps the memory that they walk. ::

        a, b = np.arange(12.0).reshape(3, 4), np.zeros(3)
        column = Move((3,), 8, native.address(a), (32,), native.address(b), (8,))
        Moves([column]).run()  # b is a's first column
    """

    def __init__(self, moves: Iterable[Move]) -> None:
        rows: list[Any] = []  # `_Row`s
        alone: dict[tuple, int] = {}  # rows that may still become twins
        for move in fit(moves):
            idle = (0,) * (LOOPS - len(move.shape))
            counts = (*(1,) * len(idle), *move.shape)
            strides = (*idle, *move.source_strides), (*idle, *move.target_strides)
            key = (move.owner, move.row, counts, strides)
            twin = alone.pop(key, None) if move.row < _TWIN_ROW else None
            if twin is None:
                alone[key] = len(rows)
                rows.append(_Row(move.source, move.target, 0, 0, move.row, counts, *strides))
            else:
                rows[twin] = rows[twin]._replace(twin_source=move.source, twin_target=move.target)
        self.table = np.array(rows, dtype=MOVE)
        self.address = native.address(self.table)
        kernel = native.load("hpckit.comm.moves").run
        self.run = (
            native.bind(kernel, self.address, len(self.table), keep=self.table)
            if len(self.table)
            else _nothing
        )

    def __len__(self) -> int:
        return len(self.table)


def fit(moves: Iterable[Move]) -> Iterable[Move]:
    """Non-empty moves in their shortest form, of four loops at most: further ones are unrolled."""
    for given in moves:
        move = simplify(given)
        if not move.row or 0 in move.shape:
            continue
        outer = max(len(move.shape) - LOOPS, 0)
        for index in product(*map(range, move.shape[:outer])):
            yield move._replace(
                shape=move.shape[outer:],
                source=move.source + sum(map(int.__mul__, index, move.source_strides)),
                target=move.target + sum(map(int.__mul__, index, move.target_strides)),
                source_strides=move.source_strides[outer:],
                target_strides=move.target_strides[outer:],
            )


def simplify(move: Move) -> Move:
    """Drop loops of one, fold contiguous ones into the row, merge those that run on."""
    loops: list[tuple[int, int, int]] = []
    row = move.row
    for n, s, t in reversed(
        [*zip(move.shape, move.source_strides, move.target_strides, strict=True)]
    ):
        if n == 1:
            continue
        if not loops and s == t == row:
            row *= n
        elif loops and s == loops[-1][0] * loops[-1][1] and t == loops[-1][0] * loops[-1][2]:
            loops[-1] = (n * loops[-1][0], *loops[-1][1:])
        else:
            loops.append((n, s, t))
    shape, source_strides, target_strides = (
        zip(*reversed(loops), strict=True) if loops else ((), (), ())
    )
    return move._replace(
        shape=shape, row=row, source_strides=source_strides, target_strides=target_strides
    )


def dense_strides(shape: Sequence[int], row: int) -> tuple[int, ...]:
    """Strides in bytes of `shape` packed items of `row` bytes, the last dimension fastest."""
    strides = [row]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides[: len(shape)]))


class Packer:
    """Gathers objects of given layouts into one contiguous buffer, and scatters them back.

    Parameters
    ----------
    layouts : one per buffer, in the order they are packed: a `StridedBlock` (see
        `hpckit.comm.strided`) or an MPI datatype. Types without a strided form are packed by MPI
        itself, which is slower but right.
    count : number of consecutive objects of each layout, an extent apart.

    The packed bytes are those of `MPI_Pack`. ::

        packer = Packer(from_slice(field, np.s_[:, 0]))
        packed = np.empty(packer.nbytes, "u1")
        packer.pack(field, out=packed)
        packer.unpack(packed, other)
    """

    def __init__(self, *layouts: StridedBlock | MPI.Datatype, count: int = 1) -> None:
        # (number of the buffer, offset in the packed bytes, what is there), and what MPI packs.
        self._blocks: list[tuple[int, int, StridedBlock]] = []
        self._types: list[tuple[int, int, MPI.Datatype]] = []
        self.nbytes = 0
        for number, layout in enumerate(layouts):
            found = _canonical(layout, count)
            if isinstance(found, StridedBlock):
                self._blocks.append((number, self.nbytes, found))
                self.nbytes += found.nbytes
            else:
                self._types.append((number, self.nbytes, found))
                self.nbytes += found.Get_size()
        free_with(self, *(datatype for _, _, datatype in self._types))
        self._buffers = len(layouts)
        self._known: dict[str, tuple] = {}

    def pack(self, *sources: np.ndarray, out: np.ndarray) -> None:
        """Gather from `sources`, one per layout, into `out`: contiguous, `nbytes` or more."""
        self._moves("pack", sources, out).run()
        for number, offset, datatype in self._types:
            datatype.Pack(_first_byte(sources[number]), _bytes(out)[offset:], 0, MPI.COMM_SELF)

    def unpack(self, packed: np.ndarray, *targets: np.ndarray) -> None:
        """Scatter `packed`, contiguous, of `nbytes` or more, to `targets`, one per layout."""
        self._moves("unpack", targets, packed).run()
        for number, offset, datatype in self._types:
            datatype.Unpack(_bytes(packed)[offset:], 0, _first_byte(targets[number]), MPI.COMM_SELF)

    def _moves(self, verb: str, arrays: tuple[np.ndarray, ...], packed: np.ndarray) -> Moves:
        """The moves between these; kept, since the next call usually names the same ones."""
        known = self._known.get(verb)
        alike = known and known[1] is packed and len(known[0]) == len(arrays)
        if known and alike and all(map(_is, known[0], arrays)):
            return known[2]
        self._check(verb, arrays, packed)
        base = native.address(packed)
        moves = []
        for number, offset, block in self._blocks:
            address = native.address(arrays[number]) + block.start
            place = address, block.strides
            dense = base + offset, dense_strides(block.counts, block.row)
            ends = (*place, *dense) if verb == "pack" else (*dense, *place)
            moves.append(Move(block.counts, block.row, *ends, id(arrays[number])))
        self._known[verb] = (arrays, packed, Moves(moves))
        return self._known[verb][2]

    def _check(self, verb: str, arrays: tuple[np.ndarray, ...], packed: np.ndarray) -> None:
        if len(arrays) != self._buffers:
            raise HpckitError(
                f"{verb} takes one array for each of the {self._buffers} layouts, got {len(arrays)}"
            )
        if not packed.flags.forc or packed.nbytes < self.nbytes:
            raise HpckitError(
                f"the packed buffer needs {self.nbytes} contiguous bytes, got {packed.nbytes} in "
                "an array of shape "
                f"{packed.shape} with strides {packed.strides}: use numpy.empty({self.nbytes}, "
                "'u1')"
            )
        for written in [packed] if verb == "pack" else arrays:
            if not written.flags.writeable:
                raise HpckitError(
                    f"{verb} writes to a read-only array of shape {written.shape}: pass a writable "
                    "one"
                )
        for number, _, block in self._blocks:
            if outside := beyond(block, arrays[number]):
                raise HpckitError(f"layout {number} {outside}")


def beyond(block: StridedBlock, array: np.ndarray, offset: int = 0) -> str:
    """How a block leaves the memory of the array that it walks, in words; empty if it does not.

    offset : bytes from the array's first element to where the block's offsets count from
    """
    low, high = byte_bounds(array)
    begin, end = (native.address(array) + offset + place for place in block.reach)
    if not block.nbytes or (low <= begin and end <= high):
        return ""
    return f"reaches bytes {begin - low} to {end - low} of an array of {high - low} bytes"


def pack(
    layout: StridedBlock | MPI.Datatype, source: np.ndarray, out: np.ndarray, count: int = 1
) -> None:
    """Gather `count` objects of one layout; for repeated use make a `Packer`."""
    Packer(layout, count=count).pack(source, out=out)


def unpack(
    layout: StridedBlock | MPI.Datatype, packed: np.ndarray, target: np.ndarray, count: int = 1
) -> None:
    """Scatter `count` objects of one layout; for repeated use make a `Packer`."""
    Packer(layout, count=count).unpack(packed, target)


def _nothing() -> None:
    pass


def _is(a: object, b: object) -> bool:
    return a is b


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _first_byte(array: np.ndarray) -> MPI.buffer:
    """The array as MPI's Pack takes it, which divides its length by the type's extent."""
    return MPI.buffer.fromaddress(native.address(array), 1)


def _canonical(layout: StridedBlock | MPI.Datatype, count: int) -> StridedBlock | MPI.Datatype:
    """`count` objects as one strided block, else as one object of a new datatype of extent 1."""
    if isinstance(layout, StridedBlock):
        return layout.repeat(count)
    with contextlib.suppress(NotStrided):
        return from_datatype(layout).repeat(count)
    several = layout.Create_contiguous(count)
    whole = several.Create_resized(0, 1).Commit()
    several.Free()
    return whole
