"""A watch names who is late, and who calls something else, and changes no result."""

import itertools
import logging
import os
import signal
import threading
import time
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives.allreduce import Allreduce, allreduce
from hpckit.errors import ConfigError, HpckitError
from hpckit.watch import Watch, monitor
from hpckit.watch import recorder as recording

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("check", [False, True])
def test_results_are_those_of_the_communicator(comm, check):
    p, x = comm.size, np.arange(4.0) + comm.rank
    with Watch(comm, check=check) as watched:
        for c in (comm, watched):
            total, table, part = np.empty(4), np.empty((p, 4)), np.empty(4)
            c.Allreduce(x, total)
            c.Allreduce([x, MPI.DOUBLE], [total, 4, MPI.DOUBLE], op=MPI.SUM)
            np.testing.assert_array_equal(total, p * np.arange(4.0) + p * (p - 1) / 2)
            c.Allgather(x, table)
            c.Scatter(table if c.rank == p - 1 else None, part, root=p - 1)
            np.testing.assert_array_equal(part, x)
            c.Gather(MPI.IN_PLACE if c.rank == 0 else part, table)
            c.Allgatherv(np.full(c.rank, c.rank), [np.empty(p * (p - 1) // 2, int), list(range(p))])
            assert c.bcast(c.rank, root=p - 1) == p - 1
            assert c.allreduce(1) == p and c.allreduce([c.rank], op=lambda a, b: a + b) == list(
                range(p)
            )
            assert c.gather(c.rank, root=p - 1) == (list(range(p)) if c.rank == p - 1 else None)
            c.Barrier()
            duplicate = c.Dup()
            duplicate.Barrier()
            duplicate.Free()
    watched.Barrier()


def test_forms_of_a_buffer_that_agree(comm):
    """What one rank passes may look different from what the others do."""
    x, pairs = np.zeros(6), MPI.DOUBLE.Create_contiguous(2).Commit()
    forms = [
        x,
        [x, MPI.DOUBLE],
        [np.zeros(9), 6, MPI.DOUBLE],
        [np.zeros(9), np.int64(6), "d"],
        [x, 3, pairs],
    ]
    forms += [[np.zeros(9), (6, 0), MPI.DOUBLE], memoryview(x), x.reshape(2, 3)]
    with Watch(comm, check=True) as watched:
        for form in forms:
            watched.Bcast(form if comm.rank == 0 else x)
            watched.Bcast(buf=x, root=0)
    pairs.Free()


@pytest.mark.parametrize("check", [False, True])
def test_plans_are_watched(comm, check):
    x = np.empty(100)
    with Watch(comm, check=check) as watched:
        plans = [
            Allreduce(watched, x, algorithm="native"),
            Allreduce(watched, x, algorithm="oneshot", chunks=3),
        ]
        for plan in plans:
            x[:] = comm.rank + 1
            plan()
            assert (x == comm.size * (comm.size + 1) / 2).all()
        x[:] = 1
        plans[0].start()
        plans[0].poll()
        plans[0].wait()
        assert (x == comm.size).all()
        assert (allreduce(watched, x, algorithm="native") == comm.size**2).all()
        report = watched.watch.report()
    assert "allreduce plan 1 at test_watch.py:" in report and "allreduce plan 3" in report
    assert (allreduce(watched, x, algorithm="native") == comm.size**2).all()


def calls(kind, rank):
    """What rank 0 and the others call, so that it does not match in `kind`."""
    x, first = np.zeros(6), rank == 0
    return {
        "kind": lambda c: c.Barrier() if first else c.Allreduce(MPI.IN_PLACE, x),
        "root": lambda c: c.Bcast(x, root=0 if first else 1),
        "op": lambda c: c.Allreduce(MPI.IN_PLACE, x, MPI.SUM if first else MPI.MAX),
        "dtype": lambda c: c.Allreduce(MPI.IN_PLACE, x if first else x.astype("f4")),
        "length": lambda c: c.Allreduce(MPI.IN_PLACE, x[:5] if first else x),
    }[kind]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["kind", "root", "op", "dtype", "length"])
def test_collectives_that_do_not_match_raise_on_every_rank(comm, kind):
    with Watch(comm, check=True) as watched:
        watched.Barrier()
        with pytest.raises(
            HpckitError, match=f"collective 2 of the watch does not match, {kind} differs: "
        ) as error:
            calls(kind, comm.rank)(watched)
        watched.Barrier()  # all ranks may go on
    message = str(error.value)
    assert len(set(comm.allgather(message))) == 1
    others = "rank 1" if comm.size == 2 else f"ranks 1-{comm.size - 1}"
    assert (
        "rank 0: " in message and f"{others}: " in message and message.count("test_watch.py:") == 2
    )


@pytest.mark.mpi(min_size=2)
def test_collectives_in_another_order_raise_on_every_rank(comm):
    with Watch(comm, check=True) as watched:
        for step in (0, 1):
            with pytest.raises(
                HpckitError,
                match=r"kind differs: .*allgather.*barrier|kind differs: .*barrier.*allgather",
            ):
                watched.barrier() if step == (comm.rank == 0) else watched.allgather(1)


@pytest.mark.mpi(min_size=2)
def test_plans_that_do_not_match_raise_when_they_wait(comm):
    with Watch(comm, check=True) as watched:
        plans = [Allreduce(watched, np.zeros(n), algorithm="twoshot", deadline=20) for n in (3, 4)]
        plan = plans[comm.rank == 0]
        plan.start()
        with pytest.raises(
            HpckitError, match=r"kind differs: .*allreduce plan 1.*allreduce plan 2|plan 2.*plan 1"
        ):
            plan.wait()


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_does_not_come_is_named(comm, monkeypatch):
    # Where a rank is must be known even if the machine is busy.
    monkeypatch.setattr(monitor, "_ANSWER", 30)
    last = comm.size - 1
    with Watch(comm, patience=1, check=True) as watched:  # the others may be that far apart
        if comm.rank == last:
            while not comm.iprobe(source=0):
                time.sleep(0.01)
        with pytest.raises(
            HpckitError,
            match=f"collective 1 .* for rank {last}, longer .*rank {last}: outside, after 0",
        ):
            watched.Barrier()
        if comm.rank == 0:
            comm.send(None, last)
        elif comm.rank == last:
            comm.recv(source=0)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_a_rank_that_leaves_the_block_is_named(comm, error):
    def block():
        with Watch(comm, patience=30, check=True) as watched:
            if comm.rank:
                watched.Barrier()
            elif error:
                raise error

    if error and comm.rank == 0:
        with pytest.raises(ValueError, match="no"):
            block()
    else:
        cause = (
            "rank 0: has left the watch by ValueError: no"
            if error
            else "kind differs: rank 0: end of the watch"
        )
        with pytest.raises(HpckitError, match=cause):
            block()


@contextmanager
def listening(file):
    """What is logged on this rank; all ranks find the file after the first on any, even in MPI."""
    handler, messages = logging.Handler(), []
    handler.emit = lambda record: (messages.append(record.getMessage()), file.touch())
    logger = logging.getLogger(monitor.__name__)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def wait_for(file):
    limit = time.monotonic() + 30
    while not file.exists() and time.monotonic() < limit:
        time.sleep(0.01)


@pytest.mark.mpi(min_size=2)
def test_who_is_late_is_logged_once(comm, shared_path, monkeypatch):
    monkeypatch.setattr(monitor, "_ANSWER", 30)
    with listening(shared_path / "told") as messages, Watch(comm, patience=1) as watched:
        if comm.rank == 0:
            wait_for(shared_path / "told")
        watched.Barrier()
    everyone = [message for each in comm.allgather(messages) for message in each]
    assert len(everyone) == 1
    assert (
        "collective 1 of the watch waits for rank 0, longer than 1 s; rank 0: outside, after 0"
        in everyone[0]
    )
    assert "in its collective 1, Barrier() at test_watch.py:" in everyone[0]


@pytest.mark.mpi(min_size=2)
def test_a_stopped_process_is_named(comm, shared_path, monkeypatch):
    monkeypatch.setattr(monitor, "_ANSWER", 2)
    processes = comm.allgather(os.getpid())

    def go_on():
        wait_for(shared_path / "told")
        os.kill(processes[1], signal.SIGCONT)

    with listening(shared_path / "told") as messages, Watch(comm, patience=1) as watched:
        comm.gather(None)
        if comm.rank == 0:
            os.kill(processes[1], signal.SIGSTOP)
            threading.Thread(target=go_on).start()
        elif comm.rank == 1:
            time.sleep(0.1)
        watched.Barrier()
    (message,) = [message for each in comm.allgather(messages) for message in each]
    assert "waits for rank 1," in message and "rank 1: gives no answer: stopped, or" in message


@pytest.mark.mpi(min_size=2)
def test_the_report_tells_who_comes_last(comm, monkeypatch):
    """By clocks of their own: rank 1 is 20 ms late in every call, and a call takes 3 ms."""
    x, recorder, here = np.zeros(100_000), Watch(comm, keep=10), threading.get_ident()
    times = itertools.count(0.02 * (comm.rank == 1), 0.003)
    monkeypatch.setattr(
        recording, "_clock", lambda: next(times) if threading.get_ident() == here else 0.0
    )
    with recorder as watched:
        for _ in range(12):
            watched.Allreduce(MPI.IN_PLACE, x)
    assert watched.watch is None  # an ordinary communicator again
    lines = recorder.report().splitlines()
    (line,) = [line for line in lines if "Allreduce at test_watch.py:" in line]
    assert line.split()[:4] == ["10", "3.000", "0.27", "20.000"]
    assert "rank 1, 100 %" in line


def test_nothing_is_allocated_but_the_ring(comm):
    with Watch(comm, keep=50) as watched:
        x = np.zeros(3)

        def grown():
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(200):
                watched.Allreduce(MPI.IN_PLACE, x)
            return tracemalloc.get_traced_memory()[0] - before

        tracemalloc.start()
        grown()  # fills the ring
        # Of several: the monitor's thread allocates now and then.
        least = min(grown() for _ in range(5))
        tracemalloc.stop()
    # If its place were not taken again, a record would take 200 bytes and more.
    assert least < 200 * 20


def test_bad_arguments(comm):
    for bad in ({"patience": 0}, {"keep": 0}):
        with pytest.raises(ConfigError, match="must be above 0"):
            Watch(comm, **bad)
