"""Arrays in memory that all ranks of a node can address: MPI shared windows."""

from __future__ import annotations

import math
import mmap
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from hpckit.comm.lifetime import free_with
from hpckit.errors import HpckitError, together

SHARED_MEMORY = Path("/dev/shm")
_T = TypeVar("_T")


@cache
def _key(_: object) -> int:
    """Made at the first use, so that importing needs no MPI_Init."""
    return MPI.Comm.Create_keyval()


def kept_by(comm: MPI.Intracomm, make: Callable[[MPI.Intracomm], _T]) -> _T:
    """What `make(comm)` gave at the first call for this communicator (collective)."""
    kept: Any = comm.Get_attr(_key(make))
    if kept is None:
        kept = make(comm)
        comm.Set_attr(_key(make), kept)
    return kept


class _Owner:
    """Kept alive by every array of one window, on this rank or viewing a peer; its death says that none is left."""


class _Segment:
    """One rank's part of a window, as NumPy sees it: the base of all arrays made from it."""

    def __init__(self, owner: _Owner, address: int, nbytes: int) -> None:
        self.owner = owner
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}


@dataclass(frozen=True)
class _Window:
    """A window, and what each rank of the node put into it."""

    handle: MPI.Win
    owner: weakref.ref[_Owner]
    layouts: list[tuple[int, tuple[int, ...], np.dtype, str]]  # offset in the rank's part, shape, dtype, order

    def array(self, rank: int, owner: _Owner) -> np.ndarray:
        offset, shape, dtype, order = self.layouts[rank]
        return self.part(rank, owner, offset, math.prod(shape), dtype).reshape(shape, order=order)  # type: ignore[call-overload]

    def part(self, rank: int, owner: _Owner, offset: int, count: int, dtype: np.dtype) -> np.ndarray:
        memory, _ = self.handle.Shared_query(rank)
        return np.asarray(_Segment(owner, memory.address + offset, count * dtype.itemsize)).view(dtype)

    def offset(self, rank: int, array: np.ndarray) -> int | None:
        """Where a contiguous array begins in this rank's part; None where it lies elsewhere."""
        memory, _ = self.handle.Shared_query(rank)
        offset = array.__array_interface__["data"][0] - memory.address
        return offset if 0 <= offset <= len(memory) - array.nbytes else None


class NodeMemory:
    """Makes arrays in windows shared by the ranks of `comm` on one node, and finds the other ranks' arrays beside ours.

    Freeing a window is collective, but the ranks' garbage collectors do not act together. So the next `zeros` frees
    the windows that no rank uses any more, and MPI_Finalize the rest; an array never loses its memory before that.
    Get it by `of(comm)`: one per communicator, so that a new grid can free what an old one left.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = MPI.Intracomm(comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank))
        free_with(self, self.comm)
        self.ranks = self.comm.allgather(comm.rank)
        self._windows: list[_Window] = []

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> Self:
        """The memory that belongs to `comm`, made at the first call (collective)."""
        return kept_by(comm, cls)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> np.ndarray:
        """This rank's array of zeros in a new window, page-aligned (collective).

        Shapes may differ between ranks. Raises `HpckitError` on all ranks where the memory cannot be had.
        """
        self._free_unused()
        dtype, page, rank = np.dtype(dtype), mmap.PAGESIZE, self.comm.rank
        nbytes = math.prod(shape) * dtype.itemsize
        handle = self._allocate(-(-nbytes // page) * page + page)
        memory, _ = handle.Shared_query(rank)
        np.frombuffer(memory, np.uint8)[:] = 0  # the first touch: places the pages near this rank
        layouts = self.comm.allgather((-memory.address % page, tuple(shape), dtype, order))
        owner = _Owner()
        self._windows.append(_Window(handle, weakref.ref(owner), layouts))
        return self._windows[-1].array(rank, owner)

    def peers(self, array: np.ndarray) -> dict[int, np.ndarray] | None:
        """By rank, the arrays that `zeros` made on each rank of the node together with `array`, ours included.

        `array` may be a view of the whole allocation; anything else is not shared: None.
        """
        for window in self._windows:
            owner = window.owner()
            mine = owner and window.array(self.comm.rank, owner)
            if owner and mine is not None and _identical(mine, array):
                return {rank: window.array(at, owner) for at, rank in enumerate(self.ranks)}
        return None

    def rows(self, array: np.ndarray) -> list[np.ndarray] | None:
        """The arrays, in the order of the node's ranks, that these pass to one call of `rows` (collective).

        array : (n,) contiguous; any part of what `zeros` made, wherever it begins. Where the ranks' arrays do not all
        lie in one window: None.
        """
        owner, place = None, (-1, -1)
        for number, window in enumerate(self._windows):
            offset = window.offset(self.comm.rank, array) if window.owner() else None
            if offset is not None:
                owner, place = window.owner(), (number, offset)
        places = self.comm.allgather(place)
        if owner is None or len({number for number, _ in places}) > 1:
            return None
        window = self._windows[place[0]]
        return [window.part(rank, owner, offset, array.size, array.dtype) for rank, (_, offset) in enumerate(places)]

    def _allocate(self, nbytes: int) -> MPI.Win:
        node_bytes = self.comm.allreduce(nbytes)
        with together(self.comm):
            _check_room(node_bytes)
        info = MPI.Info.Create({"alloc_shared_noncontig": "true"})  # else ranks share pages at their borders
        handle = MPI.Win.Allocate_shared(nbytes, 1, info, self.comm)
        info.Free()
        return handle

    def _free_unused(self) -> None:
        unused = np.array([window.owner() is None for window in self._windows], dtype=np.int32)
        if unused.size:
            self.comm.Allreduce(MPI.IN_PLACE, unused, op=MPI.MIN)
            for window in [w for w, free in zip(self._windows, unused, strict=True) if free]:
                self._windows.remove(window)
                window.handle.Free()


def _check_room(nbytes: int) -> None:
    """MPI hands out more than there is; the first touch would then end the process with SIGBUS."""
    if SHARED_MEMORY.exists() and nbytes > shutil.disk_usage(SHARED_MEMORY).free:
        raise HpckitError(
            f"shared arrays of {nbytes / 1e9:.1f} GB do not fit into {SHARED_MEMORY}, which has"
            f" {shutil.disk_usage(SHARED_MEMORY).free / 1e9:.1f} GB free: use shared=False or more nodes"
        )


def _identical(a: np.ndarray, b: Any) -> bool:
    """Same memory, shape, strides and dtype."""
    ours, theirs = a.__array_interface__, b.__array_interface__
    return ours["data"][0] == theirs["data"][0] and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
