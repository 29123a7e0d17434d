"""Device memory that the ranks of a node read from each other, and counters that say when.

What a rank allocates, others open; who gives back memory that others still read, or have still
open, breaks them. So it is given back when every reader has said, by a counter of the host, that it
has closed it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpckit.errors import together

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.comm.device import Device, Memory
    from hpckit.machine.node_memory import NodeMemory

COUNTER = (1 << 32) - 1  # the largest value of a counter; 0 comes after it
_BLOCK = 1 << 21  # bytes that a GPU shows to others as a whole, with whatever else lies there
_APART = 128  # bytes from one counter to the next: lines of caches are fetched in pairs
_CLOSED = mmap.PAGESIZE // _APART - 1  # the last counter of a rank


class PeerMemory:
    """`nbytes` of ours, those of `ranks` of this node, and everybody's counters (collective).

    comm : the ranks that fail together, numbered as in `node.ranks`
    ranks : whose memory this rank reads; they read ours
    first : what the counters begin with
    event : record it after the last use of all this: it is given back only when that is done

    Counters are 32-bit numbers in host memory that the node shares: hosts read them, streams write
    them and wait for them. A rank has 31 of them, each for a purpose of the caller. ::

        memory = PeerMemory(comm, NodeMemory.of(comm), device, 4096, ranks=[other])
        device.copy(memory.address, ours, 4096, stream)
        device.signals([("write", memory.counter(comm.rank, 0))], stream)([1])
        device.signals([("wait", memory.counter(other, 0))], stream)([1])
        device.copy(ours, memory.theirs(other), 4096, stream)
        memory.event.record(stream)
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        node: NodeMemory,
        device: Device,
        nbytes: int,
        ranks: Sequence[int],
        first: int = 0,
    ) -> None:
        self._rank = comm.rank
        self._mine: Memory | None = None
        exported = None
        with together(comm):
            self.event = device.event()
            if nbytes:
                self._mine = device.allocate(-(-nbytes // _BLOCK) * _BLOCK)
                exported = device.export(self._mine)
        exports = dict(zip(node.ranks, node.comm.allgather(exported), strict=True))
        pages = node.peers(node.zeros((mmap.PAGESIZE,), np.uint8)) or {}
        self._counters = {rank: pages[rank].view(np.uint32)[:: _APART // 4] for rank in ranks}
        own = pages[self._rank].view(np.uint32)[:: _APART // 4]
        self._counters[self._rank] = own
        own[:_CLOSED] = first & COUNTER
        with together(comm):
            self._theirs = {rank: device.open(exports[rank]) for rank in ranks if exports[rank]}
            self._registered = {rank: device.register(pages[rank]) for rank in self._counters}
        node.comm.Barrier()  # nobody reads a counter before it is set

    @property
    def address(self) -> int:
        """Of our memory; 0 where there is none."""
        return self._mine.address if self._mine else 0

    def theirs(self, rank: int) -> int:
        """Address of the memory of another rank; 0 where it has none."""
        return self._theirs[rank].address if rank in self._theirs else 0

    def counter(self, rank: int, which: int) -> int:
        """Address of one of a rank's counters, for `Device.signals`."""
        return self._registered[rank].address + which * _APART

    def value(self, rank: int, which: int) -> int:
        """Of one of a rank's counters now."""
        return int(self._counters[rank][which])

    def reached(self, rank: int, which: int, value: int) -> bool:
        """Whether a counter has come to this value or beyond, cyclically, as streams see it."""
        return (self.value(rank, which) - value) & COUNTER <= COUNTER >> 1

    def given_back(self) -> bool:
        """Give back what can be, when this rank needs it no more; whether that was all of it."""
        if not self.event.done():
            return False
        self._theirs.clear()
        self._registered.clear()
        self._counters[self._rank][_CLOSED] = 1
        if all(counters[_CLOSED] for counters in self._counters.values()):
            self._mine = None
        return self._mine is None
