"""Messages from and to arrays on devices, to and from plain MPI at the other end."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from mpi4py import MPI

import hpckit
from hpckit.accelerate import devices
from hpckit.comm.device_array import empty, zeros
from hpckit.comm.stand_in import census
from hpckit.errors import ConfigError


@pytest.fixture
def ours(comm):
    return hpckit.accelerate(comm, "datatype")  # which says nothing of arrays on devices


@pytest.fixture
def on_device(comm):
    """Copies of arrays, on this rank's stand-in for a GPU."""
    device = hpckit.device(comm, "stand-in")

    def copy(values):
        array = empty(device, values.shape, values.dtype)
        array.set(values)
        return array

    return copy


@pytest.fixture
def ring(comm):
    """(who gets what this rank sends, who sends to it)"""
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


def field(rank):
    return 1000.0 * rank + np.arange(60.0).reshape(6, 10)


def forms(make):
    """A buffer in all of mpi4py's forms, of an array alone and with datatypes."""
    column = make(MPI.DOUBLE.Create_vector(6, 1, 10))
    cell = make(MPI.DOUBLE.Create_vector(3, 1, 4).Create_resized(0, 8))
    whole = make(MPI.DOUBLE.Create_subarray([6, 10], [2, 3], [1, 4]))
    return [
        lambda a: a,
        lambda a: [a, 7],
        lambda a: [a, (7, 2)],
        lambda a: [a, MPI.DOUBLE],
        lambda a: [a, "d"],
        lambda a: (a, 60, MPI.DOUBLE),
        lambda a: [a, 30, 3, MPI.DOUBLE],
        lambda a: [a, [30, 3], "d"],
        lambda a: [a, 1, column],
        lambda a: [a, 3, cell],
        lambda a: [a, (3, 5), cell],
        lambda a: [a, whole],
        lambda a: [a, 0, column],
    ]


def test_every_form_of_a_buffer(comm, ours, on_device, ring, make):
    for form in forms(make):
        expected = np.full((6, 10), -1.0)
        comm.Sendrecv(form(field(comm.rank)), ring[0], 0, form(expected), ring[1], 0)
        there, here = on_device(field(comm.rank)), on_device(np.full((6, 10), -1.0))
        ours.Sendrecv(form(there), ring[0], 0, form(here), ring[1], 0)
        np.testing.assert_array_equal(here.get(), expected)

        here = np.full((6, 10), -1.0)  # plain MPI at either end
        request = comm.Irecv(form(here), ring[1])
        ours.Send(form(there), ring[0])
        request.Wait()
        np.testing.assert_array_equal(here, expected)
        here = on_device(np.full((6, 10), -1.0))
        request = comm.Isend(form(field(comm.rank)), ring[0])
        ours.Recv(form(here), ring[1])
        request.Wait()
        np.testing.assert_array_equal(here.get(), expected)


@pytest.mark.parametrize("mode", ["Ssend", "Rsend", "Bsend"])
def test_every_mode_of_sending(comm, ours, on_device, ring, mode):
    here = np.zeros((6, 10))
    request = comm.Irecv(here, ring[1])
    comm.Barrier()  # a ready send needs its receiver
    MPI.Attach_buffer(np.empty(1000 + MPI.BSEND_OVERHEAD))
    getattr(ours, mode)(on_device(field(comm.rank)), ring[0])
    request.Wait()
    MPI.Detach_buffer()
    np.testing.assert_array_equal(here, field(ring[1]))


def test_arrays_in_the_order_of_fortran(comm, ours, ring):
    """They go in the order of memory, as mpi4py sends those of the host."""
    here = np.zeros((6, 10), order="F")
    fortran = zeros(hpckit.device(comm, "stand-in"), (6, 10), order="F")
    fortran.set(field(comm.rank))
    request = comm.Irecv(here, ring[1])
    ours.Send(fortran, ring[0])
    request.Wait()
    np.testing.assert_array_equal(here, field(ring[1]))
    request = comm.Isend(np.asfortranarray(field(comm.rank) + 1.0), ring[0])
    ours.Recv(fortran, ring[1])
    request.Wait()
    np.testing.assert_array_equal(fortran.get(), field(ring[1]) + 1.0)


def test_strided_arrays_alone(ours, on_device, ring):
    there, here = on_device(field(ours.rank)), on_device(np.zeros((6, 10)))
    ours.Sendrecv(there[::-2, 1:4], ring[0], 0, here[1::2, ::-3][:, :3], ring[1], 0)
    expected = np.zeros((6, 10))
    expected[1::2, ::-3][:, :3] = field(ring[1])[::-2, 1:4]
    np.testing.assert_array_equal(here.get(), expected)


@pytest.mark.parametrize("sent", [0, 1, 4, 6])
def test_shorter_messages_than_there_is_room_for(comm, ours, on_device, ring, make, sent):
    column = make(MPI.DOUBLE.Create_vector(6, 1, 10))
    here, status = on_device(field(comm.rank)), MPI.Status()
    request = comm.Isend([np.arange(-7.0, 0.0), sent, MPI.DOUBLE], ring[0])
    ours.Recv([here, 1, column], ring[1], status=status)
    request.Wait()
    expected = field(comm.rank)
    expected[:sent, 0] = np.arange(-7.0, 0.0)[:sent]
    np.testing.assert_array_equal(here.get(), expected)
    assert status.Get_elements(column) == sent


def test_what_is_sent_is_what_the_stream_leaves(comm, ours, on_device, ring):
    """Work that is enqueued before a message comes before it, and the host may go on after it."""
    there, here = on_device(field(comm.rank)), on_device(np.zeros((6, 10)))
    device = there.device
    device.copy(there.memory.address, there.memory.address + 80, 80, device.default_stream)
    ours.Sendrecv(there, ring[0], 0, here, ring[1], 0)
    expected = field(ring[1])
    expected[0] = expected[1]
    device.copy(there.memory.address, here.memory.address, 480, device.stream())
    np.testing.assert_array_equal(here.get(), expected)


def test_messages_to_oneself_from_many_places(comm, ours, on_device):
    u = on_device(np.arange(400.0).reshape(20, 20))
    for row in range(19):
        ours.Sendrecv(u[row, ::3], comm.rank, 0, u[row + 1, ::3], comm.rank, 0)
    assert (u.get()[:, ::3] == np.arange(0.0, 20.0, 3)).all()


def test_a_message_that_was_taken_out_of_the_queue(comm, ours, on_device, ring):
    here = on_device(np.zeros((6, 10)))
    request = comm.Isend(field(comm.rank), ring[0])
    message = ours.Mprobe(ring[1])
    with pytest.raises(ConfigError, match="Irecv cannot take an array on a device"):
        message.Irecv(here)
    message.Recv(here)
    request.Wait()
    np.testing.assert_array_equal(here.get(), field(ring[1]))


def test_in_the_place_of_what_was_sent(comm, ours, on_device, ring):
    u = on_device(field(comm.rank))
    ours.Sendrecv_replace(u[:, ::3], ring[0], 0, ring[1], 0)
    expected = field(comm.rank)
    expected[:, ::3] = field(ring[1])[:, ::3]
    np.testing.assert_array_equal(u.get(), expected)


def test_nobody(ours, on_device):
    u = on_device(field(0))
    ours.Send(u, MPI.PROC_NULL)
    ours.Recv(u, MPI.PROC_NULL)
    np.testing.assert_array_equal(u.get(), field(0))


def test_sums(comm, ours, on_device):
    u, total = on_device(field(comm.rank)), on_device(np.zeros((6, 10)))
    ours.Allreduce(u, total)
    ours.Allreduce(MPI.IN_PLACE, u, op=MPI.MAX)
    ours.Allreduce(u[:0], total[:0])
    expected = sum(field(rank) for rank in range(comm.size))
    np.testing.assert_array_equal(total.get(), expected)
    np.testing.assert_array_equal(u.get(), field(comm.size - 1))


def test_bad_sums(ours, on_device):
    u, v = on_device(np.zeros(3)), on_device(np.zeros(4))
    with pytest.raises(ConfigError, match=r"float64 \(3,\) cannot be put in float64 \(4,\)"):
        ours.Allreduce(u, v)
    with pytest.raises(ConfigError, match="got ndarray and DeviceArray"):
        ours.Allreduce(np.zeros(3), u)
    with pytest.raises(ConfigError, match="got DeviceArray and list"):
        ours.Allreduce(u, [u, 3])
    with pytest.raises(ConfigError, match="contiguous"):
        ours.Allreduce(u[:2], v[::2])


def test_mpi_gets_no_address_of_a_device(ours, on_device):
    u, host = on_device(np.zeros(4)), np.zeros(4)
    cart = ours.Create_cart([ours.size])
    for call in (
        lambda: ours.Isend(u, 0),
        lambda: ours.Irecv([u, 4, MPI.DOUBLE], source=0),
        lambda: ours.Psend_init(u, 1, 0),
        lambda: ours.Isendrecv_replace(u, 0),
        lambda: ours.Bcast(u),
        lambda: ours.Gather(host, recvbuf=u),
        lambda: ours.Iallreduce(u, host),
        lambda: ours.Reduce_scatter_block(u, host),
        lambda: ours.Exscan(u, host),
        lambda: ours.Alltoallw([u, [1], [0], [MPI.DOUBLE]], host),
        lambda: cart.Neighbor_allgather(u, host),
        lambda: cart.Ineighbor_alltoall(u, host),
        lambda: cart.Bcast_init(u),
    ):
        with pytest.raises(ConfigError, match="cannot take an array on a device: use Send"):
            call()
    cart.Free()


def test_bad_buffers(ours, on_device, make):
    u = on_device(field(0))
    odd = make(MPI.DOUBLE.Create_indexed([1, 2, 1], [0, 3, 9]))
    pair = make(MPI.DOUBLE.Create_contiguous(7))
    with pytest.raises(ConfigError, match="no kernel can move this datatype on a device"):
        ours.Send([u, 1, odd], MPI.PROC_NULL)
    with pytest.raises(ConfigError, match="480 bytes on a device are no whole number of objects"):
        ours.Send([u, pair], MPI.PROC_NULL)
    with pytest.raises(ConfigError, match="reaches bytes 0 to 488 of an array of 480 bytes"):
        ours.Send([u, 61, MPI.DOUBLE], MPI.PROC_NULL)
    with pytest.raises(ConfigError, match="reaches bytes 448 to 504 of an array of 480 bytes"):
        ours.Recv([u, 1, 8, pair], MPI.PROC_NULL)
    with pytest.raises(ConfigError, match=r"a buffer of 1 items: pass an array, \[array, count\]"):
        ours.Send([u], MPI.PROC_NULL)
    with pytest.raises(ConfigError, match="need a contiguous one: pass it alone"):
        ours.Send([u[:, ::2], 1, MPI.DOUBLE], MPI.PROC_NULL)


def test_nothing_is_left(ours, on_device):
    gc.collect()
    kept = census["allocations"], census["pinned"]
    u = on_device(np.zeros(100))
    for size in range(4, 60, 2):
        ours.Sendrecv(u[:size:2], ours.rank, 0, u[1:size:2], ours.rank, 0)
    assert census["pinned"] > kept[1]
    del u
    devices._slabs.cache_clear()
    gc.collect()
    assert census["allocations"] <= kept[0]
    assert census["pinned"] <= kept[1] + 1  # which arrays are copied through, of the device
