"""Random MPI datatypes: a strategy over every combiner, nested, and the bytes MPI visits."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
from hypothesis import strategies as st
from mpi4py import MPI

# Not drawn, since MPI itself is wrong there. Open MPI 5.0.11: a stride of exactly -1 byte, which it
# takes for +1, double complex at a stride that is no multiple of 16, a darray of empty types. MPICH
# 5.0.2: contiguous types nested with a negative extent, an empty type in a struct (it divides by
# zero). So nothing is one byte wide, extents are even and not negative, and `Made` leaves empty
# parts out.
NAMED = (MPI.INT16_T, MPI.FLOAT, MPI.DOUBLE)
COUNTS = st.sampled_from([0, 1, 1, 2, 2, 2, 3, 3, 4])
ORDERS = st.sampled_from([MPI.ORDER_C, MPI.ORDER_F])
Recipe = tuple[str, list, tuple]
"""(combiner, children: recipes or named types, further arguments)"""


class Made:
    """A committed datatype, freed with the parts it was made of on leaving the `with` block."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self._open = recipe, ExitStack()

    def __enter__(self) -> MPI.Datatype:
        return self._make(self.recipe).Commit()

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _make(self, recipe: Recipe) -> MPI.Datatype:
        how, children, arguments = recipe
        parts = [self._make(child) if isinstance(child, tuple) else child for child in children]
        if how == "struct":
            lengths = [
                n if part.Get_size() else 0 for n, part in zip(arguments[0], parts, strict=True)
            ]
            datatype = MPI.Datatype.Create_struct(lengths, arguments[1], parts)
        elif how == "dup" or (how == "darray" and not parts[0].Get_size()):
            datatype = parts[0].Dup()
        else:
            datatype = getattr(parts[0], f"Create_{how}")(*arguments)
        self._open.callback(datatype.Free)
        return datatype


@st.composite
def recipes(draw: st.DrawFn, depth: int = 4) -> Recipe:
    """Draw a type of up to a few thousand bytes; most have a strided form, some have none."""
    child = draw(
        st.sampled_from(NAMED) if depth == 1 else st.sampled_from(NAMED) | recipes(depth - 1)
    )
    how = draw(st.sampled_from(sorted(_ARGUMENTS)))
    arguments = draw(_ARGUMENTS[how])
    if how != "struct":
        return how, [child], arguments
    others = st.sampled_from(NAMED) if depth == 1 else st.sampled_from(NAMED) | recipes(depth - 1)
    same = draw(st.booleans())
    return how, [child if same else draw(others) for _ in arguments[0]], arguments


@st.composite
def _places(draw: st.DrawFn, size: int, unit: int) -> list[int]:
    """Draw displacements: mostly an arithmetic progression, of either sign."""
    if draw(st.integers(0, 3)) == 0:
        return [
            unit * place
            for place in draw(st.lists(st.integers(-9, 9), min_size=size, max_size=size))
        ]
    first, step = draw(st.integers(-4, 4)), draw(st.integers(-6, 6))
    return [unit * (first + i * step) for i in range(size)]


@st.composite
def _indexed(draw: st.DrawFn, *, block: bool, units: tuple[int, ...] = (1, 4, 8, 24)) -> tuple:
    size = draw(COUNTS)
    places = draw(_places(size, draw(st.sampled_from(units))))
    if block:
        return draw(COUNTS), places
    if draw(st.booleans()):
        return [draw(COUNTS)] * size, places
    return draw(st.lists(COUNTS, min_size=size, max_size=size)), places


@st.composite
def _subarrays(draw: st.DrawFn) -> tuple:
    dims = draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)),
            min_size=1,
            max_size=4,
        )
    )
    return (
        [sum(dim) for dim in dims],
        [dim[1] for dim in dims],
        [dim[0] for dim in dims],
        draw(ORDERS),
    )


@st.composite
def _darrays(draw: st.DrawFn) -> tuple:
    dims = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 7))
        kind = draw(
            st.sampled_from([MPI.DISTRIBUTE_NONE, MPI.DISTRIBUTE_BLOCK, MPI.DISTRIBUTE_CYCLIC])
        )
        parts = 1 if kind == MPI.DISTRIBUTE_NONE else draw(st.integers(1, 3))
        least = -(-size // parts) if kind == MPI.DISTRIBUTE_BLOCK else 1
        given = kind != MPI.DISTRIBUTE_NONE and draw(st.booleans())
        dims.append(
            (
                size,
                kind,
                draw(st.integers(least, least + 2)) if given else MPI.DISTRIBUTE_DFLT_DARG,
                parts,
            )
        )
    sizes, kinds, deals, parts = (list(numbers) for numbers in zip(*dims, strict=True))
    ranks = int(np.prod(parts))
    return ranks, draw(st.integers(0, ranks - 1)), sizes, kinds, deals, parts, draw(ORDERS)


_ARGUMENTS: dict[str, st.SearchStrategy[tuple]] = {
    "dup": st.just(()),
    "resized": st.tuples(st.integers(-16, 16), st.integers(0, 32).map(lambda half: 2 * half)),
    "contiguous": st.tuples(COUNTS),
    "vector": st.tuples(COUNTS, COUNTS, st.integers(-6, 6)),
    "hvector": st.tuples(
        COUNTS, COUNTS, st.sampled_from([-64, -24, -8, -3, 0, 4, 8, 9, 16, 24, 40, 72])
    ),
    "indexed": _indexed(block=False, units=(1,)),
    "hindexed": _indexed(block=False),
    "indexed_block": _indexed(block=True, units=(1,)),
    "hindexed_block": _indexed(block=True),
    "struct": _indexed(block=False),
    "subarray": _subarrays(),
    "darray": _darrays(),
}


class Objects:
    """`count` objects of a datatype in a buffer of their own, for MPI's Pack and Unpack.

    memory : uint8, every byte that the objects may touch; its first byte lies `low` bytes from the
        objects' address.
    """

    def __init__(self, datatype: MPI.Datatype, count: int) -> None:
        self._open = ExitStack()
        (start, reach), (_, extent) = datatype.Get_true_extent(), datatype.Get_extent()
        last = (count - 1) * extent
        self.low = start + min(0, last)
        self.memory = np.zeros(reach + abs(last), np.uint8)
        self.nbytes = count * datatype.Get_size()
        # Pack takes as many objects as fit the buffer's length; where extents run backwards, they
        # become one object.
        moved = self._keep(datatype.Create_contiguous(count) if extent <= 0 else datatype.Dup())
        moved = self._keep(moved.Create_hindexed([1], [-self.low]))
        self._datatype = self._keep(moved.Create_resized(0, max(extent, 1))).Commit()
        self._buffer = MPI.buffer.fromaddress(
            self.memory.ctypes.data, count * extent if extent > 0 else 1
        )

    def _keep(self, datatype: MPI.Datatype) -> MPI.Datatype:
        self._open.callback(datatype.Free)
        return datatype

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def pack(self) -> np.ndarray:
        packed = np.zeros(self.nbytes + 1, np.uint8)
        assert self._datatype.Pack(self._buffer, packed, 0, MPI.COMM_SELF) == self.nbytes
        return packed[: self.nbytes]

    def unpack(self, packed: np.ndarray) -> None:
        assert self._datatype.Unpack(packed, 0, self._buffer, MPI.COMM_SELF) == self.nbytes

    def bytes_visited(self) -> np.ndarray:
        """Return each byte's offset in MPI's order, (nbytes,) int64; packs digits of addresses."""
        address = np.arange(self.memory.size)
        visited = np.full(self.nbytes, self.low)
        for digit in range(3):
            self.memory[:] = address >> 8 * digit & 255
            visited += self.pack().astype(np.int64) << 8 * digit
        return visited


def loops_of(visited: np.ndarray) -> tuple[Any, ...] | None:
    """Return (start, counts, strides, row) of visited bytes, the slow way; None: no nest."""
    places, counts, strides = visited.tolist(), [], []
    step = 1
    while True:
        count = 1
        while count < len(places) and places[count] == places[0] + count * step:
            count += 1
        if places != [head + i * step for head in places[::count] for i in range(count)]:
            return None
        counts.insert(0, count)
        strides.insert(0, step)
        places = places[::count]
        if len(places) == 1:
            return places[0], tuple(counts[:-1]), tuple(strides[:-1]), counts[-1]
        step = places[1] - places[0]
