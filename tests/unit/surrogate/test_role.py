"""Programs of one's own: loops that push their steps, and loops that train."""

import numpy as np
import pytest

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate import FIFO, Box, Free, Lockstep, Reservoir
from hpckit.surrogate.role import split

BOX = Box(key=(0.0, 1.0))
STEPS = 4
needs_a_solver = pytest.mark.mpi(min_size=2)


def program(comm, train, push=None, **options):
    """Ranks that solve push steps that say which they are; what `train(samples)` gives."""
    options = {"batch": 5, "buffer": FIFO(10), "simulations": 9} | options
    with split(comm, BOX, {"u": (2,)}, STEPS, **options) as role:
        got = train(role.samples()) if role.trains else None
        for number, parameters in role.simulations():
            for step in range(STEPS):
                given = (step + 1.0, {"u": [number, parameters["key"]]})
                if not role.send(*(push(number, step, given) if push else given)):
                    break
    return got


def rows(samples, most=10**9):
    """(simulation, time) of each sample, once its parameter was found in the right places."""
    found = []
    for x, y in samples:
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x[:, 0], y[:, 1])
        found += zip(y[:, 0].tolist(), x[:, 1].tolist(), strict=True)
        if len(found) >= most:
            break
    return found


ALL = [(simulation, step + 1) for simulation in range(9) for step in range(STEPS)]


@needs_a_solver
@pytest.mark.parametrize("schedule", [Free(), Lockstep(5)])
@pytest.mark.parametrize("group", ["one", "all"])
def test_each_step_comes_once(comm, schedule, group):
    size = 1 if group == "one" else comm.size - 1
    got = program(comm, rows, schedule=schedule, group=size)
    assert comm.rank > 0 or sorted(got) == ALL


@pytest.mark.mpi(min_size=4)
def test_several_trainers_share_the_groups(comm):
    trainers = 2 if comm.size % 2 == 0 else 1
    got = comm.allgather(program(comm, rows, trainers=trainers))
    assert sorted(row for each in got if each is not None for row in each) == ALL


@needs_a_solver
def test_trainers_may_end_before_solvers(comm):
    got = program(comm, lambda samples: rows(samples, 10), simulations=None)
    assert comm.rank > 0 or len(got) == 10


@needs_a_solver
@pytest.mark.parametrize("view", ["direct", "pairs:1"])
def test_after_a_restart_the_rest_comes(comm, view):
    state = {}

    def first(samples):
        found = rows(samples, 15)
        state.update(samples.state())
        return found

    def second(samples):
        samples.restore(state)
        return rows(samples)

    options = {"view": view, "buffer": Reservoir(30, threshold=5)}
    before = program(comm, first, **options)
    after = program(comm, second, **options)
    if comm.rank == 0:
        assert {*before, *after} == {row for row in ALL if row[1] < STEPS or view == "direct"}


@needs_a_solver
@pytest.mark.parametrize(
    ("push", "words"),
    [
        (lambda number, step, given: (given[0], {"v": 1}), "step 0: it gave fields v, not the fie"),
        (lambda number, step, given: (1.0, given[1]), "step 1: time 1.0 must be finite and incre"),
        (lambda number, step, given: (given[0], {"u": [np.nan, 1]}), "step 0: field 'u' is not fi"),
    ],
)
def test_what_is_pushed_is_checked(comm, push, words):
    with pytest.raises(HpckitError, match=rf"rank 1: simulation 0 \(key = .*\), {words}"):
        program(comm, rows, push, simulations=1)


def loop(comm, solve, train=lambda role: rows(role.samples()), **options):
    with split(comm, BOX, {"u": (2,)}, STEPS, simulations=1, **options) as role:
        train(role) if role.trains else solve(role)


def too_few(role):
    for _ in role.simulations():
        role.send(1.0, {"u": [0, 0]})


def too_many(role):
    for _ in role.simulations():
        for step in range(STEPS + 1):
            role.send(step, {"u": [0, 0]})


def without_one(role):
    role.send(1.0, {"u": [0, 0]})


def leaves(role):
    for _ in role.simulations():
        break


@needs_a_solver
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (too_few, "step 1: it ended, 4 steps must be sent"),
        (too_many, "step 4: it goes on, 4 steps must be sent"),
        (without_one, "no simulation was begun"),
        (leaves, "a rank left role.simulations\\(\\) before"),
        (lambda role: role.samples(), "this rank solves, it trains nothing"),
    ],
)
def test_a_loop_sends_what_was_agreed(comm, body, words):
    with pytest.raises(HpckitError, match=words):
        loop(comm, body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda role: role.send(1.0, {}), "send: this rank trains"),
        (lambda role: None, "a trainer ended without any samples"),
    ],
)
def test_a_trainer_trains(comm, body, words):
    with pytest.raises(HpckitError, match=words):
        loop(comm, lambda role: [*role.simulations()], body)


def test_without_solver_ranks_it_says_so(comm):
    with pytest.raises(ConfigError, match="no rank solves: start more ranks"):
        loop(comm, None, trainers=comm.size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "mlp"}, "split has no option model: it has batch, buffer"),
        ({"batch": 0}, "batch = 0 must be"),
        ({"sampler": "best"}, "sampler = 'best' must be one of"),
        ({"view": "pairs:9"}, "view = 'pairs:9' makes no sample"),
    ],
)
def test_options_are_checked(comm, options, words):
    with pytest.raises(ConfigError, match=words), split(comm, BOX, {"u": (2,)}, STEPS, **options):
        pass
