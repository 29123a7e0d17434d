"""An alarm reaches everybody, whoever rings; waits end, and name those who are late or dead."""

import signal
import time

import pytest

from hpckit.comm.alarm import Alarm
from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.machine import spin

several = pytest.mark.mpi(min_size=2)


def never():
    return False


def test_nothing_happens_without_an_error(comm):
    alarm = Alarm(comm)
    alarm.check()
    polls = iter([False] * 20 + [True])
    with alarm.guard():
        assert alarm.wait(lambda: next(polls), 60, lambda: "nobody") > 0
    assert alarm.meet()
    alarm.close()


def wait_for_ever(alarm):
    alarm.wait(never, 60, lambda: "nobody")


def run(comm, alarm, works):
    """In guard, `works[rank]`, then wait for what never comes."""
    with alarm.guard():
        works.get(comm.rank, never)()
        wait_for_ever(alarm)


def raises(error):
    def work():
        raise error

    return work


@several
@pytest.mark.parametrize("kind", [HpckitError, ConfigError, Checkpointed])
def test_every_rank_hears_every_other(comm, kind):
    for ringer in range(comm.size):
        alarm = Alarm(comm)
        with pytest.raises(kind, match=f"^rank {ringer}: no more paper$") as error:
            run(comm, alarm, {ringer: raises(kind("no more paper"))})
        assert type(error.value) is kind
        if comm.rank != ringer:
            with pytest.raises(kind, match="no more paper"):  # again and again
                alarm.check()
        alarm.close()


@several
def test_other_errors_are_told_with_their_type(comm):
    alarm = Alarm(comm)
    with pytest.raises(HpckitError, match="rank 1: ZeroDivisionError: division by zero"):
        run(comm, alarm, {1: lambda: 1 / 0})
    alarm.close()


@several
def test_interrupts_go_on_as_they_are(comm):
    alarm = Alarm(comm)
    with pytest.raises(KeyboardInterrupt if comm.rank == 0 else HpckitError):
        run(comm, alarm, {0: raises(KeyboardInterrupt)})
    alarm.close()


@several
def test_what_all_ranks_ring_is_said_once(comm):
    alarm = Alarm(comm)
    with pytest.raises(ConfigError, match="the same for all") as error, alarm.guard():
        raise ConfigError("the same for all")
    assert str(error.value) == "the same for all"
    alarm.close()


@several
def test_all_ranks_raise_what_several_ring(comm):
    alarm = Alarm(comm)
    with pytest.raises(HpckitError) as error, alarm.guard():
        raise ConfigError("first") if comm.rank == 0 else HpckitError("other")
    others = "rank 1" if comm.size == 2 else f"ranks 1-{comm.size - 1}"
    assert str(error.value) == f"rank 0: first; {others}: other"
    assert type(error.value) is HpckitError
    alarm.close()


@several
@pytest.mark.parametrize("pause", [0, 0.02])
def test_an_error_after_others_have_ended_their_part(comm, pause):
    """They wait for the last rank, and hear of it."""

    def work():
        time.sleep(pause)
        raise HpckitError("late trouble")

    def block():
        with alarm.guard():
            if comm.rank == 0:
                work()

    alarm = Alarm(comm)
    with pytest.raises(HpckitError, match=r"^rank 0: late trouble$"):
        block()
    assert alarm.meet() and alarm.meet()  # as often as one likes, also not everywhere
    if comm.rank == 0:
        assert alarm.meet()
    alarm.close()


@several
def test_who_rings_and_leaves_is_heard_later(comm):
    alarm = Alarm(comm)
    if comm.rank == 0:
        alarm.ring(HpckitError("x" * 5000))
    else:
        time.sleep(0.05)  # busy with something else
        with pytest.raises(HpckitError, match=r"rank 0: x+$"):
            wait_for_ever(alarm)
    alarm.close()


@several
def test_an_alarm_that_nobody_heard_is_closed(comm):
    for ringers in ({0}, {comm.size - 1}, set(range(comm.size))):
        alarm = Alarm(comm)
        if comm.rank in ringers:
            alarm.ring(HpckitError("unheard"))
        alarm.close()


@several
def test_the_deadline_names_who_is_late_everywhere(comm):
    alarm = Alarm(comm)
    with pytest.raises(HpckitError, match=r"rank 0: waited 0\.2 s for rank 1: dead, late"):
        run(comm, alarm, {0: lambda: alarm.wait(never, 0.2, lambda: "rank 1")})
    alarm.close()


@several
def test_a_dead_process_is_named(comm, monkeypatch):
    alarm, last = Alarm(comm), comm.size - 1
    monkeypatch.setattr(spin, "_INTERVAL", 0)
    dead = alarm._watch._processes[last]
    monkeypatch.setattr(spin, "_alive", lambda process: process != dead)
    if comm.rank < last:
        with pytest.raises(HpckitError, match=rf"rank {last} \(process {dead} on this node\) died"):
            wait_for_ever(alarm)
    monkeypatch.undo()
    alarm.close()


@several
def test_who_does_not_come_after_an_error_is_not_waited_for(comm):
    alarm = Alarm(comm, grace=0.1)
    if comm.rank == 0:
        with pytest.raises(HpckitError, match=r"^rank 0: over$"), alarm.guard():
            raise HpckitError("over")
        assert not alarm.meet()
        alarm.close()  # which it cannot
    comm.Barrier()
    if comm.rank > 0:
        with pytest.raises(HpckitError, match=r"^rank 0: over$"):
            wait_for_ever(alarm)
        assert not alarm.meet()  # the others have given it up


_STOPPED = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
from hpckit.comm.alarm import Alarm
from hpckit.comm.queues import open_queues
from hpckit.errors import HpckitError

comm, (way, number) = MPI.COMM_WORLD, sys.argv[1:]
alarm, queues = Alarm(comm), open_queues(comm, [(1, 0)], 8, 4, way)
process = comm.bcast(os.getpid(), root=1)
try:
    with alarm.guard():
        if comm.rank == 1:
            for _ in range(3):
                queues.senders[0].room()[:] = 1
                queues.senders[0].send()
            if way == "messages":  # which only go while MPI is called
                alarm.wait(queues.senders[0].settle, 60, lambda: "rank 0")
            os.kill(process, int(number))
            alarm.wait(lambda: False, 60, lambda: "rank 0")
        receiver = queues.receivers[1]
        for number in range(4):
            try:
                alarm.wait(lambda: receiver.waiting, 60 if number < 3 else 1, lambda: "rank 1")
            finally:
                if number == 3:
                    os.kill(process, signal.SIGCONT)
            receiver.drop()
except HpckitError as error:
    print(error, flush=True)
    queues.close()
    alarm.close()
"""


@pytest.mark.parametrize("way", ["shared", "messages"])
def test_a_stopped_sender_is_named_and_hears_of_it(mpirun, way):
    result = mpirun(2, "-c", _STOPPED, way, signal.SIGSTOP.value)
    assert result.returncode == 0, result.stdout
    line = "rank 0: waited 1 s for rank 1: dead, late, or in another call; look what happens there"
    assert result.stdout.count(line) == 2
    assert len(result.stdout.splitlines()) == 2  # nothing about requests that were not freed


@pytest.mark.parametrize("way", ["shared", "messages"])
def test_a_killed_sender_ends_the_job(mpirun, way):
    """By its launcher, as a rule before we look; else by what we say."""
    result = mpirun(2, "-c", _STOPPED, way, signal.SIGKILL.value)
    ours = "rank 1 (process" in result.stdout
    assert result.returncode != 0 or ours, result.stdout
