"""What a group of solver ranks does: solves what trainers assign to its lanes, and sends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hpckit.surrogate.group import Group
from hpckit.surrogate.root import Root
from hpckit.surrogate.runs import Runs
from hpckit.surrogate.schedule import Lockstep, Schedule

if TYPE_CHECKING:
    from hpckit.comm.alarm import Alarm
    from hpckit.surrogate.connections import Connections
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
    connections: Connections,
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
    group = Group(roles, solver.space.size, alarm, deadline, asked)
    runs = Runs(solver, roles.team)
    sent: dict[int, int] = {}
    try:
        if roles.team.rank == 0:
            in_order = isinstance(schedule, Lockstep)
            root = Root(roles, connections, lanes, solver.steps, in_order, asked)
            _lead(root, group, runs, alarm, deadline)
            sent = root.sent
        else:
            while (order := group.hear()) is not None:
                runs.give(order, None)
    finally:
        runs.close()
    return Solved(sent, group.waited)


def _lead(root: Root, group: Group, runs: Runs, alarm: Alarm, deadline: float | None) -> None:
    """What the root does."""
    while True:
        group.waited += root.wait(root.look, alarm, deadline)
        order = root.order()
        group.tell(order)
        if order is None:
            return
        alarm.check()
        message = root.message()
        runs.give(order, message)
        message["asked"] = group.asked
        root.send()
