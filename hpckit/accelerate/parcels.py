"""What MPI gets instead of a buffer: the buffer as it is, or its bytes packed in a slab.

Both are a `Parcel`, used in one way by the calls of `hpckit.accelerate.communicators`. Packed bytes
travel as `MPI.PACKED`, which matches every type at the other end.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, Self

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


class Slabs:
    """Those of one block. Each message takes one of its own: several threads may send at once."""

    def __init__(self, block: StridedBlock) -> None:
        self._block = block
        self._idle: list[Slab] = []

    def take(self, address: int) -> Slab:
        """One that nobody uses, for a buffer at this address; it comes back by itself."""
        try:
            slab = self._idle.pop()
        except IndexError:
            slab = Slab(self._block, self._idle)
        slab.address = address
        return slab


class Slab:
    """The packed bytes of a block in a buffer at `address`, which may change between messages.

    idle : where it comes back to
    """

    def __init__(self, block: StridedBlock, idle: list[Slab]) -> None:
        self.address = 0
        self._bytes = np.empty(block.nbytes, np.uint8)
        self.message = [self._bytes, block.nbytes, MPI.PACKED]
        self._gather = _Walk(block, self._bytes, "source")
        self._scatter = _Walk(block, self._bytes, "target")
        self._idle = idle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._idle.append(self)

    def gather(self) -> None:
        self._gather(self.address)

    def arrived(self, status: MPI.Status) -> None:
        """Scatter; what a short message lacks is gathered first, and comes back to where it was."""
        nbytes = status.Get_count(MPI.BYTE)
        if 0 < nbytes < self._bytes.size:
            came = self._bytes[:nbytes].copy()
            self._gather(self.address)
            self._bytes[:nbytes] = came
        if nbytes:
            self._scatter(self.address)


class _Walk:
    """The moves between packed bytes and a buffer, its end, at any address."""

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
