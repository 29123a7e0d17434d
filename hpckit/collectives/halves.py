"""The halves of an allreduce as collectives: reduce-scatter, allgather, broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms.ring import ring_allgather, ring_reduce_scatter
from hpckit.collectives.algorithms.tree import bcast
from hpckit.collectives.algorithms.twoshot import direct_allgather, direct_reduce_scatter
from hpckit.collectives.arguments import (
    check_array,
    check_group,
    check_operation,
    is_whole,
    operation,
)
from hpckit.collectives.channel import Channel
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands, Persistent, alone, while_it_lives
from hpckit.collectives.recording import recording, watch_of
from hpckit.collectives.schedule import Cuts, Message, Schedule, exchange, rotated, slice_of
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.machine.spin import check_deadline

_TREE = 1 << 16  # bytes up to which a tree beats slices that all ranks pass on


_Half = Callable[[int, int, Cuts], Schedule]


class _Plan:
    """A collective on one array, recorded where the communicator's are."""

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
        operands = Operands(Channel.of(comm), array, array, op, deadline, group)
        operation: Persistent = Messages(operands, schedule)
        if comm.size == 1 and op:
            operation = alone(operands)
        operations = [while_it_lives(op, operation)]
        (self._operation,) = recording(comm, kind, array, op or None, root)(operations)
        self._flying = False

    def start(self) -> None:
        """Send what can be sent."""
        if self._flying:
            raise HpckitError(
                "start() twice without wait(): call wait() first, or make a plan for each"
            )
        self._operation.start()
        self._flying = True

    def poll(self) -> bool:
        """Let messages travel on, without blocking; whether the call is complete."""
        complete = self._operation.poll()
        self._flying &= not complete
        return complete

    def wait(self) -> None:
        """Complete the call."""
        self._operation.wait()
        self._flying = False

    def __call__(self) -> None:
        """The whole collective."""
        if self._flying:
            raise HpckitError(
                "a call between start() and wait() of the same plan: call wait() first, or make two"
            )
        self._operation()


class _OfSlices(_Plan):
    """A collective on an array of slices: rank r's is `array[plan.owned]` there."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        kind: str,
        halves: dict[str, _Half],
        algorithm: str,
        cuts: Sequence[int] | None,
        deadline: float | None,
        *operations: MPI.Op,
        group: int = 1,
    ) -> None:
        with together(comm):
            check_array(array)
            check_group(group, array.size)
            check_deadline(deadline)
            if not isinstance(algorithm, str) or algorithm not in halves:
                raise ConfigError(f"algorithm {algorithm!r} must be one of {', '.join(halves)}")
            for op in operations:
                check_operation(op, array.dtype)
                if algorithm == "ring" and not op.is_commutative:
                    raise ConfigError(
                        "algorithm 'ring' reorders operands, but the operation does not commute: "
                        "use 'direct'"
                    )
            edges = _edges(cuts, comm.size, array.size, group)
        given = (
            array.dtype.str,
            edges,
            str(algorithm),
            *map(operation, operations),
            deadline,
            group,
            watch_of(comm) is not None,
        )
        same(comm, "kind, dtype, cuts, operation and options of a plan", (kind, *given))
        self.owned = slice(*edges[comm.rank : comm.rank + 2])
        schedule = halves[algorithm](comm.rank, comm.size, [edge // group for edge in edges])
        op = operations[0] if operations else MPI.OP_NULL
        self._bind(comm, array, kind, schedule, deadline, op, group=group)


def _edges(cuts: Any, size: int, n: int, group: int) -> list[int]:
    """The cuts as a list; `ConfigError` unless they cut n elements among the ranks."""
    if cuts is None:
        return [group * start for start in starts(n // group, size)]
    edges = list(cuts) if isinstance(cuts, Sequence | np.ndarray) else []
    offsets = len(edges) == size + 1 and all(map(is_whole, edges))
    if not offsets or edges != sorted(edges) or (edges[0], edges[-1]) != (0, n):
        raise ConfigError(f"cuts {cuts} must be {size + 1} rising offsets from 0 to {n}")
    if any(edge % group for edge in edges):
        raise ConfigError(
            f"cuts {cuts} must be multiples of group={group}: they would divide a group"
        )
    return list(map(int, edges))


class ReduceScatter(_OfSlices):
    """Rank r gets the reduction of slice r, `array[plan.owned]`; the other slices are undefined.

    array : (n,) contiguous
    cuts : (ranks + 1,) offsets of the slices; by default they are of equal length
    op : as of an `Allreduce`, and so is the rule that it follows
    algorithm : "direct", in rank order and one latency, or "ring", from neighbour to neighbour
    group : numbers that `op` takes together; slices are cut between groups

    Plans are called as an `Allreduce` is. Raises `ConfigError` on all ranks for what is impossible.
    ::

        half = ReduceScatter(comm, x)
        half()
        mine = x[half.owned]  # the sum of this slice
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
        halves = {"direct": direct_reduce_scatter, "ring": ring_reduce_scatter}
        super().__init__(
            comm, array, "reduce-scatter", halves, algorithm, cuts, deadline, op, group=group
        )


class Allgather(_OfSlices):
    """Everybody gets slice r, `array[plan.owned]` there, of every rank r; see `ReduceScatter`.

    ::

        plan = Allgather(comm, x)
        x[plan.owned] = comm.rank
        plan()
    """

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
        super().__init__(comm, array, "allgather", halves, algorithm, cuts, deadline)


class Bcast(_Plan):
    """Everybody gets the root's (n,) contiguous array: down a tree, large ones in slices.

    Raises `ConfigError` on all ranks for what is impossible. ::

        Bcast(comm, parameters, root=0)()
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        *,
        root: int = 0,
        deadline: float | None = None,
    ) -> None:
        with together(comm):
            check_array(array)
            check_deadline(deadline)
            if not is_whole(root) or not 0 <= root < comm.size:
                raise ConfigError(f"root {root} must be a rank, 0 to {comm.size - 1}")
        root = int(root)
        given = array.size, array.dtype.str, root, deadline, watch_of(comm) is not None
        name = "size and dtype of the array, root and options of a broadcast"
        same(comm, name, ("bcast", *given))
        place = (comm.rank - root) % comm.size
        cuts = starts(array.size, comm.size)
        steps = [bcast] if array.nbytes < _TREE else [_scatter, direct_allgather]
        schedule = [step for algorithm in steps for step in algorithm(place, comm.size, cuts)]
        schedule = rotated(schedule, comm.size, root)
        self._bind(comm, array, "bcast", schedule, deadline, root=root)


def _scatter(rank: int, size: int, cuts: Cuts) -> Schedule:
    """Rank 0 sends slice r of its data to rank r."""
    if rank:
        return [exchange([], [Message(0, slice_of(cuts, rank))])]
    return [exchange([Message(peer, slice_of(cuts, peer)) for peer in range(1, size)], [])]
