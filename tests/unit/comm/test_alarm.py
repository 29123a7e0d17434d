"""An alarm reaches everybody, whoever rings; waits end, and name those who are late or dead."""

import signal
import time

import pytest

from hpckit.comm import alarm as alarms
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


@several
@pytest.mark.parametrize("kind", [HpckitError, ConfigError, Checkpointed])
def test_every_rank_hears_every_other(comm, kind):
    for ringer in range(comm.size):
        alarm = Alarm(comm)
        with pytest.raises(kind, match=f"^rank {ringer}: no more paper$") as error, alarm.guard():
            if comm.rank == ringer:
                raise kind("no more paper")
            alarm.wait(never, 60, lambda: "nobody")
        assert type(error.value) is kind
        if comm.rank != ringer:
            with pytest.raises(kind, match="no more paper"):  # again and again
                alarm.check()
        alarm.close()


@several
def test_other_errors_are_told_with_their_type(comm):
    alarm = Alarm(comm)
    with pytest.raises(HpckitError, match="rank 1: ZeroDivisionError: division by zero"):
        with alarm.guard():
            if comm.rank == 1:
                1 / 0  # noqa: B018
            alarm.wait(never, 60, lambda: "nobody")
    alarm.close()


@several
def test_interrupts_go_on_as_they_are(comm):
    alarm = Alarm(comm)
    expected = KeyboardInterrupt if comm.rank == 0 else HpckitError
    with pytest.raises(expected), alarm.guard():
        if comm.rank == 0:
            raise KeyboardInterrupt
        alarm.wait(never, 60, lambda: "nobody")
    alarm.close()


@several
def test_all_ring_at_once(comm):
    alarm = Alarm(comm)
    with pytest.raises(HpckitError, match=rf"rank {comm.rank}: mine"), alarm.guard():
        raise HpckitError("mine")
    if not alarm._heard:
        alarm.ring(HpckitError("again"))  # which nobody is told
    alarm.close()


@several
def test_who_rings_and_leaves_is_heard_later(comm):
    alarm = Alarm(comm)
    if comm.rank == 0:
        alarm.ring(HpckitError("x" * 5000))
    else:
        time.sleep(0.05)  # busy with something else
        with pytest.raises(HpckitError, match="rank 0: x+$"):
            alarm.wait(never, 60, lambda: "nobody")
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
    words = "waited 0.2 s for rank 1: dead, late"
    with pytest.raises(HpckitError, match=f"rank 0: {words}"), alarm.guard():
        if comm.rank == 0:
            alarm.wait(never, 0.2, lambda: "rank 1")
        alarm.wait(never, 60, lambda: "nobody")
    alarm.close()


@several
def test_a_dead_process_is_named(comm, monkeypatch):
    alarm, last = Alarm(comm), comm.size - 1
    monkeypatch.setattr(spin, "_INTERVAL", 0)
    dead = alarm._watch._processes[last]
    monkeypatch.setattr(spin, "_alive", lambda process: process != dead)
    if comm.rank < last:
        with pytest.raises(HpckitError, match=rf"rank {last} \(process {dead} on this node\) died"):
            alarm.wait(never, 60, lambda: "nobody")
    monkeypatch.undo()
    alarm.close()


@several
def test_who_does_not_come_after_an_error_is_not_waited_for(comm, monkeypatch):
    monkeypatch.setattr(alarms, "GRACE", 0.1)
    alarm = Alarm(comm)
    if comm.rank == 0:
        alarm.ring(HpckitError("over"))
        assert not alarm.meet()
    comm.Barrier()
    assert comm.rank == 0 or alarm.meet()


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
        for _ in range(4):
            come = lambda: queues.receivers[1].peek() is not None
            alarm.wait(come, 60 if _ < 3 else 1, lambda: "rank 1")
            queues.receivers[1].drop()
except HpckitError as error:
    os.kill(process, signal.SIGCONT)
    print(error, flush=True)
    if alarm.meet():
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
