"""Solvers and samplers that fail, or give what they should not: one clear error on every rank."""

import contextlib
import time

import numpy as np
import pytest
from counting import Counting, Keys
from streaming import stream

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.schedule import Free, Lockstep
from hpckit.surrogate.solver import Fields, check_solver

U = np.ones((2, 3))
V = np.ones(2)


def replaced(**fields):
    """What a step gives, with other fields."""
    return lambda time: (time, {"u": U, "v": V} | fields)


BAD = {
    "no pair": (lambda time: 3.0, ConfigError, "gave float, it must yield a time and a dict"),
    "nothing": (lambda time: None, ConfigError, "gave NoneType, it must yield"),
    "no dict": (lambda time: (time, U), ConfigError, "gave ndarray, not the fields u, v"),
    "a field too few": (lambda time: (time, {"u": U}), ConfigError, "gave fields u, not .* u, v"),
    "another field": (replaced(w=V), ConfigError, "gave fields u, v, w, not the fields u, v"),
    "another shape": (replaced(u=U.T), ConfigError, r"'u' has shape \(3, 2\), it must have \(2, 3"),
    "complex": (replaced(v=1j * V), ConfigError, "'v' is of dtype complex128, it must hold real"),
    "words": (replaced(v=["a", "b"]), ConfigError, "'v' is of dtype <U1, it must hold real"),
    "masked": (replaced(v=np.ma.masked_array(V, V > 0)), ConfigError, "'v' is masked"),
    "NaN": (replaced(v=V * np.nan), HpckitError, r"'v' is not finite at \(0,\): nan"),
    "infinity": (replaced(u=U * np.inf), HpckitError, r"'u' is not finite at \(0, 0\): inf"),
    "too large": (replaced(u=U * 1e300), HpckitError, r"'u' is too large for float32 at \(0, 0\)"),
    "the same time": (lambda time: replaced()(0.5), ConfigError, "time 0.5 must be finite and inc"),
    "no time": (lambda time: replaced()(np.nan), ConfigError, "time nan must be finite"),
    "time in words": (lambda time: replaced()("soon"), ConfigError, "must yield a time"),
}


def raise_zero_division(step, given):
    if step == 1:
        raise ZeroDivisionError("division by zero")
    return given


def failed(comm, kind, words, **options):
    """The error that all ranks raise with the same words."""
    with stream(comm, simulations=1, **options) as one:
        with pytest.raises(HpckitError) as caught:
            one.run(one.take)
        assert type(caught.value) is kind, caught.value
        assert len({*comm.allgather(str(caught.value))}) == 1
        caught.match(words)


@pytest.mark.parametrize("what", BAD)
def test_what_a_solver_gives_is_checked(comm, what):
    given, kind, words = BAD[what]
    bad = Counting(fail=lambda step, good: given(good[0]) if step == 1 else good)
    failed(
        comm,
        kind,
        rf"^(rank \d: )?simulation 0 \(key = 0, other = 0.5\), step 1: .*{words}",
        solver=bad,
    )


@pytest.mark.parametrize("schedule", [Lockstep(1), Free()])
def test_a_solver_that_raises_fails_everywhere(comm, schedule):
    bad = Counting(fail=raise_zero_division)
    words = r"^(rank \d: )?simulation 0 .*, step 1: ZeroDivisionError: division by zero"
    failed(comm, HpckitError, words, solver=bad, schedule=schedule)


def test_in_a_group_too(comm):
    def fail_on_the_last(step, given):
        if comm.rank == comm.size - 1 and step == 1:
            raise RuntimeError("out of luck")
        return given

    failed(
        comm, HpckitError, "step 1: RuntimeError: out of luck", group=max(comm.size - 1, 1),
        solver=Counting(fail=fail_on_the_last),
    )  # fmt: skip


class Starts(Counting):
    def run(self, parameters, comm):
        raise OSError("no licence")


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (Counting(yields=2), ConfigError, "step 2: the solver ended, it must yield 3 times"),
        (Counting(yields=0), ConfigError, "step 0: the solver ended, it must yield 3 times"),
        (Counting(yields=4), ConfigError, "step 3: the solver goes on, it must yield 3 times"),
        (Starts(), HpckitError, "step 0: OSError: no licence"),
    ],
)
def test_a_solver_gives_as_many_steps_as_it_says(comm, bad, kind, words):
    failed(comm, kind, words, solver=bad)


@pytest.mark.parametrize(
    ("drawn", "words"),
    [([2000.0, 0.0], "left the box in simulation 0: key = 2000 is not in 0 to 1000"),
     ([np.nan, 0.0], "left the box in simulation 0: key = nan is not in 0 to 1000"),
     ([1.0], r"gave simulation 0 parameters of shape \(1,\), it needs \(2,\)")],
)  # fmt: skip
def test_a_sampler_keeps_to_the_box(comm, monkeypatch, drawn, words):
    monkeypatch.setattr(Keys, "draw", lambda self, simulation: np.array(drawn))
    failed(comm, ConfigError, f"^(rank 0: )?the sampler {words}")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("schedule", [Lockstep(1), Free()])
def test_trainers_that_never_wait_hear_of_it(comm, schedule):
    def look(source):
        while True:
            while source.peek() is not None:
                source.drop()

    bad = Counting(fail=raise_zero_division)
    heard = pytest.raises(HpckitError, match=r"rank 1: .* step 1: ZeroDivisionError")
    with stream(comm, bad, schedule=schedule, simulations=1) as one, heard:
        one.run(look)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("schedule", [Lockstep(1), Free()])
def test_solvers_that_never_wait_hear_of_it(comm, schedule):
    """The queue has room for all that they send: they come to know it between two steps."""
    steps = []

    def fail(source):
        raise ValueError("no such luck")

    def solve(step, given):
        steps.append(step)
        with contextlib.suppress(HpckitError):
            while step == 1:
                one.alarm.check()
                time.sleep(0.01)
        return given

    heard = pytest.raises(HpckitError, match="rank 0: ValueError: no such luck")
    with stream(comm, Counting(fail=solve), schedule=schedule, simulations=1) as one, heard:
        one.run(fail)
    assert 2 not in steps


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("schedule", "words"),
    [(Lockstep(1), "waited 0.5 s for rank 1 to give step 0 of simulation 0:"),
     (Free(), "waited 0.5 s for a step of rank 1")],
)  # fmt: skip
def test_a_solver_that_hangs_is_named(comm, schedule, words):
    with stream(comm, schedule=schedule, deadline=0.5, simulations=1) as one:

        def hang(step, given):
            while True:
                one.alarm.check()
                time.sleep(0.01)

        one.solver.fail = hang
        with pytest.raises(HpckitError, match=f"rank 0: {words}"):
            one.run(one.take)


@pytest.mark.mpi(min_size=2)
def test_a_trainer_that_hangs_is_named(comm):
    def hang(source):
        while True:
            one.alarm.check()
            time.sleep(0.01)

    late = pytest.raises(HpckitError, match=r"ranks? .*: waited 0.4 s for rank 0, which trains:")
    with stream(comm, simulations=None, deadline=0.2) as one, late:
        one.run(hang)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({}, "must give names and shapes"), (["u"], "must give names and shapes"),
     ({"u": ()}, "shape"), ({"u": (3, 0)}, "at least 1"), ({"u": (2.5,)}, "whole numbers"),
     ({3: (2,)}, "field 3")],
)  # fmt: skip
def test_fields_have_names_and_shapes(fields, words):
    with pytest.raises(ConfigError, match=words):
        Fields.of(fields)


def test_fields_are_packed_one_after_the_other():
    fields = Fields.of({"u": (2, 3), "v": 4})
    vector = np.zeros(fields.size, np.float32)
    u, v = np.arange(6).reshape(3, 2).T, range(4)
    fields.pack({"v": list(v), "u": u}, vector)
    assert vector.tolist() == [0, 2, 4, 1, 3, 5, 0, 1, 2, 3]
    found = fields.unpack(np.stack([vector, vector + 1]))
    assert np.array_equal(found["u"], [u, u + 1]) and found["v"].shape == (2, 4)


@pytest.mark.parametrize(
    ("solver", "words"),
    [(Counting, "not a class: make one, Counting"), (object(), "has no space, fields, steps, run"),
     (Counting(steps=0), "steps = 0 must be"), (Counting(steps=2.0), "steps = 2.0 must be")],
)  # fmt: skip
def test_what_is_no_solver_is_told_so(solver, words):
    with pytest.raises(ConfigError, match=words):
        check_solver(solver)
