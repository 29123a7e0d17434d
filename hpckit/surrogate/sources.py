"""Where a trainer gets its messages, in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from mpi4py import MPI

from hpckit.surrogate.assignments import Assigner, Assignment, State
from hpckit.surrogate.message import message_dtype, record
from hpckit.surrogate.rotation import Rotation, Turn
from hpckit.surrogate.runs import Order, Runs
from hpckit.surrogate.schedule import Lockstep, Schedule
from hpckit.surrogate.solver import Fields, Solver

if TYPE_CHECKING:
    from hpckit.comm.alarm import Alarm
    from hpckit.surrogate.connections import Connections
    from hpckit.surrogate.roles import Roles
    from hpckit.surrogate.space import Sampler


class Source(Protocol):
    """What gives a trainer one message after the other.

    over : nothing more will come
    late : who has to send before anything comes, for errors
    """

    @property
    def over(self) -> bool: ...

    @property
    def late(self) -> str: ...

    def peek(self) -> np.void | None:
        """The message whose turn it is, to read until `drop`; None: it has not come yet."""
        ...

    def drop(self) -> None:
        """Done with it."""
        ...

    def state(self) -> Any:
        """What a restart needs to go on, as JSON."""
        ...

    def wish(self) -> int:
        """The exit code that a signal asked for on ranks that send, 0: none."""
        ...

    def close(self) -> None:
        """Tell those who send to stop."""
        ...


def open_source(
    roles: Roles,
    connections: Connections,
    solver: Solver,
    sampler: Sampler,
    schedule: Schedule,
    rotation: Rotation,
    received: Callable[[int], int],
    alarm: Alarm,
    deadline: float | None = None,
    ahead: State | None = None,
) -> Source:
    """The source of this trainer (not collective).

    sampler : bound to the solver's space
    received : how many steps of a simulation came before a restart
    deadline : seconds until an error names a rank that does not answer; None: never
    ahead : the `state` of the source before a restart

    Raises `ConfigError` where the sampler leaves the box, `HpckitError` where a solver that runs on
    this rank fails.
    """
    in_order = isinstance(schedule, Lockstep) or not roles.groups
    lanes = roles.lanes_of(roles.trainers[roles.trainer or 0], rotation.lanes)
    assigner = Assigner(solver.space, sampler, rotation, lanes, received, in_order, ahead)
    turns = rotation.turns(lanes, received)
    if not roles.groups:
        return Inline(turns, solver, assigner)
    if in_order:
        return InOrder(turns, roles, connections, assigner, alarm, deadline)
    return AnyOrder(lanes, roles, connections, assigner, alarm, deadline)


class Inline:
    """A trainer without solver ranks solves itself, in the order of the lanes."""

    late = "this rank"  # which never has to wait for itself

    def __init__(self, turns: Iterator[Turn], solver: Solver, assigner: Assigner) -> None:
        size = Fields.of(solver.fields).size
        self._message = np.zeros(1, message_dtype(solver.space.size, size))[0]
        self._runs = Runs(solver, MPI.COMM_SELF)
        self._assigner = assigner
        self._turns = turns
        assigner.begin()
        self._turn = next(turns, None)
        self._solved = False

    @property
    def over(self) -> bool:
        return self._turn is None

    def peek(self) -> np.void | None:
        if self._turn is None:
            return None
        if not self._solved:
            _, lane, simulation, step = self._turn
            parameters = self._assigner.open[simulation].parameters
            self._runs.give(Order(lane, simulation, step, parameters), self._message)
            self._solved = True
        return self._message

    def drop(self) -> None:
        assert self._turn is not None
        _, lane, simulation, step = self._turn
        self._assigner.took(lane, simulation, step)
        self._turn = next(self._turns, None)
        self._solved = False

    def state(self) -> State:
        return self._assigner.state()

    def wish(self) -> int:
        return 0

    def close(self) -> None:
        self._runs.close()


class _Online:
    """What messages of solver ranks come through, and assignments go."""

    def __init__(
        self,
        roles: Roles,
        connections: Connections,
        assigner: Assigner,
        alarm: Alarm,
        deadline: float | None,
    ) -> None:
        self._roles = roles
        self._connections = connections
        self._assigner = assigner
        self._alarm = alarm
        self._deadline = deadline
        self._asked = 0
        self._assign(assigner.begin())

    def state(self) -> State:
        return self._assigner.state()

    def wish(self) -> int:
        for root in self._connections.messages.receivers:
            self._oldest(root)
        return self._asked

    def close(self) -> None:
        nothing = np.zeros(self._connections.assignment["parameters"].shape)
        for root in self._connections.assignments.senders:
            self._send(root, Assignment(-1, 0, 0, 0, nothing))

    def _oldest(self, root: int) -> np.void | None:
        """The oldest message of a group with this root; what it asks for is noted."""
        receiver = self._connections.messages.receivers[root]
        while (place := receiver.peek()) is not None:
            message = record(place, self._connections.message)
            self._asked = max(self._asked, int(message["asked"]))
            if message["lane"] >= 0:
                return message
            receiver.drop()  # that was all it had to tell
        return None

    def _took(self, root: int, lane: int, simulation: int, step: int) -> None:
        self._connections.messages.receivers[root].drop()
        self._assign(self._assigner.took(lane, simulation, step))

    def _assign(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            self._send(self._roles.root_of(assignment.lane), assignment)

    def _send(self, root: int, assignment: Assignment) -> None:
        sender = self._connections.assignments.senders[root]
        self._alarm.wait(
            lambda: sender.room() is not None, self._deadline, lambda: f"rank {root}, which solves"
        )
        place = sender.room()
        assert place is not None
        given = record(place, self._connections.assignment)
        for name, value in assignment._asdict().items():
            given[name] = value
        sender.send()


class InOrder(_Online):
    """Messages of solver ranks in the order of the lanes, whatever came first."""

    def __init__(self, turns: Iterator[Turn], *online: Any) -> None:
        super().__init__(*online)
        self._turns = turns
        self._turn = next(turns, None)

    @property
    def over(self) -> bool:
        return self._turn is None

    @property
    def late(self) -> str:
        if self._turn is None:
            return "nobody"
        _, lane, simulation, step = self._turn
        return f"{self._roles.who(lane)} to give step {step} of simulation {simulation}"

    def peek(self) -> np.void | None:
        if self._turn is None:
            return None
        message = self._oldest(self._roles.root_of(self._turn.lane))
        if message is None:
            self._alarm.check()
        return message

    def drop(self) -> None:
        assert self._turn is not None
        _, lane, simulation, step = self._turn
        self._took(self._roles.root_of(lane), lane, simulation, step)
        self._turn = next(self._turns, None)


class AnyOrder(_Online):
    """Messages of solver ranks as they come, in each cycle one for each lane."""

    def __init__(self, lanes: Sequence[int], *online: Any) -> None:
        super().__init__(*online)
        self._roots = deque(self._roles.root_of(lane) for lane in lanes)  # the first is next
        self._groups = sorted({self._roles.who(lane) for lane in lanes})
        self._message: np.void | None = None

    @property
    def over(self) -> bool:
        return not self._assigner.open

    @property
    def late(self) -> str:
        return f"a step of {' or '.join(self._groups)}"

    def peek(self) -> np.void | None:
        for _ in range(len(self._roots)):
            if self._message is not None:
                break
            self._message = self._oldest(self._roots[0])
            if self._message is None:
                self._roots.rotate(-1)
        if self._message is None:
            self._alarm.check()
        return self._message

    def drop(self) -> None:
        assert self._message is not None
        lane, simulation, step = (
            int(self._message[name]) for name in ("lane", "simulation", "step")
        )
        self._message = None
        self._took(self._roots[0], lane, simulation, step)
        self._roots.rotate(-1)
