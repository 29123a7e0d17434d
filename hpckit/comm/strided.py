"""Any MPI datatype, or NumPy slice, as one canonical strided block.

A datatype is a list of byte ranges to visit in order. Where that order is regular it is a nest of
loops around one contiguous row, and a `StridedBlock` is that nest with nothing left to simplify, so
that equal layouts, however they were built, are equal blocks::

    face = MPI.DOUBLE.Create_subarray([64, 66, 66], [64, 1, 64], [0, 1, 1])
    print(from_datatype(face))     # 64 rows of 512 B, every 34848 B, from byte 536 (32.0 KiB)

The idea is that of TEMPI (Pearson et al., HPDC 2021). Streams are never sorted: the order in which
bytes are visited is part of the type, since the other end of a message may describe the same bytes
differently. docs/datatypes.md says more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpckit.errors import HpckitError
from hpckit.units import binary

# Unequal neighbours are compared row by row up to this many rows (8 MiB of offsets).
_MOST_ROWS = 1 << 20


class NotStrided(HpckitError):
    """The bytes follow no regular pattern; MPI itself can still move them, more slowly."""

    def __str__(self) -> str:
        return f"no strided form: {self.args[0]}; MPI.Datatype.Pack and Unpack can move it"


@dataclass(frozen=True)
class StridedBlock:
    """Rows of contiguous bytes, visited by a nest of strided loops; all figures in bytes.

    Two blocks are equal when one object of each visits the same bytes in the same order. `extent`,
    which only says where the next of several objects begins, does not count: for n objects compare
    `a.repeat(n) == b.repeat(n)`. ::

        column = from_slice(np.zeros((64, 64)), np.s_[:, 0])
        print(column, column.nbytes)  # 64 rows of 8 B, every 512 B, from byte 0; 512
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

    @property
    def reach(self) -> tuple[int, int]:
        """First byte that one object visits, and the one after the last; offsets as `start`."""
        steps = [(n - 1) * s for n, s in zip(self.counts, self.strides, strict=True)]
        low, high = sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)
        return self.start + low, self.start + high + self.row

    def offsets(self) -> NDArray[np.int64]:
        """Offsets of all rows in the order of visit: (rows,) int64."""
        offsets = np.array([self.start], np.int64)
        for count, stride in zip(self.counts, self.strides, strict=True):
            offsets = np.add.outer(offsets, stride * np.arange(count)).ravel()
        return offsets

    def repeat(self, count: int) -> StridedBlock:
        """Return the block of `count` objects, one extent apart, as a count in a call means."""
        reach = count if self.extent >= 0 else min(count, 2 - count)
        return replace(_nest([(count, self.extent)], self), extent=reach * self.extent)

    def to_datatype(self) -> MPI.Datatype:
        """Return a new, committed datatype of these bytes and extent; the caller frees it."""
        types = [MPI.BYTE.Create_contiguous(self.row)]
        for count, stride in zip(self.counts[::-1], self.strides[::-1], strict=True):
            types.append(types[-1].Create_hvector(count, 1, stride))
        types.append(types[-1].Create_hindexed([1], [self.start]))
        types.append(types[-1].Create_resized(0, self.extent))
        for inner in types[:-1]:
            inner.Free()
        return types[-1].Commit()

    def __str__(self) -> str:
        if not self.nbytes:
            return "nothing (0 B)"
        if not self.counts:
            return f"one row of {self.row} B, from byte {self.start} ({binary(self.nbytes, '.1f')})"
        counts, strides = (" x ".join(map(str, numbers)) for numbers in (self.counts, self.strides))
        return (
            f"{counts} rows of {self.row} B, every {strides} B, from byte {self.start} "
            f"({binary(self.nbytes, '.1f')})"
        )


def from_datatype(datatype: MPI.Datatype) -> StridedBlock:
    """Return the canonical block of one object of a datatype (committed or not).

    Raises NotStrided, saying why and in which part of the type, when its bytes follow no regular
    pattern.
    """
    size, (_, extent), (start, reach) = (
        datatype.Get_size(),
        datatype.Get_extent(),
        datatype.Get_true_extent(),
    )
    if not size:
        return StridedBlock(0, (), (), 0, extent)
    if datatype.is_predefined:
        if size != reach:  # a pair such as SHORT_INT
            raise NotStrided(f"{datatype.Get_name()} has {reach - size} B of padding inside")
        return StridedBlock(start, (), (), size, extent)
    child, combiner, how = datatype.decode()
    children = how.get("datatypes", [child])
    try:
        return replace(_combine(combiner, how, children), extent=extent)
    except NotStrided as error:
        raise NotStrided(f"{combiner.lower()}: {error.args[0]}") from None
    finally:
        for child in children:
            if not child.is_predefined:
                child.Free()


def from_slice(array: NDArray, index: Any) -> StridedBlock:
    """Return the block of `array[index]`, relative to the address of the array's first element.

    `index` is basic: integers, slices of either sign, Ellipsis. The extent is the array's whole
    span, as for an MPI subarray. Raises NotStrided for an index array, which copies, and for an
    array of Python objects.
    """
    index = index if isinstance(index, tuple) else (index,)
    view = array[
        index if any(i is ... for i in index) else (*index, ...)
    ]  # a view even of a single element
    if array.dtype.hasobject or (view.size and not np.may_share_memory(view, array)):
        raise NotStrided(
            f"index {index} of {array.dtype} is not made of integers, slices and ... into plain "
            "bytes"
        )
    low, high = np.lib.array_utils.byte_bounds(array)
    element = StridedBlock(view.ctypes.data - array.ctypes.data, (), (), view.itemsize, high - low)
    return _nest(zip(view.shape, view.strides, strict=True), element)


def from_array(array: NDArray) -> StridedBlock:
    """Return the block of a whole array or view, relative to its first element."""
    return from_slice(array, ...)


# --- the canonical form ---


def _nest(loops: Iterable[tuple[int, int]], block: StridedBlock, offset: int = 0) -> StridedBlock:
    """Put (count, stride) loops, outermost first, around a block; both are canonical.

    From the inside out: a loop of one trip goes (its offset is in `start`); one whose stride is the
    row so far makes the row longer; one that carries on where the loop inside it ends makes that
    loop longer.
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
    return StridedBlock(
        block.start + offset,
        tuple(c for c, _ in kept),
        tuple(s for _, s in kept),
        row,
        block.extent,
    )


def _concatenate(parts: Iterable[tuple[int, StridedBlock]]) -> StridedBlock:
    """Return the block that visits blocks, each moved by its displacement, one after another."""
    parts = [(place, block) for place, block in parts if block.row]
    different = {
        id(block): block for _, block in parts
    }.values()  # a million references to a few blocks, often
    shapes = {replace(block, start=0) for block in different}
    if not shapes:
        return StridedBlock(0, (), (), 0, 0)
    if len(shapes) == 1:
        starts, shape = [place + block.start for place, block in parts], shapes.pop()
    else:
        starts, shape = _rows(parts)
    return _nest(_loops(np.array(starts, np.int64)), shape, starts[0])


def _rows(parts: list[tuple[int, StridedBlock]]) -> tuple[list[int], StridedBlock]:
    """Return where the rows of a concatenation of unequal blocks start, and one such row."""
    if (total := sum(math.prod(block.counts) for _, block in parts)) > _MOST_ROWS:
        raise NotStrided(f"{total} rows in unequal blocks, too many to compare")
    starts, row = [], 0
    for start, length in _runs(parts):
        # The first run is the row, if there is one; in later runs two rows may touch where an outer
        # loop turns.
        row = row or length
        if length not in (row, 2 * row):
            raise NotStrided(
                f"the contiguous run at byte {start} is {length} B long, those before it {row} B"
            )
        starts += range(start, start + length, row)
    return starts, StridedBlock(0, (), (), row, 0)


def _runs(parts: list[tuple[int, StridedBlock]]) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of each run of bytes that the parts visit, touching rows as one."""
    head = end = parts[0][0] + parts[0][1].start
    for place, block in parts:
        for start in (place + block.offsets()).tolist():
            if start != end:
                yield head, end - head
                head = end = start
            end += block.row
    yield head, end - head


def _loops(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the (count, stride) loops, outermost first, that visit `starts` in their order."""
    loops: list[tuple[int, int]] = []
    inside, size = 1, starts.size
    while starts.size > 1:
        steps = np.diff(starts)
        turns = np.flatnonzero(steps != steps[0]) + 1
        count, step = int(turns[0]) if turns.size else starts.size, int(steps[0])
        trip = np.arange(starts.size) % count
        odd = np.flatnonzero(
            np.repeat(starts[::count], count)[: starts.size] + step * trip != starts
        )
        if odd.size or starts.size % count:
            where = inside * int(odd[0] if odd.size else starts.size - starts.size % count)
            raise NotStrided(
                f"blocks 0 to {inside * count - 1} repeat every {step} B, block {where} of {size} "
                "does not"
            )
        loops.insert(0, (count, step))
        inside *= count
        starts = starts[::count]
    return loops


# --- the ways to make a datatype, with their arguments as Datatype.decode() names them ---


def _combine(combiner: str, how: dict[str, Any], children: list[MPI.Datatype]) -> StridedBlock:
    """Return the block, its extent aside, that one constructor makes of its parts."""
    if combiner == "STRUCT":
        members = zip(how["displacements"], how["blocklengths"], children, strict=True)
        return _concatenate(
            (place, from_datatype(child).repeat(n)) for place, n, child in members if n
        )
    child = from_datatype(children[0])
    match combiner, how:
        case "DUP" | "RESIZED", _:
            return child
        case "CONTIGUOUS", {"count": count}:
            return child.repeat(count)
        case "VECTOR" | "HVECTOR", {"count": count, "blocklength": length, "stride": stride}:
            unit = child.extent if combiner == "VECTOR" else 1
            return _nest([(count, stride * unit), (length, child.extent)], child)
        case "INDEXED" | "INDEXED_BLOCK" | "HINDEXED" | "HINDEXED_BLOCK", {"displacements": places}:
            unit = child.extent if combiner.startswith("I") else 1
            lengths = how.get("blocklengths") or [how["blocklength"]] * len(places)
            repeated = {n: child.repeat(n) for n in set(lengths)}
            return _concatenate(
                (place * unit, repeated[n]) for place, n in zip(places, lengths, strict=True)
            )
        case "SUBARRAY", {"sizes": sizes, "subsizes": counts, "starts": starts, "order": order}:
            return _array(child, order, sizes, zip(starts, counts, sizes, strict=True))
        case "DARRAY", {"rank": rank, "gsizes": sizes, "psizes": parts, "order": order}:
            coords = map(
                int, np.unravel_index(rank, parts)
            )  # in C order even where the array is not
            return _array(
                child, order, sizes, map(_deal, sizes, how["distribs"], how["dargs"], parts, coords)
            )
    raise NotStrided("not a way to make datatypes that hpckit knows")


def _array(
    cell: StridedBlock, order: int, sizes: list[int], deals: Iterable[tuple[int, int, int]]
) -> StridedBlock:
    """Return, in each dimension of an array, `deal` cells of every `cycle` from `first` on."""
    block, stride = cell, cell.extent
    dims = list(zip(sizes, deals, strict=True))
    for n, (first, deal, cycle) in dims[
        :: -1 if order == MPI.ORDER_C else 1
    ]:  # fastest dimension first
        whole = max(0, (n - first) // cycle + ((n - first) % cycle >= deal))
        end = first + whole * cycle
        rest = min(deal, max(0, n - end))  # a partial deal at the end
        dealt = _nest([(whole, cycle * stride), (deal, stride)], block)
        block = _concatenate(
            [(first * stride, dealt), (end * stride, _nest([(rest, stride)], block))]
        )
        stride *= n
    return block


def _deal(n: int, kind: int, width: int, parts: int, part: int) -> tuple[int, int, int]:
    """Return (first, deal, cycle) of one of `parts` among which MPI distributes n cells."""
    if kind == MPI.DISTRIBUTE_NONE:
        width = n
    elif width == MPI.DISTRIBUTE_DFLT_DARG:
        width = -(-n // parts) if kind == MPI.DISTRIBUTE_BLOCK else 1
    return part * width, width, parts * width
