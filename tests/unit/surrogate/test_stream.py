"""From solver ranks to trainers: each step once, in the order of the lanes, on any ranks."""

import json

import numpy as np
import pytest
from counting import Counting
from streaming import DEADLINE, stream

from hpckit.surrogate.rotation import Rotation
from hpckit.surrogate.schedule import Free, Lockstep

SCHEDULES = [Lockstep(1), Free()]


def taken(comm, most=10**9, **options):
    """What each trainer got, on all ranks: (simulation, step) by trainer."""
    with stream(comm, **options) as one:
        got = one.run(lambda source: one.take(source, most))
        return comm.allgather(got if one.roles.trainer is not None else None), one.roles


def order_of(roles, trainer, lanes=4, steps=3, simulations=10, validation=0):
    rotation = Rotation(lanes, steps, simulations, validation)
    mine = roles.lanes_of(roles.trainers[trainer], lanes)
    return [(turn.simulation, turn.step) for turn in rotation.turns(mine)]


@pytest.mark.parametrize("way", ["auto", "messages"])
@pytest.mark.parametrize("lanes", [4, 8])
@pytest.mark.parametrize("trainers", [1, 2])
def test_in_lockstep_trainers_get_their_lanes_in_turn(comm, way, lanes, trainers):
    trainers = min(trainers, comm.size)
    got, roles = taken(comm, way=way, lanes=lanes, trainers=trainers, validation=3)
    for number, rank in enumerate(roles.trainers):
        assert got[rank] == order_of(roles, number, lanes=lanes, validation=3)


@pytest.mark.parametrize("way", ["auto", "messages"])
@pytest.mark.parametrize("trainers", [1, 2])
def test_freely_each_step_comes_once_and_validation_first(comm, way, trainers):
    trainers = min(trainers, comm.size)
    options = {"schedule": Free(), "trainers": trainers, "validation": 5, "way": way}
    got, roles = taken(comm, **options)
    for number, rank in enumerate(roles.trainers):
        assert sorted(got[rank]) == sorted(order_of(roles, number, validation=5))
        first = [simulation < 0 for simulation, _ in got[rank]]
        assert first == sorted(first, reverse=True)
        for simulation in {each for each, _ in got[rank]}:
            assert [step for each, step in got[rank] if each == simulation] == [0, 1, 2]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_group_of_several_ranks_solves_together(comm, schedule):
    group = max(comm.size - 1, 1)
    got, roles = taken(comm, schedule=schedule, group=group)
    assert sorted(got[0]) == sorted(order_of(roles, 0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("simulations", [0, 1, 3, 5])
def test_fewer_simulations_than_lanes(comm, schedule, simulations):
    got, roles = taken(comm, schedule=schedule, simulations=simulations)
    assert sorted(got[0]) == sorted(order_of(roles, 0, simulations=simulations))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_trainers_may_stop_at_any_time(comm, schedule):
    got, _ = taken(comm, most=7, schedule=schedule, simulations=None)
    assert len(got[0]) == 7


@pytest.mark.parametrize("steps", [0, 5, 12, 29])
def test_after_a_restart_the_rest_comes(comm, steps):
    with stream(comm) as one:
        before = one.run(lambda source: (one.take(source, steps), source.state()))
        first, ahead = before if one.roles.trainer is not None else ([], {})
        state = one.ledger.state() if one.roles.trainer is not None else {}
    with stream(comm, taken=state, ahead=ahead) as one:
        rest = one.run(one.take)
        if one.roles.trainer is not None:
            assert first + rest == order_of(one.roles, 0)


def test_after_a_restart_simulations_stay_in_their_lanes(comm):
    lanes = {}

    def train(source):
        got = []
        while len(got) < 13 and not source.over:
            one.alarm.wait(lambda: source.peek() is not None, 60.0, lambda: source.late)
            message = source.peek()
            at = lanes.setdefault(int(message["simulation"]), int(message["lane"]))
            assert message["lane"] == at
            got += one.take(source, 1)
        return json.loads(json.dumps([got, source.state(), one.ledger.state()]))

    options = {"schedule": Free(), "solver": Counting(steps=5), "simulations": 5}
    with stream(comm, **options) as one:
        found = one.run(train)
        got, ahead, state = found if one.roles.trainer is not None else ([], None, {})
    with stream(comm, **options, taken=state, ahead=ahead) as one:
        found = one.run(train)
        if one.roles.trainer is not None:
            assert len({*map(tuple, got + found[0])}) == 25


def test_solvers_count_what_they_sent(comm):
    with stream(comm) as one:
        found = one.run(one.take)
        sent = comm.allgather(found.sent if one.roles.trainer is None else {})
        if one.roles.groups:
            total = {lane: steps for each in sent for lane, steps in each.items()}
            assert total == {0: 9, 1: 9, 2: 6, 3: 6}


@pytest.mark.parametrize("most", [5, 10**9])
def test_a_signal_on_a_solver_rank_reaches_the_trainer(comm, most):
    with stream(comm, asked=lambda: 75, simulations=10) as one:

        def train(source):
            one.take(source, most)
            return source.wish()  # all messages that were taken told of it

        found = one.run(train)
        if one.roles.trainer is not None:
            assert found == (75 if one.roles.groups else 0)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_signal_reaches_the_trainer_when_there_are_no_more_steps(comm, schedule):
    codes = [0]

    class Signalled(Counting):
        def run(self, parameters, comm):
            yield from super().run(parameters, comm)
            codes.append(75)

    def train(source):
        one.take(source)
        one.alarm.wait(lambda: source.wish() == 75, DEADLINE, lambda: "the signal")

    options = {"asked": lambda: codes[-1], "simulations": 1, "schedule": schedule}
    with stream(comm, Signalled(), **options) as one:
        one.run(train)


def test_messages_hold_large_fields_in_place(comm):
    solver = Counting(steps=2, shape=(300, 400))
    got, roles = taken(comm, solver=solver)
    assert got[0] == order_of(roles, 0, steps=2)


def test_a_sampler_that_learns_is_asked_at_fixed_steps(comm):
    """Whatever ranks there are, a simulation's parameters are drawn after the same steps."""
    asked = []

    class Learner:
        taken = 0

        def draw(self, simulation):
            asked.append((simulation, self.taken))
            return np.array([simulation, 0.5])

    with stream(comm, simulations=8) as one:
        sampler = Learner()

        def train(source):
            source._assigner._sampler = sampler
            while not source.over:
                sampler.taken += len(one.take(source, 1))

        one.run(train)
        if one.roles.trainer is not None:
            assert asked == [(4, 0), (5, 1), (6, 2), (7, 3)]
