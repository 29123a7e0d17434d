"""The root of a group: which of its lanes gives the next step, and to which trainer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hpckit.surrogate.assignments import Assignment
from hpckit.surrogate.message import record
from hpckit.surrogate.rotation import NEVER
from hpckit.surrogate.runs import Order

if TYPE_CHECKING:
    from hpckit.comm.alarm import Alarm
    from hpckit.comm.queues import Receiver, Sender
    from hpckit.surrogate.connections import Connections
    from hpckit.surrogate.roles import Roles


class Root:
    """What the root of a group knows, and how it takes turns.

    steps : of a simulation
    in_order : whether each trainer gets the steps of its lanes in the order of the rotation; else
        lanes that can go on do, and others are passed over
    asked : the exit code that a signal asked for, 0: none

    A trainer whose queue is full holds up its own lanes only: else trainers that wait for each
    other could wait for ever.
    """

    def __init__(
        self,
        roles: Roles,
        connections: Connections,
        lanes: int,
        steps: int,
        in_order: bool,
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        mine = roles.lanes_of(roles.groups[roles.group or 0][0], lanes)
        trainers = sorted({roles.trainer_of(lane) for lane in mine})
        self.sent = dict.fromkeys(mine, 0)  # steps, by lane
        self._ends = deque(
            _End(
                rank,
                connections,
                [lane for lane in mine if roles.trainer_of(lane) == rank],
                in_order,
            )
            for rank in trainers
        )
        self._lane: _Lane | None = None  # that has the turn, of the last of the ends
        self._steps = steps
        self._asked = asked
        self._told = 0  # what was asked for and trainers know

    @property
    def over(self) -> bool:
        """Whether all trainers said so."""
        return all(end.over for end in self._ends)

    @property
    def late(self) -> str:
        """Names the trainers that have to do something before their lanes go on; or empty."""
        return ", ".join(f"rank {end.rank}, which trains" for end in self._ends if end.owes())

    def look(self) -> bool:
        """Whether there is something to do: a lane can give a step, or all is over."""
        for end in self._ends:
            end.hear()
        self._lane = self._find()
        if self._lane is None:
            self._tell()
        return self._lane is not None or self.over

    def goes_on(self) -> bool:
        """Whether the lane that has the turn can give its next step too, or its trainer is over."""
        end = self._ends[-1]
        end.hear()
        return end.over or end.sender.room() is not None

    def wait(self, ready: Callable[[], bool], alarm: Alarm, deadline: float | None) -> float:
        """Sleep until `ready()`, which is `look` or `goes_on`; returns the seconds that it took.

        An error names trainers that do not do what is their turn, as `Alarm.wait` does; after twice
        the deadline, as they may themselves wait for others. While it is nobody's turn, because all
        is solved and they still train, there is no limit.
        """
        waited = 0.0
        while not ready():
            waited += self._wait(self.late, ready, alarm, deadline)
        return waited

    def order(self) -> Order | None:
        """What comes next, after a `look` that found something; None: its trainers are over."""
        if self._lane is None or self._ends[-1].over:
            return None
        head = self._lane.assignments[0]
        return Order(self._lane.number, head.simulation, self._lane.step, head.parameters)

    def message(self) -> np.void:
        """Where the step is written."""
        return self._ends[-1].message()

    def send(self) -> None:
        """It is written."""
        assert self._lane is not None
        self._ends[-1].sender.send()
        self.sent[self._lane.number] += 1
        self._lane.advance(self._steps)

    def _wait(
        self, late: str, ready: Callable[[], bool], alarm: Alarm, deadline: float | None
    ) -> float:
        """Wait until it is ready, or the turn of others."""
        limit = 2 * deadline if late and deadline is not None else None
        return alarm.wait(lambda: ready() or self.late != late, limit, lambda: late)

    def _find(self) -> _Lane | None:
        """A lane that can give a step now; trainers take turns."""
        for _ in range(len(self._ends)):
            self._ends.rotate(-1)
            lane = self._ends[-1].find()
            if lane is not None and self._ends[-1].sender.room() is not None:
                return lane
        return None

    def _tell(self) -> None:
        """A signal came while there is nothing to send that could tell of it."""
        asked = self._asked()
        if asked <= self._told:
            return
        for end in self._ends:
            if not end.over and end.sender.room() is not None:
                message = end.message()
                message["lane"] = -1
                message["asked"] = self._told = asked
                end.sender.send()


class _End:
    """This end of the queues to and from a trainer, and the lanes that it has here."""

    def __init__(
        self, rank: int, connections: Connections, lanes: list[int], in_order: bool
    ) -> None:
        self.rank = rank
        self.over = False
        self.sender: Sender = connections.messages.senders[rank]
        self._receiver: Receiver = connections.assignments.receivers[rank]
        self._connections = connections
        self._lanes = deque(_Lane(lane) for lane in lanes)
        self._in_order = in_order

    def message(self) -> np.void:
        room = self.sender.room()
        assert room is not None
        return record(room, self._connections.message)

    def hear(self) -> None:
        """What the trainer assigned, or that it is over."""
        while not self.over and (place := self._receiver.peek()) is not None:
            given = record(place, self._connections.assignment)
            number, simulation, first, cycle = (
                int(given[name]) for name in ("lane", "simulation", "first", "cycle")
            )
            parameters = given["parameters"].copy()
            self._receiver.drop()
            if number < 0:
                self.over = True
            else:
                lane = next(lane for lane in self._lanes if lane.number == number)
                lane.add(Assignment(number, simulation, first, cycle, parameters))

    def find(self) -> _Lane | None:
        """The lane that gives the next step, if it knows which."""
        if self.over:
            return None
        if self._in_order:
            lane = self._first()
            return lane if lane.assignments and not lane.over else None
        for _ in range(len(self._lanes)):
            self._lanes.rotate(-1)
            if self._lanes[-1].assignments:
                return self._lanes[-1]
        return None

    def owes(self) -> bool:
        """Whether the trainer has to take a message or assign a simulation before we go on."""
        if self.over:
            return False
        if self._in_order:
            return not self._first().over
        return any(lane.assignments for lane in self._lanes)

    def _first(self) -> _Lane:
        return min(self._lanes, key=lambda lane: (lane.due, lane.number))


class _Lane:
    """A lane as the root of its group sees it.

    due : the cycle of its next step; while its assignment has not come, one that is not too high
    step : its next step
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.assignments: deque[Assignment] = deque()
        self.due = 0
        self.step = 0

    @property
    def over(self) -> bool:
        """Whether it has nothing more to give."""
        return self.due == NEVER

    def add(self, assignment: Assignment) -> None:
        self.assignments.append(assignment)
        if len(self.assignments) == 1:
            self._begin()

    def advance(self, steps: int) -> None:
        """A step was sent, of so many."""
        self.step += 1
        self.due += 1
        if self.step == steps:
            self.assignments.popleft()
            if self.assignments:
                self._begin()

    def _begin(self) -> None:
        self.due = self.assignments[0].cycle
        self.step = self.assignments[0].first
