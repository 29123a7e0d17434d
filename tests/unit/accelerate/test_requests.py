"""Persistent requests of packed messages: alone, in lists, beside MPI's own."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

import hpckit
from hpckit.accelerate import requests
from hpckit.accelerate.requests import Persistent
from hpckit.comm.device_array import zeros

MPIS = MPI.Request, MPI.Prequest  # whatever `install` has done


@pytest.fixture
def packed(comm):
    return hpckit.accelerate(comm, "packed")


@pytest.fixture
def installed():
    """As under `python -m hpckit.accelerate`."""
    requests.install()
    yield
    MPI.Request, MPI.Prequest = MPIS


@pytest.fixture
def ring(comm):
    """(who gets what this rank sends, who sends to it)"""
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


@pytest.fixture
def column(make):
    return make(MPI.DOUBLE.Create_vector(6, 1, 10))


def waitall(started):
    MPI.Request.Waitall(started)


def waitall_with_statuses(started):
    statuses = []
    MPI.Prequest.Waitall(started, statuses)
    assert len(statuses) == len(started) and statuses[0].Get_count(MPI.DOUBLE) == 6


def wait_one_by_one(started):
    for each in started:
        each.Wait()


def poll_one_by_one(started):
    for each in started:
        while not each.Test(status := MPI.Status()):
            pass
    assert status.Get_count(MPI.DOUBLE) == 60


def look_one_by_one(started):
    for each in started:
        while not each.Get_status():
            pass
    MPI.Request.Waitall(started)


def waitany(started):
    found = {MPI.Request.Waitany(started, MPI.Status()) for _ in started}
    assert found == {*range(len(started))}
    assert MPI.Request.Waitany(started) == MPI.UNDEFINED


def poll_any(started):
    found = set()
    while len(found) < len(started):
        index, flag = MPI.Request.Testany(started)
        found |= {index} if flag else set()
    assert found == {*range(len(started))}


def waitsome(started):
    found = []
    while (indices := MPI.Request.Waitsome(started)) is not None:
        found += indices
    assert sorted(found) == [*range(len(started))]


def poll_some(started):
    found = []
    while (indices := MPI.Request.Testsome(started)) is not None:
        found += indices
    assert sorted(found) == [*range(len(started))]


def poll_all(started):
    while not MPI.Request.Testall(started):
        pass


COMPLETE = [
    *(waitall, waitall_with_statuses, wait_one_by_one, poll_one_by_one, look_one_by_one),
    *(waitany, poll_any, waitsome, poll_some, poll_all),
]


@pytest.mark.parametrize("complete", COMPLETE)
def test_lists_of_both_kinds(comm, packed, installed, ring, column, complete):
    there, here, whole = np.zeros((6, 10)), np.zeros((6, 10)), np.zeros((6, 10))
    plan = [
        packed.Recv_init([here, 1, column], ring[1], 0),
        packed.Send_init([there, 1, column], ring[0], 0),
        packed.Send_init([there, MPI.DOUBLE], ring[0], 1),
        packed.Recv_init(whole, ring[1], 1),
    ]
    assert [isinstance(each, Persistent) for each in plan] == [True, True, False, False]
    for step in range(3):
        there[:] = 100.0 * step + comm.rank
        here[:], whole[:] = -1.0, -1.0
        MPI.Prequest.Startall(plan)
        complete(plan)
        assert (here[:, 0] == 100.0 * step + ring[1]).all() and (here[:, 1:] == -1.0).all()
        assert (whole == 100.0 * step + ring[1]).all()
    for each in plan:
        each.Free()
        assert each == MPI.REQUEST_NULL and not each


@pytest.mark.parametrize("mode", ["Send_init", "Bsend_init", "Ssend_init", "Rsend_init"])
def test_plain_mpi_at_the_other_end(comm, packed, installed, ring, column, mode):
    here = np.zeros((6, 10))
    there = np.full((6, 10), comm.rank + 0.5)
    sends = getattr(packed, mode)([there, 1, column], ring[0])
    MPI.Attach_buffer(np.empty(1000 + MPI.BSEND_OVERHEAD))
    for _ in range(2):
        there += 1.0
        receive = comm.Irecv([here, 1, column], ring[1])
        comm.Barrier()  # a ready send needs its receiver
        sends.Start()
        MPI.Request.Waitall([sends, receive])
        assert (here[:, 0] == ring[1] + there[0, 0] - comm.rank).all()
    MPI.Detach_buffer()
    sends.Free()


def test_looking_at_all_of_them(packed, installed, ring, column):
    there, here = np.ones((6, 10)), np.zeros((6, 10))
    plan = [
        packed.Recv_init([here, 1, column], ring[1]),
        packed.Send_init([there, 1, column], ring[0]),
    ]
    MPI.Prequest.Startall(plan)
    try:
        while not MPI.Request.Get_status_all(plan):
            pass
    except NotImplementedError:
        pass  # by an MPI before 4.1
    MPI.Request.Waitall(plan)
    assert here[:, 0].all() and not here[:, 1:].any()
    for each in plan:
        each.Free()


def test_nothing_is_written_twice(packed, installed, ring, column):
    """A list may hold requests that were not started again."""
    there, here = np.ones((6, 10)), np.zeros((6, 10))
    plan = [
        packed.Recv_init([here, 1, column], ring[1]),
        packed.Send_init([there, 1, column], ring[0]),
    ]
    MPI.Prequest.Startall(plan)
    MPI.Request.Waitall(plan)
    here[:] = 5.0
    MPI.Request.Waitall(plan)
    assert MPI.Request.Testall(plan) and plan[0].Wait()
    assert (here == 5.0).all()
    for each in plan:
        each.Free()


def test_shorter_messages_than_there_is_room_for(comm, packed, installed, ring, column):
    here, status = np.full((6, 10), -1.0), MPI.Status()
    receive = packed.Recv_init([here, 1, column], MPI.ANY_SOURCE)
    receive.Start()
    comm.Send([np.arange(4.0), MPI.DOUBLE], ring[0])
    receive.Wait(status)
    assert (status.source, status.Get_elements(column)) == (ring[1], 4)
    assert here[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, -1.0, -1.0]
    receive.Free()


def test_a_cancelled_receive_writes_nothing(packed, installed, column):
    here, status = np.full((6, 10), -1.0), MPI.Status()
    receive = packed.Recv_init([here, 1, column], packed.rank, 77)
    receive.Start()
    receive.Cancel()
    receive.Wait(status)
    assert status.Is_cancelled() and (here == -1.0).all()
    receive.Free()


def test_each_request_has_memory_of_its_own(packed, installed, ring, column):
    arrays = [np.full((6, 10), float(k)) for k in range(4)]
    here = np.zeros((4, 6, 10))
    plan = [packed.Send_init([a, 1, column], ring[0], k) for k, a in enumerate(arrays)]
    plan += [packed.Recv_init([a, 1, column], ring[1], k) for k, a in enumerate(here)]
    MPI.Prequest.Startall(plan)
    packed.Sendrecv([arrays[0], 1, column], packed.rank, 9, [arrays[1], 1, column], packed.rank, 9)
    MPI.Request.Waitall(plan)
    assert (here[:, :, 0] == np.arange(4.0)[:, None]).all()
    for each in plan:
        each.Free()


def test_what_is_a_request(comm, packed, installed, column):
    u = np.zeros((6, 10))
    ours, theirs = packed.Send_init([u, 1, column], MPI.PROC_NULL), comm.Send_init(u, MPI.PROC_NULL)
    later = comm.Isend(u, MPI.PROC_NULL)
    for each in (ours, theirs):
        assert isinstance(each, MPI.Request) and isinstance(each, MPI.Prequest)
    assert isinstance(later, MPI.Request) and not isinstance(later, MPI.Prequest)
    assert not isinstance(u, MPI.Request)
    mine = type("Mine", (MPI.Request,), {})  # somebody's own class
    assert isinstance(mine(later), mine) and not any(isinstance(e, mine) for e in (ours, later))
    later.Wait()
    ours.Free()
    theirs.Free()


def test_where_lists_are_mpis_requests_are_too(packed, column):
    """For they would neither be gathered nor scattered."""
    request = packed.Send_init([np.zeros((6, 10)), 1, column], MPI.PROC_NULL)
    assert type(request) is MPI.Prequest
    request.Free()


def test_arrays_on_devices(comm, packed, ring, column):
    device = hpckit.device(comm, "stand-in")
    u, v = zeros(device, (6, 10)), zeros(device, (6, 10))
    plan = [packed.Recv_init([v, 1, column], ring[1]), packed.Send_init([u, 1, column], ring[0])]
    for step in range(2):
        u.set(100.0 * step + comm.rank)
        for each in plan:
            each.Start()
        wait_one_by_one(plan)
        here = v.get()
        assert (here[:, 0] == 100.0 * step + ring[1]).all() and not here[:, 1:].any()
    for call in (MPI.Prequest.Startall, MPI.Request.Waitall, MPI.Request.Testall):
        with pytest.raises(TypeError, match="Persistent"):  # they are never half done
            call(plan)
    requests.Prequest.Startall(plan)
    requests.Request.Waitall(plan)
    for each in plan:
        each.Free()
