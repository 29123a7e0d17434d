"""The communicator on which all collectives of one user communicator talk; its node; its parts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from hpckit.errors import ConfigError, HpckitError, check_comm, together
from hpckit.log import get_logger
from hpckit.machine.lifetime import free_with, never_free
from hpckit.machine.links import Links
from hpckit.machine.node_memory import NodeMemory, kept_by

_TAGS = 32768  # MPI promises tags below this
LIMIT = 1 << 30  # elements in one call: not every MPI counts beyond 2**31
_FAR = 5e-4  # seconds of latency from which asking before sending costs more than cutting messages
_ENOUGH = 1 << 20  # bytes of each rank that algorithms in shared memory are sure to do with
_EAGER = 1 << 15  # bytes that MPICH and Open MPI send without asking the receiver first


def empty(
    comm: MPI.Intracomm, shape: int | tuple[int, ...], dtype: DTypeLike = float
) -> np.ndarray:
    """An array of zeros that this node's ranks share: they reduce it where it is (collective).

    Shapes may differ between ranks. Raises `HpckitError` on all ranks where the memory cannot be
    had, and `ConfigError` for what is no shape or dtype. ::

        gradient = empty(comm, 100_000, np.float32)
    """
    with together(comm):
        sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
        whole = all(isinstance(n, int | np.integer) and n >= 0 for n in sizes)
        if not whole or np.dtype(dtype).hasobject:
            raise ConfigError(
                f"shape {shape} and dtype {dtype!r} must be whole numbers from 0 on, and numbers"
            )
    node = Channel.of(comm).node
    with together(comm):  # the ranks of a node fail together, but other nodes may have room
        return node.zeros(tuple(map(int, sizes)), dtype)


class Channel:
    """One per communicator, by `of(comm)`: a duplicate, for no message of the user's to meet ours.

    node : memory that this rank's node shares; by default the real one
    plans : what `hpckit.collectives.allreduce` keeps for its next call
    links, choices : what `hpckit.collectives.select` has measured and chosen
    """

    def __init__(self, comm: MPI.Intracomm, node: NodeMemory | None = None) -> None:
        check_comm(comm)
        self.comm = comm.Dup()
        free_with(self, self.comm)
        self.rank = comm.rank
        self.size = comm.size
        self.node = node or NodeMemory.of(self.comm)
        self.plans: dict[Any, Any] = {}
        self.links: Links | None = None
        self.choices: dict[Hashable, str] = {}
        self._parts: dict[Hashable, Channel | None] = {}
        self._tag = 0
        self._eager = 0

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> Self:
        """The channel that belongs to `comm`, made at the first call (collective)."""
        if not isinstance(comm, MPI.Comm) or comm == MPI.COMM_NULL:
            check_comm(comm)  # says why
        return kept_by(comm, cls)

    @property
    def one_node(self) -> bool:
        """Whether all ranks share the node's memory."""
        return self.node.comm.size == self.size

    @cached_property
    def shares_memory(self) -> bool:
        """Whether the ranks of every node can share memory (collective at the first use)."""
        reason = None
        try:
            self.node.zeros((_ENOUGH,), np.uint8)
        except HpckitError as error:
            reason = error
        everywhere = self.comm.allreduce(reason is None, MPI.LAND)
        if reason and self.node.comm.rank == 0:
            get_logger(__name__).warning(
                "sums over ranks take messages instead of shared memory: %s", reason
            )
        return everywhere

    @property
    def eager(self) -> int:
        """Most bytes of a message that is not to wait for the receiver's answer; 0: let it wait."""
        return _EAGER if self.links and self.links.farthest > _FAR else self._eager

    def tag(self) -> int:
        """Another tag at each call, the same on all ranks, which make plans in one order."""
        self._tag = (self._tag + 1) % _TAGS
        return self._tag

    def part(self, name: Hashable, color: int | None) -> Channel | None:
        """The ranks that pass the same color; None without one (collective at the first call).

        name : tells this division from others of the same channel
        """
        if name not in self._parts:
            comm = self.comm.Split(MPI.UNDEFINED if color is None else color, self.rank)
            self._parts[name] = None if comm == MPI.COMM_NULL else Channel(MPI.Intracomm(comm))
            if comm != MPI.COMM_NULL:
                comm.Free()  # the channel has a duplicate
        part = self._parts[name]
        if part:
            part._eager = self.eager  # the links may have been measured since it was made
        return part

    def never_free(self) -> None:
        """Something was begun here that is not finished: see `lifetime.never_free`."""
        never_free(self.comm)
        for part in self._parts.values():
            if part:
                part.never_free()
