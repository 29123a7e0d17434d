"""What a group of solver ranks does: solves what trainers assign to its lanes, and sends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.errors import ranges
from hpckit.machine.lifetime import outlive
from hpckit.surrogate.root import Root
from hpckit.surrogate.runs import Order, Runs
from hpckit.surrogate.schedule import Lockstep, Schedule

if TYPE_CHECKING:
    from hpckit.comm.alarm import Alarm
    from hpckit.surrogate.lines import Lines
    from hpckit.surrogate.roles import Roles
    from hpckit.surrogate.solver import Solver


class Solved(NamedTuple):
    """What a rank solved.

    sent : steps, by lane; on the root of a group, which sends
    waited : seconds for room in queues, for assignments, or for the other ranks of the group
    """

    sent: dict[int, int]
    waited: float


def solve(
    roles: Roles,
    lines: Lines,
    solver: Solver,
    schedule: Schedule,
    lanes: int,
    alarm: Alarm,
    deadline: float | None = None,
    asked: Callable[[], int] = lambda: 0,
) -> Solved:
    """Solve until all trainers have said that it is over (on all ranks of a group).

    deadline : seconds until an error names a rank that does not answer; None: never
    asked : the exit code that a signal asked this rank for, 0: none; trainers hear of it

    Raises `HpckitError` where the solver or another rank fails; the caller lets the alarm ring.
    """
    group = _Group(roles, solver.space.size, alarm, deadline, asked)
    runs = Runs(solver, roles.team)
    sent: dict[int, int] = {}
    try:
        if roles.team.rank == 0:
            in_order = isinstance(schedule, Lockstep)
            root = Root(roles, lines, lanes, solver.steps, in_order, asked)
            _lead(root, group, runs, alarm, deadline)
            sent = root.sent
        else:
            while (order := group.hear()) is not None:
                runs.give(order, None)
    finally:
        runs.close()
    group.close()
    return Solved(sent, group.waited)


def _lead(root: Root, group: _Group, runs: Runs, alarm: Alarm, deadline: float | None) -> None:
    """What the root does."""
    patience = None if deadline is None else 2 * deadline  # a trainer may itself wait for others
    while True:
        if not root.look():
            limit = patience if root.late else None
            group.waited += alarm.wait(root.look, limit, lambda: root.late)
        order = root.order()
        group.tell(order)
        if order is None:
            return
        message = root.message()
        runs.give(order, message)
        message["asked"] = group.asked
        root.send()


class _Group:
    """The ranks that solve together: all hear from their root which step comes next.

    asked : the largest exit code that a signal asked one of them for
    """

    def __init__(
        self,
        roles: Roles,
        parameters: int,
        alarm: Alarm,
        deadline: float | None,
        asked: Callable[[], int],
    ) -> None:
        self.waited = 0.0
        self.asked = 0
        self._comm = roles.team.Dup()  # the solver may do on its own what it likes
        self._ranks = roles.groups[roles.group or 0]
        self._alarm = alarm
        self._deadline = deadline
        self._asked = asked
        self._mine = np.full(4 + parameters, -np.inf)
        self._all = np.zeros_like(self._mine)

    def tell(self, order: Order | None) -> None:
        """Have all go on to this step, None: to the end (on the root)."""
        self._mine[:3] = (-1, 0, 0) if order is None else order[:3]
        self._mine[4:] = 0 if order is None else order.parameters
        self._share(self._deadline)

    def hear(self) -> Order | None:
        """What the root tells (on the others), however long it has nothing to tell."""
        self._share(None)
        lane, simulation, step = map(int, self._all[:3])
        return None if lane < 0 else Order(lane, simulation, step, self._all[4:].copy())

    def close(self) -> None:
        """Let go of it (collective)."""
        self._comm.Free()

    def _share(self, deadline: float | None) -> None:
        """The root's numbers, as those of others are the lowest, and the largest wish of all."""
        self._mine[3] = self._asked()
        if self._comm.size == 1:
            self._all[:] = self._mine
        else:
            request = self._comm.Iallreduce(self._mine, self._all, op=MPI.MAX)
            try:
                self.waited += self._alarm.wait(request.Test, deadline, self._others)
            except BaseException:
                outlive([request], (self._mine, self._all))
                raise
        self.asked = int(self._all[3])

    def _others(self) -> str:
        return f"ranks {ranges(self._ranks[1:])}, which solve together with rank {self._ranks[0]}"
