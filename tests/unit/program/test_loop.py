"""One loop for all programs: what is due when, and that all ranks agree on it."""

import os
import signal
import time

import pytest

from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.program.loop import At, Every, If, Loop, When, check_case
from hpckit.program.stop import StopSignal

pytestmark = pytest.mark.mpi


def _loop(comm, actions, **options):
    stop = options.pop("stop", None) or StopSignal(comm)
    return Loop(comm, actions, stop=stop, stopped=lambda: "stopped early", **options)


def test_steps_are_taken_and_actions_come_in_order(comm):
    events, steps = [], 0
    actions = [
        (At([0, 3, 10]), lambda: events.append(("snapshot", loop.done))),
        (Every(steps=5), lambda: events.append(("save", loop.done))),
    ]
    loop = _loop(comm, actions, steps=10)
    for count in loop:
        steps += count
    assert steps == loop.done == 10
    assert events == [
        ("snapshot", 0),
        ("snapshot", 3),
        ("save", 5),
        ("snapshot", 10),
        ("save", 10),
    ]


def test_a_loop_that_goes_on_begins_where_it_was(comm):
    events = []
    loop = _loop(comm, [(At([0, 7]), lambda: events.append(loop.done))], steps=10, done=7)
    assert sum(loop) == 3
    assert events == []  # 0 and 7 were done by the run before
    assert list(_loop(comm, [], steps=10, done=10)) == []


def test_meetings_follow_the_time_that_steps_take(comm):
    met = []
    loop = _loop(comm, [(When(), lambda: met.append(loop.done))], steps=60, interval=0.02)
    for count in loop:
        time.sleep(0.001 * count)
    assert met[0] == 1 and met[-1] == 60
    assert 3 <= len(met) <= 30


def test_the_wish_of_one_rank_is_done_by_all(comm):
    broken = []
    mine = comm.rank == comm.size - 1
    loop = _loop(comm, [(If(lambda: mine and loop.done >= 2), lambda: broken.append(1))])
    while not broken:
        loop.advance()
    assert loop.done >= 2


def test_an_action_may_end_the_loop(comm):
    def fail():
        raise HpckitError("the state holds NaN")

    with pytest.raises(HpckitError, match="NaN"):
        for _ in _loop(comm, [(If(lambda: True), fail)], steps=100):
            pass


def test_seconds_count_from_the_last_time(comm):
    saved = []
    begin = time.monotonic()
    loop = _loop(comm, [(Every(seconds=0.05), lambda: saved.append(loop.done))], interval=0.0)
    while len(saved) < 3:
        loop.advance()
    assert time.monotonic() - begin > 0.1  # ranks begin at different times, and one wish is enough


@pytest.mark.parametrize("asked", ["signal", "time"])
def test_stopped_in_time_with_what_is_due_then(comm, asked):
    events = []
    actions = [
        (At([4]), lambda: events.append("snapshot")),
        (Every(at_stop=True), lambda: events.append("save")),
    ]
    until = {"until": 0.0} if asked == "time" else {}
    loop = _loop(comm, actions, steps=50, interval=1e9, **until)

    def take():
        for _ in loop:
            if asked == "signal" and comm.rank == comm.size - 1:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.01)

    with pytest.raises(Checkpointed, match="stopped early"):
        take()
    assert loop.done < 50
    assert events == ["save"]


def test_asked_before_the_first_step_there_is_nothing_to_save(comm):
    stop = StopSignal(comm)
    if comm.rank == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Checkpointed, match="nothing to save"):
        next(iter(_loop(comm, [], stop=stop, steps=3)))


def test_the_last_step_is_no_time_to_stop(comm):
    assert sum(_loop(comm, [], steps=1, until=0.0)) == 1


def test_next_dates():
    assert [Every(steps=5).next(done) for done in (-1, 0, 4, 5)] == [5, 5, 5, 10]
    assert Every().next(3) == When().next(3) == At([]).next(0) == float("inf")
    assert [At({8, 2}).next(done) for done in (-1, 2, 7, 8)] == [2, 8, 8, float("inf")]


def test_checkpoints_of_another_case_are_refused():
    check_case("folder", {"k": 1}, {"k": 1})
    with pytest.raises(ConfigError, match=r"folder are of another case.*leave out --resume"):
        check_case("folder", {"k": 1}, {"k": 2})
