"""Any MPI datatype, or NumPy slice, as one canonical strided block.

A datatype is a list of byte ranges to visit in order. Where that order is regular it is a nest of loops around one
contiguous row, and a `StridedBlock` is that nest with nothing left to simplify, so that equal layouts, however they
were built, are equal blocks::

    face = MPI.DOUBLE.Create_subarray([64, 66, 66], [64, 1, 64], [0, 1, 1])
    print(from_datatype(face))     # 64 rows of 512 B, every 34848 B, from byte 536 (32.0 KiB)

The idea is that of TEMPI (Pearson et al., HPDC 2021). Streams are never sorted: the order in which bytes are visited is
part of the type, since the other end of a message may describe the same bytes differently. docs/datatypes.md says more.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpckit.errors import HpckitError

# Unequal neighbours are compared row by row up to this many rows (8 MiB of offsets).
_MOST_ROWS = 1 << 20


class NotStrided(HpckitError):
    """The bytes follow no regular pattern; MPI's own Pack and Unpack still move them."""


@dataclass(frozen=True)
class StridedBlock:
    """Rows of contiguous bytes, visited by a nest of strided loops; all figures in bytes.

    Two blocks are equal when one object of each visits the same bytes in the same order; `extent`, which only says where
    the next object of several begins, does not count (compare `a.repeat(n) == b.repeat(n)` for n objects).
    """

    start: int
    """offset of the first row from the buffer's address; may be negative"""
    counts: tuple[int, ...]
    """trips of each loop, outermost first, each at least 2; empty: one row"""
    strides: tuple[int, ...]
    """bytes from one trip to the next, signed"""
    row: int
    """contiguous bytes moved by each visit; 0: nothing at all"""
    extent: int = field(compare=False)
    """bytes from one object to the next where there are several"""

    @property
    def nbytes(self) -> int:
        """Bytes that one object moves."""
        return math.prod(self.counts) * self.row

    def offsets(self) -> NDArray[np.int64]:
        """Offsets of all rows in the order of visit: (rows,) int64."""
        offsets = np.array([self.start], np.int64)
        for count, stride in zip(self.counts, self.strides, strict=True):
            offsets = np.add.outer(offsets, stride * np.arange(count)).ravel()
        return offsets

    def repeat(self, count: int) -> StridedBlock:
        """Return the block of `count` objects, one extent apart: what MPI moves when a call's count is above 1."""
        reach = count if self.extent >= 0 else min(count, 2 - count)
        return replace(_nest([(count, self.extent)], self), extent=reach * self.extent)

    def to_datatype(self) -> MPI.Datatype:
        """Return a new, committed datatype with this block's bytes, order and extent; the caller frees it."""
        makers: list[Callable[[MPI.Datatype], MPI.Datatype]] = [lambda t: t.Create_contiguous(self.row)]
        for count, stride in zip(self.counts[::-1], self.strides[::-1], strict=True):
            makers.append(lambda t, count=count, stride=stride: t.Create_hvector(count, 1, stride))
        makers.append(lambda t: t.Create_hindexed([1], [self.start]))
        makers.append(lambda t: t.Create_resized(0, self.extent))
        datatype = MPI.BYTE
        for make in makers:
            inner, datatype = datatype, make(datatype)
            if inner != MPI.BYTE:
                inner.Free()
        return datatype.Commit()

    def __str__(self) -> str:
        if not self.nbytes:
            return "nothing (0 B)"
        if not self.counts:
            return f"one row of {self.row} B, from byte {self.start} ({_size(self.nbytes)})"
        counts, strides = (" x ".join(map(str, numbers)) for numbers in (self.counts, self.strides))
        return f"{counts} rows of {self.row} B, every {strides} B, from byte {self.start} ({_size(self.nbytes)})"


def from_datatype(datatype: MPI.Datatype) -> StridedBlock:
    """Return the canonical block of one object of a datatype (committed or not).

    Raises NotStrided, saying why and in which part of the type, when its bytes follow no regular pattern.
    """
    if datatype.is_predefined:
        return _named(datatype)
    if not datatype.Get_size():
        return StridedBlock(0, (), (), 0, datatype.Get_extent()[1])
    child, combiner, how = datatype.decode()
    children = how.pop("datatypes", [child])
    try:
        block = _COMBINERS[combiner](*map(from_datatype, children), **how)
        return replace(block, extent=datatype.Get_extent()[1])
    except NotStrided as error:
        raise NotStrided(f"{combiner.lower()}: {error}") from None
    finally:
        for child in children:
            if not child.is_predefined:
                child.Free()


def from_slice(array: NDArray, index: Any) -> StridedBlock:
    """Return the block of `array[index]`, relative to the address of the array's first element.

    `index` is basic: integers, slices of either sign, Ellipsis. The extent is the array's whole span, as for an MPI
    subarray. Raises NotStrided for an index array, which copies, and for an array of Python objects.
    """
    index = index if isinstance(index, tuple) else (index,)
    view = array[index if any(i is ... for i in index) else (*index, ...)]  # a view even of a single element
    if array.dtype.hasobject or (view.size and not np.may_share_memory(view, array)):
        raise NotStrided(
            f"array[{index}] of dtype {array.dtype}: only integers, slices and ... of plain bytes have one"
        )
    low, high = np.lib.array_utils.byte_bounds(array)
    element = StridedBlock(view.ctypes.data - array.ctypes.data, (), (), view.itemsize, high - low)
    return _nest(zip(view.shape, view.strides, strict=True), element)


def from_array(array: NDArray) -> StridedBlock:
    """Return the block of a whole array, or strided view, relative to the address of its first element."""
    return from_slice(array, ...)


# --- the canonical form ---


def _nest(loops: Iterable[tuple[int, int]], block: StridedBlock, offset: int = 0) -> StridedBlock:
    """Put (count, stride) loops, outermost first, around a canonical block moved by `offset`; the result is canonical.

    From the inside out: a loop of one trip goes (its offset is in `start`); one whose stride is the row so far makes the
    row longer; one that carries on where the loop inside it ends makes that loop longer.
    """
    loops = [*loops, *zip(block.counts, block.strides, strict=True)]
    row = block.row
    if not row or not all(count for count, _ in loops):
        return StridedBlock(0, (), (), 0, block.extent)
    kept: list[tuple[int, int]] = []  # innermost first
    for count, stride in reversed(loops):
        if count == 1:
            continue
        if not kept and stride == row:
            row *= count
        elif kept and stride == math.prod(kept[-1]):
            kept[-1] = (count * kept[-1][0], kept[-1][1])
        else:
            kept.append((count, stride))
    kept.reverse()
    return StridedBlock(block.start + offset, tuple(c for c, _ in kept), tuple(s for _, s in kept), row, block.extent)


def _concatenate(displacements: Sequence[int], kinds: list[StridedBlock], which: Any = slice(None)) -> StridedBlock:
    """Return the block that visits `kinds[which[i]]` moved by displacements[i], one i after another."""
    which = np.arange(len(kinds))[which]
    moves = np.array([kind.nbytes > 0 for kind in kinds], bool)[which]
    which, at = which[moves], np.asarray(displacements, np.int64)[moves]
    shapes = {replace(kind, start=0) for kind in kinds if kind.nbytes}
    if not shapes:
        return StridedBlock(0, (), (), 0, 0)
    if len(shapes) > 1:
        starts, row = _rows(at, kinds, which)
        shape = StridedBlock(0, (), (), row, 0)
    else:
        starts, shape = at + np.array([kind.start for kind in kinds], np.int64)[which], shapes.pop()
    return _nest(_loops(starts), shape, int(starts[0]))


def _rows(at: NDArray[np.int64], kinds: list[StridedBlock], which: NDArray[np.intp]) -> tuple[NDArray[np.int64], int]:
    """Return where the rows of a concatenation of unequal blocks start, and their one length."""
    rows = np.array([math.prod(kind.counts) for kind in kinds])
    many, first = rows[which], (np.cumsum(rows) - rows)[which]
    trips = _trips(many)
    offsets = np.concatenate([kind.offsets() for kind in kinds])
    starts = np.repeat(at, many) + offsets[np.repeat(first, many) + trips]
    lengths = np.repeat(np.array([kind.row for kind in kinds])[which], many)
    # Touching rows are one run. The first run is the row of the canonical block, if there is one; cut the others to it.
    heads = np.flatnonzero(np.append(True, starts[1:] != (starts + lengths)[:-1]))
    runs = np.add.reduceat(lengths, heads)
    many, odd = np.divmod(runs, runs[0])
    if odd.any():
        where = np.flatnonzero(odd)[0]
        raise NotStrided(
            f"contiguous rows of {runs[0]} B, but of {runs[where]} B at row {where} of {runs.size}, "
            f"byte {starts[heads[where]]}: MPI's own Pack can move them"
        )
    return np.repeat(starts[heads], many) + runs[0] * _trips(many), int(runs[0])


def _trips(many: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 … many[i] - 1 for every i, one after another; not more than fit the memory a plan may take."""
    if (total := many.sum()) > _MOST_ROWS:
        raise NotStrided(f"{total} rows in unequal blocks, too many to compare: MPI's own Pack can move them")
    return np.arange(total) - np.repeat(np.cumsum(many) - many, many)


def _loops(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the nest of (count, stride) loops, outermost first, that visits `starts` in their order."""
    loops: list[tuple[int, int]] = []
    size = starts.size
    while starts.size > 1:
        step = int(starts[1] - starts[0])
        breaks = np.flatnonzero(np.diff(starts) != step)
        count = int(breaks[0]) + 1 if breaks.size else starts.size
        trip = np.arange(starts.size)
        odd = np.flatnonzero(starts != starts[trip - trip % count] + step * (trip % count))
        if odd.size or starts.size % count:
            group = size // starts.size
            where = (int(odd[0]) if odd.size else starts.size - starts.size % count) * group
            raise NotStrided(
                f"blocks 0 to {count * group - 1} repeat every {step} B, but the pattern breaks at block {where} of {size}: "
                "MPI's own Pack can move them"
            )
        loops.insert(0, (count, step))
        starts = starts[::count]
    return loops


# --- one function per way of making a datatype; parameters are named as Datatype.decode() names them ---


def _named(datatype: MPI.Datatype) -> StridedBlock:
    size, (_, extent), (start, reach) = datatype.Get_size(), datatype.Get_extent(), datatype.Get_true_extent()
    if size != reach:  # a pair such as SHORT_INT
        raise NotStrided(f"{datatype.Get_name()} has {reach - size} B of padding inside: MPI's own Pack can move it")
    return StridedBlock(start, (), (), size, extent)


def _hvector(child: StridedBlock, count: int, blocklength: int, stride: int) -> StridedBlock:
    return _nest([(count, stride), (blocklength, child.extent)], child)


def _hindexed(child: StridedBlock, blocklengths: list[int], displacements: Sequence[int]) -> StridedBlock:
    lengths, which = np.unique(np.array(blocklengths, np.int64), return_inverse=True)
    return _concatenate(displacements, [child.repeat(n) for n in lengths.tolist()], which)


def _struct(*children: StridedBlock, blocklengths: list[int], displacements: list[int]) -> StridedBlock:
    return _concatenate(displacements, list(map(StridedBlock.repeat, children, blocklengths)))


def _subarray(
    child: StridedBlock, sizes: list[int], subsizes: list[int], starts: list[int], order: int
) -> StridedBlock:
    turn = slice(None, None, 1 if order == MPI.ORDER_C else -1)  # slowest dimension first
    strides = [child.extent * math.prod(sizes[turn][dim + 1 :]) for dim in range(len(sizes))]
    return _nest(zip(subsizes[turn], strides, strict=True), child, sum(map(operator.mul, starts[turn], strides)))


def _darray(
    child: StridedBlock,
    size: int,
    rank: int,
    gsizes: list[int],
    distribs: list[int],
    dargs: list[int],
    psizes: list[int],
    order: int,
) -> StridedBlock:
    coords = np.unravel_index(rank, psizes)  # processes are in C order even where the array is not
    turn = slice(None, None, -1 if order == MPI.ORDER_C else 1)  # fastest dimension first
    block, stride = child, child.extent
    for n, kind, arg, parts, part in list(zip(gsizes, distribs, dargs, psizes, map(int, coords), strict=True))[turn]:
        # Every distribution deals blocks of `deal` cells in turn; a last, partial one may come after the whole ones.
        deal = {MPI.DISTRIBUTE_NONE: n, MPI.DISTRIBUTE_BLOCK: -(-n // parts), MPI.DISTRIBUTE_CYCLIC: 1}[kind]
        if kind != MPI.DISTRIBUTE_NONE and arg != MPI.DISTRIBUTE_DFLT_DARG:
            deal = arg
        first, cycle = part * deal, parts * deal
        whole = max(0, (n - first) // cycle + ((n - first) % cycle >= deal))
        rest = min(deal, max(0, n - first - whole * cycle))
        deals = [_nest([(whole, cycle * stride), (deal, stride)], block), _nest([(rest, stride)], block)]
        block = _concatenate([first * stride, (first + whole * cycle) * stride], deals)
        stride *= n
    return block


_COMBINERS: dict[str, Callable[..., StridedBlock]] = {
    "DUP": lambda child: child,
    "RESIZED": lambda child, lb, extent: child,
    "CONTIGUOUS": StridedBlock.repeat,
    "VECTOR": lambda child, count, blocklength, stride: _hvector(child, count, blocklength, stride * child.extent),
    "HVECTOR": _hvector,
    "INDEXED": lambda child, blocklengths, displacements: _hindexed(
        child, blocklengths, [child.extent * i for i in displacements]
    ),
    "HINDEXED": _hindexed,
    "INDEXED_BLOCK": lambda child, blocklength, displacements: _hindexed(
        child, [blocklength] * len(displacements), [child.extent * i for i in displacements]
    ),
    "HINDEXED_BLOCK": lambda child, blocklength, displacements: _hindexed(
        child, [blocklength] * len(displacements), displacements
    ),
    "STRUCT": _struct,
    "SUBARRAY": _subarray,
    "DARRAY": _darray,
}


def _size(nbytes: int) -> str:
    """Return a number of bytes to two or three digits: 32.0 KiB."""
    unit = min(max(nbytes.bit_length() - 1, 0) // 10, 6)
    return f"{nbytes / 1024**unit:.1f} {' KMGTPE'[unit]}iB" if unit else f"{nbytes} B"
