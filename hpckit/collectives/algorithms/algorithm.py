"""What an algorithm of an allreduce is: a name, what it can do, and how it is bound to arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands, Persistent
from hpckit.collectives.schedule import Cuts, Schedule
from hpckit.comm.partition import starts
from hpckit.machine.links import Links


class Algorithm:
    """One way to reduce an array over all ranks, to the same bits on all of them.

    An algorithm has a `name` and a line in `hpckit.names`, by which it is chosen.
    One that gives another result than its operation says (`Reproducible`, `hpckit.lossy`) has no
    line there: who wants it passes it, as in `Allreduce(comm, x, algorithm=Reproducible())`. ::

        class Patient(Algorithm):
            name = "patient"

            def bind(self, operands):
                return Stages([Work(partial(time.sleep, 1)), ALGORITHMS["ring"].bind(operands)])
    """

    name: str
    kind = "host"  # of the place where it takes its operands
    in_rank_order = False  # so it combines operands: it serves operations that do not commute
    in_shared_memory = False  # it needs memory that the ranks of a node share
    on_one_node = False  # it serves the ranks of one node only
    acts_alone = False  # it changes numbers on one rank, too

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        """`ConfigError` unless it reduces such arrays by `op`, in so many chunks."""

    def cost(self, links: Links, nbytes: int, ranks: int) -> float | None:
        """Seconds by the links' latency and time per byte, a and b; None where it does not say.

        Those of the slowest pair count, with the links' `overhead` for each further message of a
        direct exchange, their `crowd` where all ranks send at once, and `gamma` for the additions
        (Thakur, Rabenseifner & Gropp, IJHPCA 19, 2005).

        ranks : above 1; as many as the links were measured for or, for estimates, any number
        """
        return None

    def bind(self, operands: Operands) -> Persistent:
        """The operation on these arrays, among several ranks (collective)."""
        raise NotImplementedError

    def error_bound(self, operations: Sequence[Persistent]) -> float:
        """The most by which an element of the sum of what these gave is wrong (collective)."""
        return 0.0

    def remark(self, channel: Channel) -> str:
        """What `explain` says of its use among these ranks."""
        return ""


class ByMessages(Algorithm):
    """An algorithm of point-to-point messages, which is a function of rank and number of ranks."""

    def schedule(self, rank: int, size: int, cuts: Cuts) -> Schedule:
        """This rank's rounds; rank r is responsible for elements cuts[r] to cuts[r + 1]."""
        raise NotImplementedError

    def cuts(self, operands: Operands) -> Cuts:
        """Where the ranks' responsibilities begin, and the end; by default all have as much."""
        return starts(operands.groups, operands.channel.size)

    def bind(self, operands: Operands) -> Messages:
        channel = operands.channel
        schedule = self.schedule(channel.rank, channel.size, self.cuts(operands))
        return Messages(operands, schedule)


def beyond_a_power_of_two(links: Links, nbytes: int, ranks: int) -> float:
    """Seconds of ranks too many for rounds of partners: a message to a neighbour, and one back."""
    a, b = links.slowest()
    return 0.0 if ranks & (ranks - 1) == 0 else 2 * (a + links.overhead + nbytes * b)
