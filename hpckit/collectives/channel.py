"""The communicator on which all collectives of one user communicator talk, and the ranks of this node."""

from __future__ import annotations

from typing import Any, Self

from mpi4py import MPI

from hpckit.comm.shared import NodeMemory, free_with

_KEY = MPI.Comm.Create_keyval()
_TAGS = 32768  # MPI promises tags below this


class Channel:
    """One per communicator, by `of(comm)`: a duplicate of it, so that no message of the user's meets one of ours.

    plans : what `hpckit.collectives.allreduce` keeps for its next call
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm.Dup()
        free_with(self, self.comm)
        self.rank, self.size = comm.rank, comm.size
        self.plans: dict[Any, Any] = {}
        self._tag = 0

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> Self:
        """The channel that belongs to `comm`, made at the first call (collective)."""
        channel = comm.Get_attr(_KEY)
        if not isinstance(channel, cls):
            channel = cls(comm)
            comm.Set_attr(_KEY, channel)
        return channel

    def tag(self) -> int:
        """Another tag at each call; the same on all ranks, because plans are made by all of them in one order."""
        self._tag = (self._tag + 1) % _TAGS
        return self._tag

    @property
    def node(self) -> NodeMemory:
        """Memory shared by the ranks of this node (collective at the first use)."""
        return NodeMemory.of(self.comm)
