"""Memory of the stand-in for a GPU: seen twice, and without rights where users see it.

What a device's addresses say lies in pages that the host cannot touch: a process that reads or
writes them, its MPI library too, dies of SIGSEGV, as with a GPU's memory. What runs on the device
finds the same pages `INSIDE` bytes further on.

All memory of a device is one file without a name, mapped whole at both places before anything is
allocated. So to allocate is to give rights to some pages, and to free is to take them away together
with what was there; other ranks map parts of the file, as those of GPUs do by handles.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from bisect import bisect, insort
from collections.abc import Iterable
from functools import cache
from itertools import chain, islice

from hpckit.errors import HpckitError
from hpckit.ptx.conventions import INSIDE, SPACE, SPACE_BITS
from hpckit.units import amount

ROOM = 1 << 34  # bytes of a device, and of its addresses
MOST = 64  # devices
READABLE = "HPCKIT_STAND_IN"  # set to "readable": the host may touch the memory as well
_POISON = 1 << 20  # bytes of new memory that are made NaN
_NO_REPLACE = 0x10_0000  # MAP_FIXED_NOREPLACE
_FIXED = 0x10
_PUNCH_HOLE = 0x3  # and keep the size


def inside(address: int) -> int:
    """Where what runs on a device finds the memory of an address; the host's own is where it is."""
    return address + INSIDE if address >> SPACE_BITS == SPACE >> SPACE_BITS else address


class Space:
    """The addresses of device `number`, and the file with what is there."""

    def __init__(self, number: int) -> None:
        self.start = SPACE + number * ROOM
        self.file = os.memfd_create("hpckit-stand-in")
        os.ftruncate(self.file, ROOM)
        self._outside = mmap.PROT_READ | mmap.PROT_WRITE if is_readable() else 0
        for start in self._views(self.start):
            _map(start, ROOM, self.file, 0, _NO_REPLACE)
        self._taken: list[tuple[int, int]] = []  # (begin, end) of each piece, a guard page included
        # Ranks begin at different places, so that an address of one means nothing to another.
        self._next = self.start + os.getpid() % 512 * (ROOM // 1024)

    def holds(self, address: int) -> bool:
        return self.start <= address < self.start + ROOM

    def allocate(self, nbytes: int) -> int:
        """The address of new memory, full of NaNs. Raises `HpckitError` where there is no room."""
        address = self._take(nbytes)
        self._allow(address, nbytes)
        ctypes.memset(inside(address), 0xFF, min(nbytes, _POISON))
        return address

    def free(self, address: int, nbytes: int) -> None:
        """Give it back: touching it is fatal from now on."""
        _libc().fallocate(self.file, _PUNCH_HOLE, address - self.start, _pages(nbytes))
        self._forbid(address, nbytes)
        self._release(address)

    def map(self, file: int, offset: int, nbytes: int) -> int:
        """The address of another rank's memory, in its file."""
        address = self._take(nbytes)
        for start in self._views(address):
            _map(start, _pages(nbytes), file, offset)
        self._allow(address, nbytes)
        return address

    def unmap(self, address: int, nbytes: int) -> None:
        for start in self._views(address):
            _map(start, _pages(nbytes), self.file, address - self.start)
        self._release(address)

    def _views(self, address: int) -> tuple[int, int]:
        return address, inside(address)

    def _allow(self, address: int, nbytes: int) -> None:
        _protect(address, nbytes, self._outside)
        _protect(inside(address), nbytes, mmap.PROT_READ | mmap.PROT_WRITE)

    def _forbid(self, address: int, nbytes: int) -> None:
        for start in self._views(address):
            _protect(start, nbytes, 0)

    def _take(self, nbytes: int) -> int:
        """Addresses of whole pages, with one after them that nobody may touch."""
        room = _pages(nbytes) + mmap.PAGESIZE
        begin = self._hole(room, self._next)
        begin = self._hole(room, self.start) if begin is None else begin
        if begin is None:
            free = ROOM - sum(end - begin for begin, end in self._taken)
            raise HpckitError(
                f"{amount(nbytes)} of device memory cannot be had: {amount(free)} of "
                f"{amount(ROOM)} are free; use fewer or smaller arrays, or more devices"
            )
        insort(self._taken, (begin, begin + room))
        self._next = begin + room
        return begin

    def _hole(self, room: int, begin: int) -> int | None:
        """The first one from there on: what was freed last is not used again at once."""
        taken = islice(self._taken, bisect(self._taken, (begin,)), None)
        end: Iterable[tuple[int, int]] = [(self.start + ROOM, 0)]
        for start, stop in chain(taken, end):
            if start - begin >= room:
                return begin
            begin = stop
        return None

    def _release(self, address: int) -> None:
        del self._taken[bisect(self._taken, (address,))]


def is_readable() -> bool:
    return os.environ.get(READABLE) == "readable"


def _pages(nbytes: int) -> int:
    return -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE


def _map(address: int, nbytes: int, file: int, offset: int, how: int = _FIXED) -> None:
    """Map part of a file there, without rights."""
    if _libc().mmap(address, nbytes, 0, mmap.MAP_SHARED | how, file, offset) != address:
        raise HpckitError(
            f"the stand-in cannot have {amount(nbytes)} of addresses at {address:#x}: "
            f"{os.strerror(ctypes.get_errno())}"
        )


def _protect(address: int, nbytes: int, rights: int) -> None:
    if _libc().mprotect(address, _pages(nbytes), rights):
        raise HpckitError(
            f"the stand-in cannot have {amount(nbytes)} more: {os.strerror(ctypes.get_errno())}"
        )


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    return libc
