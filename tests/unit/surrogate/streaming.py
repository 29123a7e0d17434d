"""Streams of the tiny solver on all ranks of a test, and what trainers got."""

from __future__ import annotations

from contextlib import contextmanager

from counting import Counting, Keys

from hpckit.comm.alarm import Alarm
from hpckit.surrogate import roles
from hpckit.surrogate.connections import open_connections
from hpckit.surrogate.ledger import Ledger
from hpckit.surrogate.rotation import Rotation
from hpckit.surrogate.schedule import Lockstep
from hpckit.surrogate.solving import solve
from hpckit.surrogate.sources import open_source

DEADLINE = 500.0


class Stream:
    """One stream, from solvers to trainers."""

    def __init__(self, comm, solver=None, trainers=1, group=1, lanes=4, way="auto", **options):
        self.comm = comm
        self.solver = solver or Counting()
        self.lanes = lanes
        self.schedule = options.get("schedule", Lockstep(1))
        self.options = options
        self.roles = roles.share_out(comm, trainers, group)
        self.alarm = Alarm(comm)
        self.connections = open_connections(comm, self.roles, self.solver, lanes, way)

    def run(self, train):
        """Trainers do `train(source)`, others solve; returns what either gives."""
        with self.alarm.guard():
            if self.roles.trainer is None:
                asked = self.options.get("asked", lambda: 0)
                deadline = self.options.get("deadline", DEADLINE)
                return solve(
                    self.roles,
                    self.connections,
                    self.solver,
                    self.schedule,
                    self.lanes,
                    self.alarm,
                    deadline,
                    asked,
                )
            source = self.open_source()
            got = train(source)
            source.close()
            return got

    def open_source(self):
        rotation = Rotation(
            self.lanes,
            self.solver.steps,
            self.options.get("simulations", 10),
            self.options.get("validation", 0),
        )
        self.ledger = Ledger(self.solver.steps, len(self.roles.trainers))
        self.ledger.restore(self.options.get("taken", {"whole": [], "open": []}))
        return open_source(
            self.roles,
            self.connections,
            self.solver,
            Keys(),
            self.schedule,
            rotation,
            self.ledger.received,
            self.alarm,
            self.options.get("deadline", DEADLINE),
            self.options.get("ahead"),
        )

    def take(self, source, most=10**9):
        """What comes, checked, as (simulation, step), at most so much of it."""
        got = []
        while len(got) < most and not source.over:
            self.alarm.wait(
                lambda: source.over or source.peek() is not None,
                self.options.get("deadline", DEADLINE),
                lambda: source.late,
            )
            if source.over:
                break
            got.append(self.checked(source.peek()))
            self.ledger.take(*got[-1])
            source.drop()
        return got

    def checked(self, message):
        simulation, step = int(message["simulation"]), int(message["step"])
        key = simulation if simulation >= 0 else 500 - 1 - simulation
        size = max(len(ranks) for ranks in self.roles.groups) if self.roles.groups else 1
        assert message["parameters"].tolist() == [key, 0.5 if simulation >= 0 else -0.5]
        assert message["time"] == 0.5 * (step + 1)
        expected = [1000 * key + step + 1] * (message["values"].size - 2) + [step, size]
        assert message["values"].tolist() == expected
        return simulation, step

    def close(self):
        self.connections.close()
        self.alarm.close()


@contextmanager
def stream(comm, *arguments, **options):
    one = Stream(comm, *arguments, **options)
    yield one
    one.close()
