"""Method `peer` on the stand-in, whose streams run only as far as a test lets them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

import hpckit
from hpckit.comm.device_array import DeviceArray
from hpckit.comm.grid import Grid
from hpckit.comm.stand_in import Mark, StandIn, census
from hpckit.errors import HpckitError
from hpckit.halo import Halo, peer
from hpckit.halo.adrift import adrift, land
from hpckit.machine import lifetime, spin

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]
several = pytest.mark.mpi(min_size=2)


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


@pytest.fixture(params=[False, True], ids=["exchange", "start and wait"])
def split(request) -> bool:
    return request.param


@pytest.fixture
def grid(comm) -> Grid:
    """A ring of blocks."""
    return Grid(comm, (4 * comm.size, 5), periodic=True, process_shape=(comm.size, 1))


class Field:
    """A field whose owned cells hold numbers of this rank and a round, exchanged on a stream."""

    def __init__(
        self, grid: Grid, device: StandIn, split: bool = False, deadline: float | None = None
    ) -> None:
        self.grid = grid
        self.device = device
        self.split = split
        self.array: DeviceArray = grid.zeros(device=device)
        self.halo = Halo(grid, fields=[self.array], method="peer", deadline=deadline)
        self.stream = device.stream()
        self.other = device.stream()  # for what has nothing to do with the exchange

    def set(self, number: int) -> None:
        """At once."""
        self.array[self.grid.owned].set(self.grid.rank + 100 * number, self.other)

    def exchange(self, stream: int | None = None) -> None:
        """Enqueue it, in two halves if `split`."""
        if self.split:
            self.halo.start(self.array, stream=stream or self.stream)
            self.halo.wait()
        else:
            self.halo.exchange(self.array, stream=stream or self.stream)

    def run(self, stream: int | None = None) -> None:
        """All that is enqueued, as far as it waits for no other rank."""
        event = self.device.event()
        event.record(stream or self.stream)
        event.done()

    def post(self) -> None:
        """What is enqueued up to where others may read, and no farther."""
        plan = self.halo._exchanger
        while not plan._memory.reached(self.grid.rank, 0, plan._number):
            self.device.run(self.stream, 1)

    def is_filled(self, number: int) -> bool:
        values = self.array.get(self.other)
        below, above = (self.grid.neighbor((step, 0)) + 100 * number for step in (-1, 1))
        return bool((values[0, 1:-1] == below).all() and (values[-1, 1:-1] == above).all())


def in_turn(comm, *turns) -> None:
    """Some ranks do something, then others: pairs of ranks and what they do."""
    for ranks, do in turns:
        if comm.rank in ranks:
            do()
        comm.Barrier()


def roles(comm) -> list[tuple[list[int], list[int]]]:
    """(slow ranks, fast ranks), each rank being either."""
    ranks = range(comm.size)
    return [([slow], [rank for rank in ranks if rank != slow]) for slow in ranks]


# -- what removing a wait does: each scenario is right with it, and wrong without


def fast_reader(comm, grid, device, split) -> bool:
    """The fast ranks run all they can before the slow one has packed."""
    field, right = Field(grid, device, split), True
    for number, (slow, fast) in enumerate(roles(comm)):
        field.set(number)
        field.exchange()
        in_turn(comm, (fast, field.post), (fast, field.run), (slow, field.run), (fast, field.run))
        field.halo.synchronize()
        right &= field.is_filled(number)
    return all(comm.allgather(right))


def slow_reader(comm, grid, device, split) -> bool:
    """The fast ranks pack the next exchange before the slow one has read this one."""
    field, right = Field(grid, device, split), True
    for number, (slow, fast) in enumerate(roles(comm)):

        def pack_again(number=number) -> None:
            field.run()
            field.set(number + 1000)
            field.exchange()
            field.run()

        field.set(number)
        field.exchange()
        everyone = slow + fast
        in_turn(comm, (everyone, field.post), (fast, pack_again), (slow, field.run))
        if comm.rank in slow:
            right &= field.is_filled(number)
            field.set(number + 1000)
            field.exchange()
        field.halo.synchronize()
        right &= field.is_filled(number + 1000)
    return all(comm.allgather(right))


def two_streams(comm, grid, device, split) -> bool:
    """Two fields on two streams, of which one rank runs the second one first."""
    first, second = Field(grid, device, split), Field(grid, device, split)
    second.halo = first.halo
    right = True

    def run() -> None:
        first.run()
        second.run()

    for number, (reverse, others) in enumerate(roles(comm)):
        for field in (first, second):
            field.set(number)
            field.exchange()
        in_turn(comm, (reverse, second.run), *[(others, run)] * 3, (reverse, run))
        first.halo.synchronize()
        right &= first.is_filled(number) and second.is_filled(number)
    return all(comm.allgather(right))


SCENARIOS = fast_reader, slow_reader, two_streams


@several
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ranks_may_be_fast_or_slow(comm, grid, device, split, scenario):
    assert scenario(comm, grid, device, split)


@several
@pytest.mark.parametrize("which", [0, 1])
def test_without_the_wait_for_a_neighbour(comm, grid, device, split, monkeypatch, which):
    if which == 1 and comm.size == 2:
        pytest.skip("two ranks have one neighbour each")
    signals = StandIn.signals

    def without(self, wanted, stream):
        waits = [signal for signal in wanted if signal[0] == "wait"]
        left = [signal for signal in wanted if signal not in waits[which : which + 1]]
        enqueue = signals(self, left, stream)
        return lambda values: enqueue(values[: len(left)])

    monkeypatch.setattr(StandIn, "signals", without)
    assert not fast_reader(comm, grid, device, split)


@several
def test_without_a_second_buffer(comm, grid, device, split, monkeypatch):
    monkeypatch.setattr(peer, "_Place", lambda offset, half: (offset, 0))
    assert fast_reader(comm, grid, device, split)
    assert not slow_reader(comm, grid, device, split)


@several
def test_without_the_wait_for_another_stream(comm, grid, device, split, monkeypatch):
    monkeypatch.setattr(StandIn, "wait", lambda *_: None)
    assert not two_streams(comm, grid, device, split)


@several
def test_no_stream_waits_for_others_before_it_is_told_to(comm, grid, device):
    """Whatever comes later on the stream, another halo's data say, would have to wait as well."""
    field = Field(grid, device)
    field.set(1)
    field.halo.start(field.array, stream=field.stream)
    enqueued = len(device.queue(field.stream).operations)
    field.halo.progress()
    assert comm.allgather(len(device.queue(field.stream).operations)) == [enqueued] * comm.size
    field.run()
    comm.Barrier()
    field.halo.progress()
    field.halo.synchronize()
    assert field.is_filled(1)
    field.halo.wait()


# -- counters


@several
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_counters_begin_anew_after_their_largest_value(
    comm, grid, device, split, scenario, monkeypatch
):
    monkeypatch.setattr(peer, "_FIRST", 2**32 - 2)
    assert scenario(comm, grid, device, split)


# -- waiting on the host


@several
def test_who_is_late_is_named(comm, grid, device):
    field, last = Field(grid, device, deadline=0.2), comm.size - 1

    def begin() -> None:
        field.set(1)
        field.exchange()
        field.post()

    in_turn(comm, (range(last), begin))
    if comm.rank in (0, last - 1):
        with pytest.raises(HpckitError, match=rf"rank {last} is late: waited 0.2 s"):
            field.halo.synchronize()
    comm.Barrier()
    in_turn(comm, ([last], begin))
    field.halo.synchronize()
    assert field.is_filled(1)


def test_a_device_that_is_late_itself_is_named(comm, grid, device):
    field, before = Field(grid, device, deadline=0.2), device.pinned(4)
    before.host[:] = 0
    device.signals([("wait", before.address)], field.stream)([1])
    field.set(1)
    field.exchange()
    with pytest.raises(HpckitError, match=rf"rank {comm.rank} is late"):
        field.halo.synchronize()
    comm.Barrier()
    before.host[:] = 1
    field.run()
    comm.Barrier()
    field.halo.synchronize()
    assert field.is_filled(1)


@several
def test_a_neighbour_that_died_is_an_error(comm, grid, device, monkeypatch):
    field = Field(grid, device)
    monkeypatch.setattr(spin, "_INTERVAL", 0.0)
    monkeypatch.setattr(spin, "_alive", lambda _: comm.rank != 0)
    if comm.rank == 0:
        field.exchange()
        with pytest.raises(HpckitError, match=r"rank \d+ .* died during a halo exchange"):
            field.halo.synchronize()
    comm.Barrier()
    monkeypatch.undo()
    if comm.rank > 0:
        field.exchange()
    field.halo.synchronize()


def test_the_host_runs_ahead_of_its_device_so_far_and_no_farther(comm, grid, device, monkeypatch):
    monkeypatch.setattr(peer, "_AHEAD", 3)
    field, lengths = Field(grid, device), []
    for _ in range(20):
        field.exchange()
        lengths.append(len(device.queue(field.stream).operations))
    first, each = lengths[0], lengths[1] - lengths[0]
    assert max(lengths) == first + each * (2 if comm.size > 1 else 19)
    field.halo.synchronize()


# -- what it costs


def test_few_calls_of_the_driver_whatever_is_exchanged(comm, device):
    grid = Grid(comm, (12, 12, 12), periodic=True)
    fields = [grid.zeros(device=device) for _ in range(3)]
    halo = Halo(grid, fields=fields, corners=True, method="peer")
    halo.exchange(*fields)
    halo.synchronize()
    before = census.copy()
    halo.exchange(*fields)
    assert census["launches"] - before["launches"] == 1 + (comm.size > 1)
    assert census["calls"] - before["calls"] == 2 + 2 * (comm.size > 1)
    halo.synchronize()


class Faults:
    """Makes one of the calls to come fail."""

    def __init__(self, monkeypatch) -> None:
        self.after: int | None = None  # so many calls
        self.error: BaseException = HpckitError("the driver refuses")
        for verb in ("prepare", "signals"):
            make = getattr(StandIn, verb)
            monkeypatch.setattr(StandIn, verb, lambda *a, make=make: self._watched(make(*a)))
        monkeypatch.setattr(Mark, "record", self._watched(Mark.record))

    def _watched(self, call: Callable[..., object]) -> Callable[..., object]:
        def watched(*arguments: object) -> object:
            if self.after is not None:
                self.after -= 1
            if self.after == -1:
                self.after = None
                raise self.error
            return call(*arguments)

        return watched


@pytest.mark.parametrize("step", range(4))
def test_after_an_error_of_the_device_wait_goes_on(comm, grid, device, monkeypatch, step):
    """The step that failed is made again, and none twice; where nothing has begun, all of them."""
    if comm.size == 1 and step > 1:
        pytest.skip("one rank has two steps")
    faults = Faults(monkeypatch)
    field = Field(grid, device)
    for number in range(3):
        field.set(number)
        faults.after = step
        with pytest.raises(HpckitError, match="the driver refuses"):
            field.exchange()
        field.halo.wait() if step else field.exchange()
        field.halo.synchronize()
        assert field.is_filled(number)


@pytest.mark.parametrize("step", range(4))
def test_after_an_interrupt_wait_goes_on(comm, grid, device, monkeypatch, step):
    if comm.size == 1 and step > 1:
        pytest.skip("one rank has two steps")
    faults = Faults(monkeypatch)
    faults.error = KeyboardInterrupt()
    field = Field(grid, device)
    for number in range(3):
        field.set(number)
        faults.after = step
        with pytest.raises(KeyboardInterrupt):
            field.exchange()
        field.halo.wait()
        field.halo.synchronize()
        assert field.is_filled(number)


# -- memory


def everything_leaves(comm) -> None:
    """All ranks give back what nobody reads any more."""
    gc.collect()
    comm.Barrier()
    while adrift or lifetime._leaving:
        land()
        lifetime._free()
    comm.Barrier()


def living() -> dict[str, int]:
    kinds = "allocations", "pinned", "registered", "opened", "events"
    return {kind: census[kind] for kind in kinds}


def test_many_plans_leave_nothing(comm, grid, device):
    array = grid.zeros(device=device)
    Halo(grid, fields=[array], method="peer").exchange(array)
    device.synchronize(device.default_stream)
    everything_leaves(comm)
    before = living()
    for _ in range(1000 if comm.size == 1 else 100):
        halo = Halo(grid, fields=[array], method="peer")
        halo.exchange(array)
        halo.synchronize()
    del halo
    everything_leaves(comm)
    assert living() == before


@several
@pytest.mark.parametrize("begun", [False, True])
def test_memory_lives_until_the_neighbours_have_read_it(comm, grid, device, begun):
    """Rank 0 drops its halo, between start and wait or when its own work is done."""
    field = Field(grid, device)
    field.set(1)
    if begun:
        field.halo.start(field.array, stream=field.stream)
        field.run()
        field.halo.wait()
    else:
        field.exchange()
        in_turn(comm, (range(comm.size), field.post), ([0], field.run))
    if comm.rank == 0:
        del field.halo
        gc.collect()
        land()
    comm.Barrier()
    if comm.rank > 0:
        field.halo.synchronize()
        assert field.is_filled(1)
        del field.halo
    everything_leaves(comm)
    assert field.is_filled(1)
