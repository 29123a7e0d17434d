"""Memory of devices that the ranks of a node read from each other, on the stand-in."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import hpckit
from hpckit.comm.peer_memory import PeerMemory
from hpckit.comm.stand_in import StandIn, census
from hpckit.errors import HpckitError
from hpckit.machine.node_memory import NodeMemory

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]
N = 64  # bytes


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


def made(comm, device: StandIn, nbytes: int = N, first: int = 0) -> PeerMemory:
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    return PeerMemory(comm, NodeMemory.of(comm), device, nbytes, others, first)


def put(device: StandIn, address: int, value: int) -> None:
    pinned = device.pinned(N)
    pinned.host[:] = value
    device.copy(address, pinned.address, N, device.default_stream)
    device.synchronize(device.default_stream)


def read(device: StandIn, address: int) -> np.ndarray:
    pinned = device.pinned(N)
    device.copy(pinned.address, address, N, device.default_stream)
    device.synchronize(device.default_stream)
    return pinned.host.copy()


def all_given_back(comm, memory: PeerMemory) -> None:
    while not memory.given_back():
        pass
    comm.Barrier()


def test_ranks_read_what_the_others_wrote_before_their_counter(comm, device):
    memory, stream = made(comm, device), device.stream()
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    put(device, memory.address, comm.rank + 1)
    device.signals([("write", memory.counter(comm.rank, 3))], stream)([7])
    device.signals([("wait", memory.counter(rank, 3)) for rank in others], stream)(
        [7] * len(others)
    )
    device.synchronize(stream)
    assert [memory.value(rank, 3) for rank in others] == [7] * len(others)
    for rank in others:
        assert (read(device, memory.theirs(rank)) == rank + 1).all()
    all_given_back(comm, memory)


def test_counters_go_round(comm, device):
    memory = made(comm, device, first=2**32 - 1)
    assert memory.value(comm.rank, 0) == 2**32 - 1
    reached = [memory.reached(comm.rank, 0, value) for value in (-2, -1, 0, 1)]
    assert reached == [True, True, False, False]
    stream = device.stream()
    device.signals([("write", memory.counter(comm.rank, 0))], stream)([0])
    device.synchronize(stream)
    assert [memory.reached(comm.rank, 0, 2**32 + value) for value in (-1, 0, 1)] == [
        True,
        True,
        False,
    ]
    all_given_back(comm, memory)


def test_ranks_without_memory_take_part(comm, device):
    memory = made(comm, device, nbytes=N * (comm.rank % 2))
    for rank in range(comm.size):
        if rank != comm.rank:
            assert bool(memory.theirs(rank)) == bool(rank % 2)
    assert bool(memory.address) == bool(comm.rank % 2)
    all_given_back(comm, memory)


@pytest.mark.mpi(min_size=2)
def test_memory_stays_until_all_others_have_closed_it(comm, device):
    memory = made(comm, device)
    put(device, memory.address, comm.rank + 1)
    comm.Barrier()
    before = census["allocations"]
    if comm.rank == 0:
        assert not memory.given_back()
        assert census["allocations"] == before
    comm.Barrier()
    if comm.rank > 0:
        assert (read(device, memory.theirs(0)) == 1).all()
    comm.Barrier()
    all_given_back(comm, memory)
    assert census["allocations"] == before - 1


def test_memory_stays_while_this_rank_uses_it(comm, device):
    memory, stream = made(comm, device), device.stream()
    device.signals([("wait", memory.counter(comm.rank, 0))], stream)([1])
    memory.event.record(stream)
    opened = census["opened"]
    assert not memory.given_back()
    assert census["opened"] == opened
    device.signals([("write", memory.counter(comm.rank, 0))], device.default_stream)([1])
    device.synchronize(device.default_stream)
    device.synchronize(stream)
    all_given_back(comm, memory)
    assert census["opened"] == opened - comm.size + 1


@pytest.mark.parametrize("verb", ["allocate", "export", "register", "open"])
def test_what_one_rank_cannot_have_is_an_error_on_all(comm, device, monkeypatch, verb):
    if comm.size == 1 and verb == "open":
        pytest.skip("one rank opens nothing")

    def refuse(*_: object) -> None:
        raise HpckitError("no more of that")

    before = {what: census[what] for what in ("allocations", "registered", "opened")}
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(StandIn, verb, refuse)
    with pytest.raises(HpckitError, match="no more of that"):
        made(comm, device)
    gc.collect()  # the error holds what was made
    assert all(census[what] <= before[what] for what in before)
