"""How long the root of a group waits, and for whom."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpckit.surrogate.connections import Connections
from hpckit.surrogate.message import assignment_dtype, message_dtype
from hpckit.surrogate.roles import Roles, shares
from hpckit.surrogate.root import Root
from hpckit.surrogate.rotation import NEVER

MESSAGE, ASSIGNMENT = message_dtype(1, 2), assignment_dtype(1)


class Queue:
    """Both ends of one, in a list."""

    def __init__(self, dtype, slots):
        self.places, self.free, self.slots = [], np.zeros(dtype.itemsize, np.uint8), slots

    def room(self):
        return self.free if len(self.places) < self.slots else None

    def send(self):
        self.places.append(self.free.copy())

    def peek(self):
        return self.places[0] if self.places else None

    def drop(self):
        del self.places[0]


class Alarm:
    """Notes limits; while the root waits, what is next in `events` happens."""

    def __init__(self, *events):
        self.events, self.waits = list(events), []

    def wait(self, condition, limit, who):
        assert not condition()
        self.waits.append((limit, who()))
        self.events.pop(0)()
        assert condition()
        return 1.0


@pytest.fixture
def one():
    """The root of the only group, with one lane and one message of room."""
    messages, assignments = Queue(MESSAGE, 1), Queue(ASSIGNMENT, 3)
    ends = (SimpleNamespace(senders={0: messages}), SimpleNamespace(receivers={0: assignments}))
    roles = Roles(*shares(2, 1, 1), None, 0, None)
    root = Root(roles, Connections(*ends, MESSAGE, ASSIGNMENT), 1, 2, in_order=True)

    def assign(lane, simulation=0, cycle=0):
        assignments.free.view(ASSIGNMENT)[0] = (lane, 0, simulation, cycle, [0.5])
        assignments.send()

    return SimpleNamespace(root=root, messages=messages, assign=assign)


def test_a_trainer_has_its_time_while_it_is_its_turn(one):
    root, late = one.root, (20.0, "rank 0, which trains")
    alarm = Alarm(lambda: one.assign(0))
    assert root.wait(root.look, alarm, 10.0) == 1.0 and alarm.waits == [late]
    assert root.order()[:3] == (0, 0, 0)
    root.send()
    alarm = Alarm(one.messages.drop)
    assert root.wait(root.look, alarm, 10.0) == 1.0 and alarm.waits == [late]
    assert root.order()[:3] == (0, 0, 1)


def test_it_may_train_on_when_all_is_solved(one):
    """Waiting began while an assignment was due, and goes on without a limit when none is."""
    root = one.root
    alarm = Alarm(lambda: one.assign(0, cycle=NEVER), lambda: one.assign(-1))
    assert root.wait(root.look, alarm, 10.0) == 2.0
    assert alarm.waits == [(20.0, "rank 0, which trains"), (None, "")]
    assert root.order() is None and root.over


def test_without_a_deadline_there_is_no_limit(one):
    alarm = Alarm(lambda: one.assign(0))
    one.root.wait(one.root.look, alarm, None)
    assert alarm.waits == [(None, "rank 0, which trains")]
