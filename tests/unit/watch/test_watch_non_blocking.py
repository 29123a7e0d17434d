"""MPI's non-blocking collectives are watched from their call until their request is complete."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.errors import HpckitError
from hpckit.watch import Watch, monitor
from hpckit.watch.calls import NON_BLOCKING

pytestmark = pytest.mark.mpi


def poll(request):
    while not request.Test():
        pass


def poll_lowercase(request):
    while not request.test()[0]:
        pass


ENDS = {
    "Wait": lambda request: request.Wait(),
    "wait": lambda request: request.wait(),
    "Test": poll,
    "test": poll_lowercase,
    "Waitall": lambda request: MPI.Request.Waitall([MPI.REQUEST_NULL, request]),
}


def arguments(comm):
    """Of each collective; the last array of them is the result."""
    p, x = comm.size, np.arange(2.0 * comm.size) + comm.rank
    ones, types = [1] * p, [MPI.DOUBLE] * p
    root = np.full(p, -1.0) if comm.rank == p - 1 else None
    bytes_each = list(range(0, 8 * p, 8))
    reduction = {name: (x, np.full(2 * p, -1.0)) for name in ("Iallreduce", "Iscan", "Iexscan")}
    return reduction | {
        "Ibarrier": (),
        "Ibcast": (x, p - 1),
        "Ireduce": (x, None if root is None else np.full(2 * p, -1.0), MPI.MAX, p - 1),
        "Ireduce_scatter_block": (x, np.full(2, -1.0)),
        "Ireduce_scatter": (x, np.full(2, -1.0), [2] * p),
        "Igather": (x[:1], root, p - 1),
        "Igatherv": (x[:1], None if root is None else [root, ones], p - 1),
        "Iscatter": (None if root is None else x[:p], np.full(1, -1.0), p - 1),
        "Iscatterv": (None if root is None else [x, ones], np.full(1, -1.0), p - 1),
        "Iallgather": (x[:1], np.full(p, -1.0)),
        "Iallgatherv": (x[:1], [np.full(p, -1.0), ones]),
        "Ialltoall": (x[:p], np.full(p, -1.0)),
        "Ialltoallv": ([x, ones], [np.full(p, -1.0), ones]),
        "Ialltoallw": ([x, ones, bytes_each, types], [np.full(p, -1.0), ones, bytes_each, types]),
    }


def results(comm, end):
    found = {}
    for name, given in arguments(comm).items():
        end(getattr(comm, name)(*given))
        arrays = [part for part in given for part in (part if isinstance(part, list) else [part])]
        found[name] = [array.tolist() for array in arrays if isinstance(array, np.ndarray)]
    return found


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_results_are_those_of_the_communicator(comm, check, end):
    assert arguments(comm).keys() == NON_BLOCKING.keys()
    with Watch(comm, check=check) as watched:
        assert results(watched, ENDS[end]) == results(comm, ENDS["Wait"])
        report = watched.watch.report()
    assert ("Iallreduce at test_watch_non_blocking.py:" in report) == (end != "Waitall")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("end", ENDS)
def test_messages_may_travel_before_all_have_begun(comm, end):
    total = np.ones(3)
    with Watch(comm, check=True) as watched:
        if comm.rank == 0:
            request = watched.Iallreduce(MPI.IN_PLACE, total)
            assert comm.size > 1 and not request.Test()
            for rank in range(1, comm.size):
                comm.ssend(None, rank)
        else:
            comm.recv(source=0)
            request = watched.Iallreduce(MPI.IN_PLACE, total)
        ENDS[end](request)
    assert (total == comm.size).all()


def test_patience_begins_when_somebody_waits(comm):
    with Watch(comm, patience=0.1, check=True) as watched:
        if comm.rank:
            time.sleep(0.5)
        request = watched.Ibarrier()
        comm.Barrier()
        request.Wait()
        comm.Barrier()  # all come to the end of the watch together


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("end", ["Wait", "Test"])
def test_collectives_that_do_not_match_raise_on_every_rank(comm, end):
    with Watch(comm, check=True) as watched:
        request = watched.Iallreduce(
            MPI.IN_PLACE, np.zeros(3), MPI.SUM if comm.rank == 0 else MPI.MAX
        )
        for _ in range(2):
            with pytest.raises(
                HpckitError, match=r"collective 1 .* op differs: .*SUM.*: Iallreduce.*MAX"
            ) as error:
                ENDS[end](request)
        MPI.Request.Wait(request)
    message = str(error.value)
    assert (
        len(set(comm.allgather(message))) == 1 and message.count("test_watch_non_blocking.py:") == 2
    )


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("end", "where"),
    [
        ("Wait", r"in its collective 1, Ibarrier\(\) at test"),
        ("Test", "outside, after 2 .* in poll"),
    ],
)
def test_a_rank_that_does_not_come_is_named(comm, monkeypatch, end, where):
    """What is waited for need not be the last that was called."""
    monkeypatch.setattr(monitor, "_ANSWER", 30)
    with Watch(comm, patience=1, check=True) as watched:
        if comm.rank == 0:
            while not all(comm.iprobe(source=rank) for rank in range(1, comm.size)):
                time.sleep(0.01)
        requests = [watched.Ibarrier(), watched.Ibarrier()]
        with pytest.raises(
            HpckitError, match=f"collective 1 .* for rank 0, longer than 1 s; .*: {where}"
        ):
            ENDS[end](requests[0])
        if comm.rank:
            comm.send(None, 0)
        else:
            for rank in range(1, comm.size):
                comm.recv(source=rank)
        MPI.Request.Waitall(requests)
        comm.Barrier()


@pytest.mark.mpi(min_size=2)
def test_who_is_late_is_logged(comm, shared_path, monkeypatch):
    monkeypatch.setattr(monitor, "_ANSWER", 30)
    told, part = shared_path / "told", shared_path / "part"

    def tell(text):
        part.write_text(text)
        part.rename(told)

    monkeypatch.setattr(monitor, "get_logger", lambda _: SimpleNamespace(warning=tell))
    with Watch(comm, patience=1) as watched:
        limit = time.monotonic() + 30
        while comm.rank == 0 and not told.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        requests = [watched.Ibarrier(), watched.Ibarrier()]
        for request in requests:
            request.Wait()
    assert "collective 1 of the watch waits for rank 0, longer than 1 s" in told.read_text()
    assert "in its collective 1, Ibarrier()" in told.read_text()


@pytest.mark.parametrize("check", [False, True])
def test_what_waitall_completes_is_never_late(comm, check, caplog):
    with Watch(comm, patience=0.1, check=check) as watched:
        MPI.Request.Waitall([watched.Ibarrier(), watched.Iallreduce(MPI.IN_PLACE, np.zeros(1))])
        time.sleep(0.5)
        number, text = watched.watch._where()
        assert number == 2 and text.startswith(
            "outside, after 2 collectives, at test_watch_non_blocking.py:"
        )
        comm.Barrier()
    assert not [record for record in caplog.records if record.name == monitor.__name__]
