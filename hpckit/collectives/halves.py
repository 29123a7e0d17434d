"""The halves of an allreduce, which are collectives of their own: reduce-scatter, allgather, broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import (
    Algorithm,
    bcast,
    direct_allgather,
    direct_reduce_scatter,
    direct_scatter,
    ring_allgather,
    ring_reduce_scatter,
)
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Messages, Way, alone
from hpckit.collectives.plan import check_array, check_group, check_operation
from hpckit.collectives.schedule import Schedule, rotated
from hpckit.collectives.watch import recorder
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError, same, together

_TREE = 1 << 16  # bytes from which slices that all ranks pass on beat a tree whose root sends everything


class _Plan:
    """A schedule bound to an array, recorded where the communicator's collectives are."""

    def _bind(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        kind: str,
        schedule: Schedule,
        deadline: float | None,
        op: MPI.Op = MPI.OP_NULL,
        root: int | None = None,
        group: int = 1,
    ) -> None:
        way: Way = Messages(Channel.of(comm), array, array, op, schedule, deadline, group)
        if comm.size == 1 and op:
            way = alone(array, array, op)
        (self._way,) = recorder(comm, array, op or None, kind, root)([way])

    def start(self) -> None:
        """Send what can be sent."""
        self._way.start()

    def poll(self) -> bool:
        """Let messages travel on, without blocking; whether the call is complete."""
        return self._way.poll()

    def wait(self) -> None:
        """Complete the call."""
        self._way.wait()

    def __call__(self) -> None:
        """The whole collective."""
        self._way()


class _Half(_Plan):
    """A collective on an array of slices: rank r's is `array[plan.owned]` there."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        kind: str,
        halves: dict[str, Algorithm],
        algorithm: str,
        cuts: Sequence[int] | None,
        op: MPI.Op,
        deadline: float | None,
        group: int = 1,
    ) -> None:
        with together(comm):
            check_array(array)
            check_group(group, array.size)
            if algorithm not in halves:
                raise ConfigError(f"algorithm {algorithm!r} must be one of {', '.join(halves)}")
            edges = [group * e for e in starts(array.size // group, comm.size)] if cuts is None else list(cuts)
            if len(edges) != comm.size + 1 or edges != sorted(edges) or (edges[0], edges[-1]) != (0, array.size):
                raise ConfigError(f"cuts {edges} must be {comm.size + 1} rising offsets from 0 to {array.size}")
            if any(edge % group for edge in edges):
                raise ConfigError(f"cuts {edges} must be multiples of group={group}: they would divide a group")
        same(comm, "dtype, cuts, algorithm and group", (array.dtype.str, edges, algorithm, group))
        self.owned = slice(*edges[comm.rank : comm.rank + 2])
        schedule = halves[algorithm](comm.rank, comm.size, [edge // group for edge in edges])
        self._bind(comm, array, kind, schedule, deadline, op, group=group)


class ReduceScatter(_Half):
    """Rank r gets the reduction of slice r, `array[plan.owned]`, in place; the other slices are not defined then.

    array : (n,) contiguous
    cuts : (ranks + 1,) offsets of the slices; by default they are of equal length
    op : as of an `Allreduce`, and so is the rule that it follows
    algorithm : "direct", in rank order and one latency, or "ring", from neighbour to neighbour
    group : numbers that `op` takes together; slices are cut between groups

    Plans are called as an `Allreduce` is. Raises `ConfigError` on all ranks for what is impossible.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        *,
        op: MPI.Op = MPI.SUM,
        cuts: Sequence[int] | None = None,
        algorithm: str = "direct",
        deadline: float | None = None,
        group: int = 1,
    ) -> None:
        with together(comm):
            check_array(array)
            check_operation(op, array.dtype)
            if algorithm == "ring" and not op.is_commutative:
                raise ConfigError(
                    "algorithm 'ring' reorders operands, but the operation does not commute: use 'direct'"
                )
        halves = {"direct": direct_reduce_scatter, "ring": ring_reduce_scatter}
        super().__init__(comm, array, "reduce-scatter", halves, algorithm, cuts, op, deadline, group)


class Allgather(_Half):
    """Everybody gets slice r, `array[plan.owned]` there, of every rank r; see `ReduceScatter`."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        *,
        cuts: Sequence[int] | None = None,
        algorithm: str = "direct",
        deadline: float | None = None,
    ) -> None:
        halves = {"direct": direct_allgather, "ring": ring_allgather}
        super().__init__(comm, array, "allgather", halves, algorithm, cuts, MPI.OP_NULL, deadline)


class Bcast(_Plan):
    """Everybody gets the root's (n,) contiguous array: down a binomial tree, or, large ones, in slices; see above."""

    def __init__(self, comm: MPI.Intracomm, array: np.ndarray, *, root: int = 0, deadline: float | None = None) -> None:
        with together(comm):
            check_array(array)
            if not 0 <= root < comm.size:
                raise ConfigError(f"root {root} must be a rank, 0 to {comm.size - 1}")
        same(comm, "size and dtype of the array, and root", (array.size, array.dtype.str, root))
        place, cuts = (comm.rank - root) % comm.size, starts(array.size, comm.size)
        steps = [bcast] if array.nbytes < _TREE else [direct_scatter, direct_allgather]
        schedule = [step for algorithm in steps for step in algorithm(place, comm.size, cuts)]
        self._bind(comm, array, "bcast", rotated(schedule, comm.size, root), deadline, root=root)
