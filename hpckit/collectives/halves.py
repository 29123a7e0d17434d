"""The halves of an allreduce, which are collectives of their own: reduce-scatter, allgather,
broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from hpckit.collectives.arguments import (
    check_array,
    check_group,
    check_operation,
    is_whole,
    operation,
    watched,
)
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Messages, Way, alone, while_it_lives
from hpckit.collectives.schedule import Schedule, rotated
from hpckit.collectives.watch import recorder
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.machine.spin import check_deadline

_TREE = (
    1 << 16
)  # bytes from which slices that all ranks pass on beat a tree whose root sends everything


class _Plan:
    """A schedule bound to an array, recorded where the communicator's collectives are."""

    def _bind(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        kind: str,
        schedule: Schedule,
        deadline: float | None,
        op: MPI.Op | None = None,
        root: int | None = None,
        group: int = 1,
    ) -> None:
        way: Way = Messages(
            Channel.of(comm), array, array, op or MPI.OP_NULL, schedule, deadline, group
        )
        if comm.size == 1 and op:
            way = alone(array, array, op)
        (self._way,) = recorder(comm, array, op, kind, root)(
            [while_it_lives(op, way) if op else way]
        )
        self._flying = False

    def start(self) -> None:
        """Send what can be sent."""
        if self._flying:
            raise HpckitError(
                "start() twice without wait(): call wait() first, or make a plan for each"
            )
        self._way.start()
        self._flying = True

    def poll(self) -> bool:
        """Let messages travel on, without blocking; whether the call is complete."""
        complete = self._way.poll()
        self._flying &= not complete
        return complete

    def wait(self) -> None:
        """Complete the call."""
        self._way.wait()
        self._flying = False

    def __call__(self) -> None:
        """The whole collective."""
        if self._flying:
            raise HpckitError(
                "a call between start() and wait() of the same plan: call wait() first, or make two"
            )
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
            watched(comm),
        )
        same(comm, "kind, dtype, cuts, operation and options of a plan", (kind, *given))
        self.owned = slice(*edges[comm.rank : comm.rank + 2])
        schedule = halves[algorithm](comm.rank, comm.size, [edge // group for edge in edges])
        self._bind(
            comm,
            array,
            kind,
            schedule,
            deadline,
            operations[0] if operations else None,
            group=group,
        )


def _edges(cuts: Any, size: int, n: int, group: int) -> list[int]:
    """The cuts as a list; `ConfigError` unless they cut n elements among the ranks."""
    if cuts is None:
        return [group * start for start in starts(n // group, size)]
    edges = list(cuts) if isinstance(cuts, Sequence | np.ndarray) else []
    whole = all(map(is_whole, edges))
    if (
        not whole
        or len(edges) != size + 1
        or edges != sorted(edges)
        or (edges[0], edges[-1]) != (0, n)
    ):
        raise ConfigError(f"cuts {cuts} must be {size + 1} rising offsets from 0 to {n}")
    if any(edge % group for edge in edges):
        raise ConfigError(
            f"cuts {cuts} must be multiples of group={group}: they would divide a group"
        )
    return list(map(int, edges))


class ReduceScatter(_Half):
    """Rank r gets the reduction of slice r, `array[plan.owned]`, in place; the other slices are not
    defined then.

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
        halves = {"direct": direct_reduce_scatter, "ring": ring_reduce_scatter}
        super().__init__(
            comm, array, "reduce-scatter", halves, algorithm, cuts, deadline, op, group=group
        )


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
        super().__init__(comm, array, "allgather", halves, algorithm, cuts, deadline)


class Bcast(_Plan):
    """Everybody gets the root's (n,) contiguous array: down a binomial tree, or, large ones, in
    slices; see above.
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
        given = array.size, array.dtype.str, int(root), deadline, watched(comm)
        same(
            comm, "size and dtype of the array, root and options of a broadcast", ("bcast", *given)
        )
        place, cuts = (comm.rank - root) % comm.size, starts(array.size, comm.size)
        steps = [bcast] if array.nbytes < _TREE else [direct_scatter, direct_allgather]
        schedule = [step for algorithm in steps for step in algorithm(place, comm.size, cuts)]
        self._bind(
            comm, array, "bcast", rotated(schedule, comm.size, int(root)), deadline, root=int(root)
        )
