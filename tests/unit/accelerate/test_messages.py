"""Accelerated calls against plain MPI, at the other end and as the one to agree with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from datatypes import Made, Objects, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import hpckit
from hpckit import native
from hpckit.accelerate.layouts import parcel
from hpckit.accelerate.parcels import Plain, Slab
from hpckit.comm.strided import NotStrided, from_datatype


@pytest.fixture
def packed(comm):
    return hpckit.accelerate(comm, "packed")


@pytest.fixture
def ring(comm):
    """(who gets what this rank sends, who sends to it)"""
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


def noise(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, n, np.uint8)


def field(rank: int) -> np.ndarray:
    return 1000.0 * rank + np.arange(60.0).reshape(6, 10)


def column(make) -> MPI.Datatype:
    """One of a `field`."""
    return make(MPI.DOUBLE.Create_vector(6, 1, 10))


@settings(max_examples=150)
@given(recipe=recipes(), count=st.integers(1, 3))
def test_any_datatype_to_and_from_plain_mpi(comm, packed, ring, recipe, count):
    with Made(recipe) as datatype, Objects(datatype, count) as objects:
        size = objects.memory.size

        def swap(send, receive) -> bytes:
            """What comes from the left into a buffer of ones."""
            sent, came = noise(comm.rank, size), np.ones(size, np.uint8)
            there, here = (
                [
                    MPI.buffer.fromaddress(native.address(a) - objects.low, max(size, 1)),
                    count,
                    datatype,
                ]
                for a in (sent, came)
            )
            if receive is None:
                send(there, ring[0], 0, here, ring[1], 0)
            elif receive == comm.Irecv:
                request = comm.Irecv(here, ring[1])
                send(there, ring[0])
                request.Wait()
            else:
                request = send(there, ring[0])
                receive(here, ring[1])
                request.Wait()
            return came.tobytes()

        if objects.nbytes and len(np.unique(visited := objects.bytes_visited())) == visited.size:
            expected = swap(comm.Sendrecv, None)
            assert swap(packed.Sendrecv, None) == expected
            assert swap(packed.Send, comm.Irecv) == expected
            assert swap(comm.Isend, packed.Recv) == expected


@settings(max_examples=150)
@given(recipe=recipes(), count=st.integers(1, 3))
def test_what_has_a_strided_form_is_packed(recipe, count):
    with Made(recipe) as datatype, parcel([np.zeros(1), count, datatype], lambda _: True) as sent:
        try:
            strided = bool(from_datatype(datatype).repeat(count).counts)
        except NotStrided:
            strided = False
        assert isinstance(sent, Slab if strided else Plain)


@pytest.mark.parametrize("mode", ["Send", "Ssend", "Rsend", "Bsend"])
def test_every_mode_of_sending(comm, packed, ring, make, mode):
    there, here = field(comm.rank), np.zeros((6, 10))
    request = comm.Irecv([here, 1, column(make)], ring[1])
    comm.Barrier()  # a ready send needs its receiver
    MPI.Attach_buffer(np.empty(1000 + MPI.BSEND_OVERHEAD))
    getattr(packed, mode)([there, 1, column(make)], ring[0])
    request.Wait()
    MPI.Detach_buffer()
    assert (here[:, 0] == field(ring[1])[:, 0]).all() and not here[:, 1:].any()


def test_one_type_at_both_ends_of_a_call(comm, packed, ring, make):
    u, datatype = field(comm.rank), column(make)
    packed.Sendrecv([u, 1, datatype], ring[0], 0, [u[0, 9:], 1, datatype], ring[1], 0)
    expected = field(comm.rank)
    expected[:, 9] = field(ring[1])[:, 0]
    np.testing.assert_array_equal(u, expected)


def test_one_type_from_many_places(comm, packed, ring, make):
    """The moves are made once, and walk another buffer each time; back to the first one, too."""
    datatype = column(make)
    for start in (0, 3, 9, 0):
        u, here = field(comm.rank), np.zeros((6, 10))
        packed.Sendrecv([u[0, start:], 1, datatype], ring[0], 0, [here, 1, datatype], ring[1], 0)
        np.testing.assert_array_equal(here[:, 0], field(ring[1])[:, start])


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview, np.asarray], ids=str)
def test_any_buffer_can_be_sent_from(comm, packed, ring, make, buffer):
    pairs = make(MPI.BYTE.Create_vector(5, 2, 4))
    text, here = buffer(b"0123456789abcdefgh"), bytearray(18)
    packed.Sendrecv([text, 1, pairs], ring[0], 0, [here, 1, pairs], ring[1], 0)
    assert here == b"01\0\00045\0\00089\0\000cd\0\000gh"


def test_counts_are_inferred_as_by_mpi(comm, packed, ring, make):
    whole = make(MPI.DOUBLE.Create_vector(6, 1, 10).Create_resized(0, 8 * 60))
    there, here = np.stack([field(comm.rank)] * 3), np.zeros((3, 6, 10))
    status = MPI.Status()
    packed.Sendrecv([there, whole], ring[0], 0, [here, whole], ring[1], 0, status)
    assert status.Get_count(whole) == 3
    assert (here[:, :, 0] == field(ring[1])[:, 0]).all() and not here[:, :, 1:].any()


def test_what_is_not_ours_is_mpis(comm, packed, ring, make):
    """Plain arrays, no type or a named one, displacements, absolute addresses, irregular types."""
    datatype, odd = column(make), make(MPI.DOUBLE.Create_indexed([1, 2, 1], [0, 3, 9]))
    forms = [
        lambda a: a,
        lambda a: [a, 60],
        lambda a: [a, MPI.DOUBLE],
        lambda a: [a, "d"],
        lambda a: (a, 60, MPI.DOUBLE),
        lambda a: [a, (1, 0), datatype],
        lambda a: [a, 1, 0, datatype],
        lambda a: [a, 2, odd],
        lambda a: [a, 0, datatype],
    ]
    for form in forms:
        there, expected, here = field(comm.rank), np.zeros((6, 10)), np.zeros((6, 10))
        comm.Sendrecv(form(there), ring[0], 0, form(expected), ring[1], 0)
        packed.Sendrecv(form(there), ring[0], 0, form(here), ring[1], 0)
        np.testing.assert_array_equal(here, expected)
    there, here = field(comm.rank), np.zeros((6, 10))
    absolute = [make(datatype.Create_hindexed([1], [MPI.Get_address(a)])) for a in (there, here)]
    packed.Sendrecv(
        [MPI.BOTTOM, 1, absolute[0]], ring[0], 0, [MPI.BOTTOM, 1, absolute[1]], ring[1], 0
    )
    np.testing.assert_array_equal(here[:, 0], field(ring[1])[:, 0])


@pytest.mark.parametrize("sent", range(7))
def test_shorter_messages_than_there_is_room_for(comm, packed, ring, make, sent):
    """Doubles, for objects of three each: the last one may be in part, and the rest stays."""
    triple = make(MPI.DOUBLE.Create_vector(3, 1, 4).Create_resized(0, 96))
    outcomes = []
    for receive in (comm.Recv, packed.Recv):
        here, status = np.full(24, -1.0), MPI.Status()
        request = comm.Isend([np.arange(7.0), sent, MPI.DOUBLE], ring[0], 5)
        receive([here, 2, triple], ring[1], MPI.ANY_TAG, status)
        request.Wait()
        figures = status.Get_count(triple), status.Get_elements(triple), status.Get_count(MPI.BYTE)
        outcomes.append((here.tolist(), figures, status.source, status.tag))
    assert outcomes[0] == outcomes[1]


def test_messages_that_end_within_a_row(comm, packed, ring, make):
    rows = make(MPI.BYTE.Create_vector(3, 4, 6))
    here = np.full(16, 9, np.uint8)
    request = comm.Isend([np.arange(6, dtype=np.uint8), MPI.BYTE], ring[0])
    packed.Recv([here, 1, rows], ring[1])
    request.Wait()
    assert here.tolist() == [0, 1, 2, 3, 9, 9, 4, 5, *[9] * 8]


def test_messages_from_anybody(comm, packed, make):
    datatype, here = column(make), np.zeros((6, 10))
    if comm.rank:
        packed.Send([field(comm.rank), 1, datatype], 0, tag=comm.rank)
        return
    found = set()
    for _ in range(1, comm.size):
        status = MPI.Status()
        packed.Recv([here, 1, datatype], status=status)
        assert status.tag == status.source and (here[:, 0] == field(status.source)[:, 0]).all()
        found.add(status.source)
    assert found == {*range(1, comm.size)}


def test_nobody(packed, make):
    datatype, here = column(make), field(0)
    status = MPI.Status()
    packed.Send([here, 1, datatype], MPI.PROC_NULL)
    packed.Recv([here, 1, datatype], MPI.PROC_NULL, status=status)
    assert status.source == MPI.PROC_NULL and status.Get_count(datatype) == 0
    packed.Mprobe(MPI.PROC_NULL).Recv([here, 1, datatype], status)
    assert status.Get_count(datatype) == 0
    np.testing.assert_array_equal(here, field(0))


def test_a_message_that_was_probed(comm, packed, ring, make):
    datatype, here, status = column(make), np.zeros((6, 10)), MPI.Status()
    MPI.Attach_buffer(np.empty(1000 + MPI.BSEND_OVERHEAD))
    packed.Bsend([field(comm.rank), 1, datatype], ring[0])
    comm.Probe(ring[1], 0, status)
    assert (status.Get_count(datatype), status.Get_count(MPI.DOUBLE)) == (1, 6)
    packed.Recv([here, 1, datatype], ring[1], 0)
    MPI.Detach_buffer()
    np.testing.assert_array_equal(here[:, 0], field(ring[1])[:, 0])


@pytest.mark.parametrize("probe", ["Mprobe", "Improbe"])
def test_a_message_that_was_taken_out_of_the_queue(comm, packed, ring, make, probe):
    datatype, here, status = column(make), np.zeros((6, 10)), MPI.Status()
    request = comm.Isend([field(comm.rank), 1, datatype], ring[0])
    while (message := getattr(packed, probe)(ring[1], 0)) is None:
        pass
    message.Recv([here, 1, datatype], status)
    request.Wait()
    assert status.Get_count(datatype) == 1 and status.source == ring[1]
    assert (here[:, 0] == field(ring[1])[:, 0]).all() and not here[:, 1:].any()


def test_in_the_place_of_what_was_sent(comm, packed, ring, make):
    u, v = field(comm.rank), field(comm.rank)
    packed.Sendrecv_replace([u, 1, column(make)], ring[0], 0, ring[1], 0)
    packed.Sendrecv_replace(v, ring[0], 0, ring[1], 0)
    expected = field(comm.rank)
    expected[:, 0] = field(ring[1])[:, 0]
    np.testing.assert_array_equal(u, expected)
    np.testing.assert_array_equal(v, field(ring[1]))


def test_longer_messages_than_there_is_room_for(comm, packed, ring, make):
    request = comm.Isend(np.zeros(7), ring[0])
    with pytest.raises(MPI.Exception) as caught:
        packed.Recv([np.zeros((6, 10)), 1, column(make)], ring[1])
    assert caught.value.Get_error_class() == MPI.ERR_TRUNCATE
    request.Wait()
    u = field(comm.rank)  # and all is well after it
    packed.Sendrecv([u, 1, column(make)], ring[0], 0, [u, 1, column(make)], ring[1], 0)
    np.testing.assert_array_equal(u[:, 0], field(ring[1])[:, 0])


def test_what_cannot_be_written_to(packed, make):
    constant = field(0)
    constant.flags.writeable = False
    packed.Send([constant, 1, column(make)], MPI.PROC_NULL)
    with pytest.raises(BufferError, match="not writable"):
        packed.Recv([constant, 1, column(make)], packed.rank)


def test_a_new_type_may_have_the_handle_of_a_freed_one(comm, packed, ring):
    handles = set()
    for stride in range(2, 10):
        datatype = MPI.DOUBLE.Create_vector(6, 1, stride).Commit()
        handles.add(datatype.handle)
        here = np.zeros((6, stride))
        there = field(comm.rank)
        packed.Sendrecv([there, 1, datatype], ring[0], 0, [here, 1, datatype], ring[1], 0)
        np.testing.assert_array_equal(here[:, 0], field(ring[1]).ravel()[: 6 * stride : stride])
        datatype.Free()
    assert len(handles) < 8  # else this proves nothing


def test_several_threads_with_one_type(packed, make):
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("MPI takes calls of one thread alone")
    datatype = make(MPI.DOUBLE.Create_vector(1000, 1, 2))

    def swap(number: int) -> bool:
        there, here = np.full(2000, float(number)), np.zeros(2000)
        for _ in range(50):
            here[:] = -1.0
            packed.Sendrecv(
                [there, 1, datatype], packed.rank, number, [here, 1, datatype], packed.rank, number
            )
            if not (here[::2] == number).all() or not (here[1::2] == -1.0).all():
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(swap, range(4)))


def test_many_counts_of_one_type(comm, packed, ring, make):
    pair = make(MPI.DOUBLE.Create_vector(2, 1, 2).Create_resized(0, 32))
    for count in [*range(1, 20), 1]:
        there, here = comm.rank + np.arange(4.0 * count), np.zeros(4 * count)
        packed.Sendrecv([there, count, pair], ring[0], 0, [here, count, pair], ring[1], 0)
        np.testing.assert_array_equal(here[::2], ring[1] + np.arange(0.0, 4 * count, 2))
        assert not here[1::2].any()
