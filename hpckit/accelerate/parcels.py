"""What MPI gets instead of a buffer: the buffer as it is, or its bytes packed in a slab.

Both are a `Parcel`, used in one way by the calls of `hpckit.accelerate.communicators`. Packed bytes
travel as `MPI.PACKED`, which matches every type at the other end.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack import Move, Moves, dense_strides
from hpckit.comm.strided import StridedBlock
from hpckit.comm.tables import MOVE, MOVE_AT

# Where buffers are when moves are made. No address is 0 there, as none will be: 0 means no twin.
_NOWHERE = 1 << 46


class Parcel(Protocol):
    """A message for the time of a `with` block."""

    message: Any
    """what MPI gets"""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

    def gather(self) -> None:
        """Before it is sent."""
        ...

    def arrived(self, status: MPI.Status) -> None:
        """After it has come; the status says how much of it."""
        ...


class Plain:
    """The buffer as it is: MPI walks it, or raises its own errors."""

    __slots__ = ("message",)

    def __init__(self, buffer: Any) -> None:
        self.message = buffer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def gather(self) -> None:
        pass

    def arrived(self, status: MPI.Status) -> None:
        pass


class Packed(ABC):
    """A message of packed bytes, in memory that MPI may read and write.

    memory : (n,) uint8
    home : where it comes back to after its use, if that is still there
    """

    def __init__(self, memory: np.ndarray, home: Slabs[Any]) -> None:
        self.message = [memory, memory.size, MPI.PACKED]
        self._memory = memory
        self._home = weakref.ref(home)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if home := self._home():
            home.idle.append(self)

    @abstractmethod
    def gather(self) -> None:
        """From the buffer to the packed bytes."""

    @abstractmethod
    def scatter(self) -> None:
        """From the packed bytes to the buffer."""

    def arrived(self, status: MPI.Status) -> None:
        """Scatter; what a short message lacks is gathered first, and comes back to where it was."""
        nbytes = status.Get_count(MPI.BYTE)
        if 0 < nbytes < self._memory.size:
            came = self._memory[:nbytes].copy()
            self.gather()
            self._memory[:nbytes] = came
        if nbytes:
            self.scatter()


class Slab(Packed):
    """The packed bytes of a block in a buffer, which may lie elsewhere in each message."""

    def __init__(self, block: StridedBlock, home: Slabs[Slab]) -> None:
        super().__init__(np.empty(block.nbytes, np.uint8), home)
        self._address = 0
        self._gather = _Walk(block, self._memory, "source")
        self._scatter = _Walk(block, self._memory, "target")

    def at(self, address: int) -> Self:
        """Of the buffer at this address, until the next message."""
        self._address = address
        return self

    def gather(self) -> None:
        self._gather(self._address)

    def scatter(self) -> None:
        self._scatter(self._address)


P = TypeVar("P", bound=Packed)


class Slabs(Generic[P]):
    """Those of one layout. Each message takes one of its own: several threads may send at once.

    make : a new one, given this, where it comes back to
    """

    def __init__(self, make: Callable[[Slabs[P]], P]) -> None:
        self._make = make
        self.idle: list[P] = []

    def take(self) -> P:
        """One that nobody uses; it comes back by itself."""
        try:
            return self.idle.pop()
        except IndexError:
            return self._make(self)


class _Walk:
    """The moves between packed bytes and a buffer at any address, one end of them."""

    def __init__(
        self, block: StridedBlock, packed: np.ndarray, end: Literal["source", "target"]
    ) -> None:
        there = _NOWHERE + block.start, block.strides
        here = native.address(packed), dense_strides(block.counts, block.row)
        ends = (*there, *here) if end == "source" else (*here, *there)
        moves = Moves([Move(block.counts, block.row, *ends)])
        self._run = moves.run
        self._address = _NOWHERE
        self._words = memoryview(moves.table.view(np.int64))
        self._ends = [
            row + word
            for row in range(0, len(self._words), MOVE.itemsize // 8)
            for word in (getattr(MOVE_AT, end), getattr(MOVE_AT, f"twin_{end}"))
            if self._words[row + word]
        ]

    def __call__(self, address: int) -> None:
        if address != self._address:
            for word in self._ends:
                self._words[word] += address - self._address
            self._address = address
        self._run()
