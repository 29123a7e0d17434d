"""Arrays in memory that all ranks of a node can address.

It is a file without a name, mapped by every rank of the node: unlike an MPI window, each rank lets
go of it alone, when its own arrays are gone, and the system takes it back when nobody maps it any
more, processes that were killed included.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from hpckit import native
from hpckit.errors import ConfigError, HpckitError, together
from hpckit.machine.lifetime import free_with
from hpckit.machine.memory import available
from hpckit.machine.overlap import identical
from hpckit.units import amount

SHARED_MEMORY = Path("/dev/shm")
_T = TypeVar("_T")


@cache
def _key(_: object) -> int:
    """Made at the first use, so that importing needs no MPI_Init."""
    return MPI.Comm.Create_keyval()


def kept_by(comm: MPI.Intracomm, make: Callable[..., _T], *arguments: object) -> _T:
    """What `make(comm, *arguments)` gave at the first call for this communicator (collective)."""
    kept: Any = comm.Get_attr(_key(make))
    if kept is None:
        kept = make(comm, *arguments)
        comm.Set_attr(_key(make), kept)
    return kept


@contextlib.contextmanager
def node_ranks(comm: MPI.Intracomm) -> Iterator[MPI.Intracomm]:
    """A communicator of this node's ranks, for the time of a block (collective)."""
    node = MPI.Intracomm(comm.Split_type(MPI.COMM_TYPE_SHARED))
    try:
        yield node
    finally:
        node.Free()


class _Memory:
    """All of a file, mapped as long as this lives: every array of it keeps it alive.

    Not `mmap.mmap`, which keeps a descriptor open.
    """

    def __init__(self, file: int, nbytes: int) -> None:
        self.address = _libc().mmap(
            None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0
        )
        if self.address in (None, _FAILED):
            raise HpckitError(
                f"cannot map {amount(nbytes)} of shared memory: {os.strerror(ctypes.get_errno())}"
            )
        weakref.finalize(
            self, _libc().munmap, self.address, nbytes
        ).atexit = False  # MPI may use it until the end


_FAILED = ctypes.c_void_p(-1).value


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


class _Segment:
    """A piece of it, as NumPy sees it: the base of all arrays made from it."""

    def __init__(self, memory: _Memory, start: int, nbytes: int) -> None:
        self.memory = memory
        self.__array_interface__ = {
            "data": (memory.address + start, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


class _Layout(NamedTuple):
    """What a rank puts at the beginning of its part."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Allocation:
    """One allocation, its `number` the same on all ranks; `starts[rank]` begins a rank's part."""

    number: int
    memory: weakref.ref[_Memory]
    starts: list[int]
    layouts: list[_Layout]

    def array(self, rank: int, memory: _Memory) -> np.ndarray:
        shape, dtype, order = self.layouts[rank]
        return self.part(rank, memory, 0, math.prod(shape), dtype).reshape(shape, order=order)

    def part(
        self, rank: int, memory: _Memory, offset: int, count: int, dtype: np.dtype
    ) -> np.ndarray:
        return np.asarray(
            _Segment(memory, self.starts[rank] + offset, count * dtype.itemsize)
        ).view(dtype)

    def offset(self, rank: int, memory: _Memory, array: np.ndarray) -> int | None:
        """Where a contiguous array begins in this rank's part; None where it lies elsewhere."""
        offset = native.address(array) - memory.address - self.starts[rank]
        return (
            offset
            if 0 <= offset <= self.starts[rank + 1] - self.starts[rank] - array.nbytes
            else None
        )


class NodeMemory:
    """Arrays that the ranks of `comm` on one node share: makes them, finds the others' of ours.

    Get it by `of(comm)`: one per communicator. ::

        memory = NodeMemory.of(comm)
        mine = memory.zeros(100)
        theirs = memory.peers(mine)  # by rank of comm: the others' hundred, to read and to write
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = MPI.Intracomm(comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank))
        free_with(self, self.comm)
        self.ranks = self.comm.allgather(comm.rank)
        self._made = 0
        self._allocations: list[_Allocation] = []

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> Self:
        """The memory that belongs to `comm`, made at the first call (collective)."""
        return kept_by(comm, cls)

    def zeros(
        self, shape: int | Sequence[int], dtype: DTypeLike = float, order: Literal["C", "F"] = "C"
    ) -> np.ndarray:
        """This rank's array of zeros in new memory, page-aligned (collective).

        Shapes and dtypes may differ between ranks. Raises `HpckitError` on all ranks where the
        memory cannot be had.
        """
        with together(self.comm):
            layout = _layout(shape, dtype, order)
        layouts = self.comm.allgather(layout)
        starts = [0]
        for each in layouts:
            starts.append(starts[-1] + max(-(-each.nbytes // mmap.PAGESIZE), 1) * mmap.PAGESIZE)
        memory = self._allocate(starts)
        self._allocations = [each for each in self._allocations if each.memory()]
        self._allocations.append(_Allocation(self._made, weakref.ref(memory), starts, layouts))
        self._made += 1
        return self._allocations[-1].array(self.comm.rank, memory)

    def peers(self, array: np.ndarray) -> dict[int, np.ndarray] | None:
        """By rank, the node's arrays that `zeros` made together with `array`, ours included.

        `array` may be a view of the whole allocation; anything else is not shared: None.
        """
        for allocation, memory in self._alive():
            if allocation.offset(self.comm.rank, memory, array) == 0:
                if identical(allocation.array(self.comm.rank, memory), array):
                    return {
                        rank: allocation.array(at, memory) for at, rank in enumerate(self.ranks)
                    }
                return None
        return None

    def rows(self, array: np.ndarray) -> list[np.ndarray] | None:
        """The arrays that the node's ranks, in their order, pass to this call (collective).

        array : (n,) contiguous; any part of what `zeros` made, wherever it begins. Where the ranks'
            arrays do not all
        lie in one allocation: None.
        """
        found, place = None, (-1, -1)
        for allocation, memory in self._alive():
            offset = allocation.offset(self.comm.rank, memory, array)
            if offset is not None:
                found, place = (allocation, memory), (allocation.number, offset)
        places = self.comm.allgather(place)
        if found is None or len({number for number, _ in places}) > 1:
            return None
        allocation, memory = found
        return [
            allocation.part(rank, memory, offset, array.size, array.dtype)
            for rank, (_, offset) in enumerate(places)
        ]

    def _alive(self) -> list[tuple[_Allocation, _Memory]]:
        return [
            (allocation, memory)
            for allocation in self._allocations
            if (memory := allocation.memory())
        ]

    def _allocate(self, starts: Sequence[int]) -> _Memory:
        """New memory, each rank's part on pages near that rank."""
        rank, nbytes = self.comm.rank, starts[-1]
        file = self._open(nbytes)
        try:
            with together(self.comm):
                memory = _Memory(file, nbytes)
                _reserve(file, starts[rank], starts[rank + 1])
                own = _Segment(memory, starts[rank], starts[rank + 1] - starts[rank])
                np.asarray(own)[:] = 0  # the first touch
                return memory
        finally:
            os.close(file)

    def _open(self, nbytes: int) -> int:
        """A descriptor of a new file in memory, the same file on all ranks (collective)."""
        for make in (_nameless, _named):
            file, place = -1, None
            with contextlib.suppress(OSError, AttributeError):
                if self.comm.rank == 0:
                    room = int(min(available(), 1 << 62))
                    file, place = make(nbytes) if nbytes <= room else (-1, room)
            place = self.comm.bcast(place)
            if isinstance(place, int):
                raise HpckitError(
                    f"shared arrays of {amount(nbytes)} do not fit into this node's memory, of "
                    f"which {amount(place)} are"
                    " free: use shared=False, or more nodes"
                )
            with contextlib.suppress(OSError):
                if self.comm.rank > 0 and place:
                    file = _opened(*place)
            everyone = self.comm.allreduce(file >= 0, MPI.LAND)
            if make is _named and self.comm.rank == 0 and place:
                Path(place[0]).unlink()
            if everyone:
                return file
            if file >= 0:
                os.close(file)
        raise HpckitError(
            f"the ranks of this node cannot share memory: neither /proc/PID/fd nor {SHARED_MEMORY} "
            "is open to them; use"
            " shared=False, or start the container with --shm-size and one name space of processes"
        )


def _layout(shape: int | Sequence[int], dtype: DTypeLike, order: Literal["C", "F"]) -> _Layout:
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise ConfigError(
            f"arrays of dtype {dtype} cannot be shared: Python objects belong to one process"
        )
    if order not in ("C", "F"):
        raise ConfigError(f"order {order!r} must be 'C' or 'F'")
    return _Layout(tuple(map(int, np.atleast_1d(shape))), dtype, order)


def _nameless(nbytes: int) -> tuple[int, tuple]:
    """It takes no room of /dev/shm, which containers keep small."""
    file = os.memfd_create("hpckit-shared")
    os.ftruncate(file, nbytes)
    return file, _place(f"/proc/{os.getpid()}/fd/{file}", file)


def _named(nbytes: int) -> tuple[int, tuple]:
    file, path = tempfile.mkstemp(prefix="hpckit-", dir=SHARED_MEMORY)
    os.ftruncate(file, nbytes)
    return file, _place(path, file)


def _place(path: str, file: int) -> tuple[str, int, int]:
    status = os.fstat(file)
    return path, status.st_dev, status.st_ino


def _opened(path: str, device: int, number: int) -> int:
    """That file, and no other of this name: containers may number processes differently."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if _place(path, file) == (path, device, number):
        return file
    os.close(file)
    return -1


def _reserve(file: int, start: int, stop: int) -> None:
    """Touching memory that is not there would end the process."""
    try:
        os.posix_fallocate(file, start, stop - start)
    except OSError as error:
        raise HpckitError(
            f"{amount(stop - start)} of shared memory cannot be had: "
            f"{os.strerror(error.errno or 0)}; use shared=False,"
            " or in a container more memory (--memory, --shm-size)"
        ) from error
