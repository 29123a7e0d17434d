"""Who waits for whom on devices: each wait that is taken out makes results wrong.

On the stand-in, whose streams run only when they are asked to, ranks take turns in going as far as
they can: fast ones meet the memory of slow ones, and the reverse.
"""

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

import hpckit
from hpckit import native
from hpckit.collectives import Allreduce, staging
from hpckit.collectives.algorithms import peer, pipelined
from hpckit.collectives.side_stream import SideStream
from hpckit.comm import device_array
from hpckit.comm.stand_in import StandIn

pytestmark = pytest.mark.mpi
N = 500
CALLS = 3


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


def term(rank, call):
    return np.arange(N) + 1000.0 * rank + 1e6 * call


def orders(comm):
    """Some in which ranks may come: each is first, and last."""
    every = [*range(comm.size)]
    return [(every[k:] + every[:k])[::step] for k in every for step in (1, -1)]


class Calls:
    """Calls of a plan, each on numbers of its own, all enqueued on one stream before any runs."""

    def __init__(self, comm, device, algorithm):
        self.comm, self.device = comm, device
        self.x = device_array.empty(device, (N,))
        self.at, self.nbytes = native.address(self.x.shadow), 8 * N
        self.given, self.results = (
            [device.pinned(self.nbytes) for _ in range(CALLS)] for _ in "ab"
        )
        for call, memory in enumerate(self.given):
            memory.host.view(float)[:] = term(comm.rank, call)
        self.stream = device.stream()
        self.plan = Allreduce(comm, self.x, algorithm=algorithm, stream=self.stream)

    def bring(self, call):
        self.device.copy(self.at, self.given[call].address, self.nbytes, self.stream)

    def take(self, call):
        self.device.copy(self.results[call].address, self.at, self.nbytes, self.stream)

    def right(self):
        """Whether all ranks have the sums of each call (collective)."""
        self.device.synchronize(self.stream)
        mine = [
            (
                memory.host.view(float) == sum(term(rank, call) for rank in range(self.comm.size))
            ).all()
            for call, memory in enumerate(self.results)
        ]
        return all(self.comm.allgather(all(mine)))


def by_streams(comm, device):
    """Whether calls of `peer` are right, whichever ranks and streams run first what can be run."""
    right = True
    for order, side_first in product(orders(comm), (False, True)):
        calls = Calls(comm, device, "peer")
        for call in range(CALLS):
            calls.bring(call)
            calls.plan()
            calls.take(call)
        end = device.event()
        end.record(calls.stream)
        steps = [end.done, calls.plan._operations[0].poll]
        for _ in range(2 * CALLS + 1):
            for rank in order:
                for step in steps[:: -1 if side_first else 1] if rank == comm.rank else ():
                    step()
                comm.Barrier()
        right &= calls.right()
    return right


def test_peers_are_right(comm, device):
    assert by_streams(comm, device)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("which", [1, 0], ids=["arrays", "slices"])
def test_peers_wait_for_each_others_arrays_and_slices(comm, device, monkeypatch, which):
    meet = peer.PeerReduction._meet

    def waits_for_nothing(self, value):
        others = len(self._others)
        if value % 2 == which:
            self._signal([value] + [0] * others)  # long since reached
        else:
            meet(self, value)

    monkeypatch.setattr(peer.PeerReduction, "_meet", waits_for_nothing)
    assert not by_streams(comm, device)


@pytest.mark.mpi(min_size=2)
def test_peers_need_two_buffers(comm, device, monkeypatch):
    made = peer.PeerReduction.__init__

    def with_one(self, operands):
        made(self, operands)
        self._steps[1] = self._steps[0]

    monkeypatch.setattr(peer.PeerReduction, "__init__", with_one)
    assert not by_streams(comm, device)


@pytest.mark.mpi(min_size=2)
def test_peers_begin_after_what_was_enqueued(comm, device, monkeypatch):
    monkeypatch.setattr(SideStream, "follow", lambda self: None)
    assert not by_streams(comm, device)


@pytest.mark.mpi(min_size=2)
def test_what_is_enqueued_after_peers_comes_after_them(comm, device, monkeypatch):
    monkeypatch.setattr(peer.PeerReduction, "wait", lambda self: None)
    assert not by_streams(comm, device)


def by_messages(comm, device):
    """Whether calls of `pipelined` are right where ranks go as far as they can in all orders."""
    right = True
    for order in orders(comm):
        calls = Calls(comm, device, "pipelined")
        for call in range(CALLS):
            calls.bring(call)
            turns = [calls.plan.start] + [calls.plan.poll] * 30
            for turn in turns:
                for rank in order:
                    if rank == comm.rank:
                        turn()
                    comm.Barrier()
            calls.plan.wait()
            calls.take(call)
        right &= calls.right()
    return right


@pytest.fixture
def short(monkeypatch):
    """Several rounds of pieces."""
    monkeypatch.setattr(pipelined, "_PIECE", 256)


def test_pieces_are_right(comm, device, short):
    assert by_messages(comm, device)


class Never:
    """An event for which nobody waits."""

    def record(self, stream):
        pass

    def done(self):
        return True


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("event", ["brought", "folded", "taken"])
def test_pieces_wait_for_copies(comm, device, short, monkeypatch, event):
    made = pipelined._Slot.__init__

    def without(self, *arguments):
        made(self, *arguments)
        setattr(self, event, Never())

    monkeypatch.setattr(pipelined._Slot, "__init__", without)
    assert not by_messages(comm, device)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("which", [pipelined._THEIRS, pipelined._RESULTS])
def test_pieces_wait_for_messages(comm, device, short, monkeypatch, which):
    receive, received = pipelined.PipelinedReduction._receive, []

    def without(self, slot, what, *arguments):
        request = receive(self, slot, what, *arguments)
        if what != which:
            return request
        received.append((request, self))
        return MPI.REQUEST_NULL

    monkeypatch.setattr(pipelined.PipelinedReduction, "_receive", without)
    assert not by_messages(comm, device)
    MPI.Request.Waitall([request for request, _ in received])


@pytest.mark.mpi(min_size=2)
def test_pieces_begin_after_what_was_enqueued(comm, device, short, monkeypatch):
    monkeypatch.setattr(SideStream, "follow", lambda self: None)
    assert not by_messages(comm, device)


def by_the_host(comm, device):
    """Whether calls of an algorithm of the host are."""
    calls = Calls(comm, device, "twoshot")
    for call in range(CALLS):
        calls.bring(call)
        calls.plan()
        calls.take(call)
    return calls.right()


@pytest.mark.mpi(min_size=2)
def test_the_host_waits_for_what_it_reads(comm, device, monkeypatch):
    assert by_the_host(comm, device)
    to_host = staging.DeviceArrays._to_host

    def without(self, part):
        with monkeypatch.context() as patch:
            patch.setattr(self._device, "synchronize", lambda stream: None)
            to_host(self, part)

    monkeypatch.setattr(staging.DeviceArrays, "_to_host", without)
    assert not by_the_host(comm, device)
