"""Which communicators are accelerated, and what decides about their messages."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

import hpckit
from hpckit.accelerate import communicators
from hpckit.accelerate.layouts import parcel
from hpckit.accelerate.parcels import Plain, Slab
from hpckit.comm.strided import StridedBlock
from hpckit.errors import ConfigError


def descendants(comm):
    """By name, each communicator that can be made of one."""
    size, group = comm.size, comm.Get_group()
    cart = comm.Create_cart([size])
    yield "Create_cart", cart
    yield "Sub", cart.Sub([True])
    yield "Dup of Create_cart", cart.Dup()
    yield "Split of Create_cart", cart.Split(0, comm.rank)
    yield "Create_graph", comm.Create_graph([*range(1, size + 1)], [0] * size)
    yield "Create_dist_graph", comm.Create_dist_graph([comm.rank], [1], [comm.rank])
    yield "Create_dist_graph_adjacent", comm.Create_dist_graph_adjacent([], [])
    yield "Split", comm.Split(comm.rank % 2, comm.rank)
    yield "Split_type", comm.Split_type(MPI.COMM_TYPE_SHARED)
    yield "Dup", comm.Dup()
    yield "Clone", comm.Clone()
    yield "Create", comm.Create(group)
    yield "Create_group", comm.Create_group(group)
    copy, request = comm.Idup()
    request.Wait()
    yield "Idup", copy
    yield "Dup of Idup", copy.Dup()


def test_what_comes_of_an_accelerated_communicator_is_one(comm):
    packed = hpckit.accelerate(comm, "packed")
    pairs = list(zip(descendants(packed), descendants(comm), strict=True))
    for (name, ours), (_, mpis) in pairs:
        assert isinstance(ours, communicators.Intracomm), name
        assert isinstance(ours, type(mpis)), name
        assert ours.pays is packed.pays, name
        assert ours.size == mpis.size and ours.topology == mpis.topology, name
    for (_, ours), (_, mpis) in pairs:
        ours.Free()
        mpis.Free()


def test_it_is_the_same_communicator(comm):
    ours = hpckit.accelerate(comm, "datatype")
    assert ours == comm and isinstance(ours, MPI.Intracomm)
    assert ours.allreduce(1) == comm.size
    assert hpckit.accelerate(ours, "packed") == comm


def test_those_who_are_in_no_part_of_a_split(comm):
    packed = hpckit.accelerate(comm, "packed")
    nothing = packed.Split(MPI.UNDEFINED)
    assert nothing == MPI.COMM_NULL and not nothing


def test_the_model_decides(comm):
    ours = hpckit.accelerate(comm)
    by_model = ours.pays
    assert by_model._calls >= 0.0
    by_model._model, by_model._calls = FakeModel(), 0.25
    rows = StridedBlock(0, (10,), (64,), 8, 640)
    for seconds, pays in ((2.7, False), (2.9, True)):
        by_model._model.seconds = seconds
        assert by_model(rows) == pays


class FakeModel:
    """Packing, sending and unpacking take two seconds, MPI's way its own."""

    seconds = 0.0

    def pack(self, nbytes, row):
        return 0.5

    unpack = pack

    def message(self, nbytes, near):
        return 1.0

    def datatype(self, nbytes, row, near):
        return self.seconds


def test_on_one_rank_there_is_no_model_of_messages_and_mpi_walks(make):
    ours = hpckit.accelerate(MPI.COMM_SELF)
    datatype = make(MPI.DOUBLE.Create_vector(6, 1, 10))
    assert isinstance(parcel([np.zeros(60), 1, datatype], ours.pays), Plain)


def test_the_model_is_asked_once(make):
    asked = []
    datatype = make(MPI.DOUBLE.Create_vector(6, 1, 10))
    for _ in range(3):
        with parcel([np.zeros(60), 1, datatype], lambda block: not asked.append(block)) as sent:
            assert isinstance(sent, Slab)
    assert len(asked) == 3  # by as many functions
    pays = lambda block: not asked.append(block)  # noqa: E731
    for _ in range(3):
        with parcel([np.zeros(60), 1, datatype], pays):
            pass
    assert len(asked) == 4 and asked[-1].nbytes == 48


def test_bad_arguments(comm):
    with pytest.raises(ConfigError, match="method 'fast' is none of auto, packed, datatype"):
        hpckit.accelerate(comm, "fast")
    with pytest.raises(ConfigError, match="must be an mpi4py communicator"):
        hpckit.accelerate(None)
    with pytest.raises(ConfigError, match="comm is a Mine, whose own calls would be lost"):
        hpckit.accelerate(type("Mine", (MPI.Intracomm,), {})(comm))
    if comm.size > 1:
        with pytest.raises(ConfigError, match="method must be the same on all ranks"):
            hpckit.accelerate(comm, "packed" if comm.rank else "datatype")
