"""The ranks that solve a simulation together, and how they hear what comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.errors import ranges
from hpckit.machine.lifetime import Flight
from hpckit.surrogate.runs import Order

if TYPE_CHECKING:
    from hpckit.comm.alarm import Alarm
    from hpckit.surrogate.roles import Roles


class Group:
    """The ranks that solve together: all hear from their root which step comes next.

    asked : the largest exit code that a signal asked one of them for
    """

    def __init__(
        self,
        roles: Roles,
        parameters: int,
        alarm: Alarm,
        deadline: float | None,
        asked: Callable[[], int] = lambda: 0,
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
        self._flight = Flight(self._comm, self._mine, self._all)

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

    def _share(self, deadline: float | None) -> None:
        """The root's numbers, as those of others are the lowest, and the largest wish of all."""
        self._mine[3] = self._asked()
        if self._comm.size == 1:
            self._all[:] = self._mine
        else:
            request = self._comm.Iallreduce(self._mine, self._all, op=MPI.MAX)
            self._flight.add(request)
            self.waited += self._alarm.wait(request.Test, deadline, self._others)
            self._flight.land()
        self.asked = int(self._all[3])

    def _others(self) -> str:
        return f"ranks {ranges(self._ranks[1:])}, which solve together with rank {self._ranks[0]}"
