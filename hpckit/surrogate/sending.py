"""The end of a group whose solver is a loop of the user's, which pushes its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.group import Group
from hpckit.surrogate.root import Root
from hpckit.surrogate.runs import Order, Simulation
from hpckit.surrogate.schedule import Lockstep
from hpckit.surrogate.solver import Fields

if TYPE_CHECKING:
    from hpckit.surrogate.running import Running
    from hpckit.surrogate.settings import Settings


class Sending:
    """Takes one simulation after the other, and sends its steps (collective in the group)."""

    def __init__(self, settings: Settings, running: Running) -> None:
        solver = settings.solver
        self._alarm = running.alarm
        self._deadline = settings.deadline
        self._space = solver.space
        self._steps = solver.steps
        self._fields = Fields.of(solver.fields)
        self._group = Group(settings.roles, solver.space.size, running.alarm, settings.deadline)
        self._root: Root | None = None
        if settings.roles.team.rank == 0:
            in_order = isinstance(settings.schedule, Lockstep)
            connections = running.connections
            assert connections is not None
            self._root = Root(settings.roles, connections, settings.lanes, solver.steps, in_order)
        self._order: Order | None = None
        self._simulation: Simulation | None = None
        self._step = 0  # the one that comes next
        self._over = False

    def simulations(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The number and the parameters of each."""
        while (order := self._next()) is not None:
            self._order = order
            self._simulation = Simulation(order, self._space, self._fields)
            self._step = 0
            yield order.simulation, dict(self._simulation.parameters)
            if not self._over and self._step < self._steps:
                ended = f"it ended, {self._steps} steps must be sent"
                raise self._simulation.failed(ConfigError(ended), self._step)
        self._over = True

    def send(self, time: float, fields: Any) -> bool:
        """Send the next step; those that came before a restart are dropped."""
        order, simulation, step = self._order, self._simulation, self._step
        if order is None or simulation is None:
            raise ConfigError("send: no simulation was begun, take them from role.simulations()")
        if step == self._steps:
            too_many = f"it goes on, {self._steps} steps must be sent"
            raise simulation.failed(ConfigError(too_many), step)
        self._step += 1
        if step < order.step:
            return True
        if not self._goes_on(order._replace(step=step)):
            self._over = True
            return False
        if self._root is not None:
            simulation.write(step, (time, fields), self._root.message())
            self._root.send()
        return True

    def end(self) -> None:
        """The loop of the user's is left."""
        if not self._over:
            raise HpckitError("a rank left role.simulations() before trainers had all they need")

    def _next(self) -> Order | None:
        """What the root tells, once it knows."""
        if self._root is None:
            return self._group.hear()
        self._root.wait(self._root.look, self._alarm, self._deadline)
        order = self._root.order()
        self._group.tell(order)
        return order

    def _goes_on(self, order: Order) -> bool:
        """Whether this step is to be sent, once there is room for it."""
        if self._root is None:
            return self._group.hear() is not None
        self._alarm.check()
        self._root.wait(self._root.goes_on, self._alarm, self._deadline)
        goes_on = self._root.order() is not None
        self._group.tell(order if goes_on else None)
        return goes_on
