"""Exchanges of fields on a device in the order of streams; what is in flight; what is left."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hpckit
from hpckit import native
from hpckit.comm.device_array import DeviceArray, empty
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.grid import Grid
from hpckit.comm.pack import Move
from hpckit.comm.stand_in import Mark, StandIn, census
from hpckit.comm.stand_in_memory import inside
from hpckit.errors import HpckitError
from hpckit.halo import Halo, adrift, device_messages, slab
from hpckit.machine import lifetime, spin

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]
several = pytest.mark.mpi(min_size=2)
CHUNKED = "staged in chunks"
METHODS = ["staged", CHUNKED, "oneshot"]


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


@pytest.fixture(params=METHODS)
def method(request, monkeypatch) -> str:
    if request.param == CHUNKED:
        monkeypatch.setattr(slab, "CHUNK", 16)
    return request.param.split()[0]


class Field:
    """A field on a ring of blocks, and a rank's work on it, which runs when its stream does."""

    def __init__(self, comm, device: StandIn, stream: int | None = None) -> None:
        self.grid = Grid(comm, (6 * comm.size, 5), periodic=True, process_shape=(comm.size, 1))
        self.device = device
        self.array: DeviceArray = self.grid.zeros(device=device)
        self.stream = stream
        self.queue = stream or device.default_stream
        self.kept: list[object] = []  # until the stream has used it

    def set(self, value: float) -> None:
        """The owned cells become this rank's number and a value."""
        owned = self.array[self.grid.owned]
        values = empty(self.device, owned.shape)
        values.set(self.grid.rank + value)
        self.copy(values, owned)

    def copied(self) -> DeviceArray:
        """A copy that will have what is there when the stream comes here."""
        copy = empty(self.device, self.array.shape)
        self.copy(self.array, copy)
        return copy

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        ends = native.address(source.shadow), source.strides
        ends += native.address(target.shadow), target.strides
        moves = DeviceMoves(self.device, [Move(source.shape, 8, *ends)], self.queue)
        moves.run()
        self.kept.append((moves, source, target))

    def is_filled(self, values: np.ndarray, value: float) -> bool:
        below, above = (self.grid.neighbor((step, 0)) + value for step in (-1, 1))
        return bool((values[0, 1:-1] == below).all() and (values[-1, 1:-1] == above).all())

    def now(self) -> np.ndarray:
        """What is there, without waiting for anything."""
        raw = ctypes.string_at(inside(self.array.memory.address), self.array.nbytes)
        return np.frombuffer(raw).reshape(self.array.shape)


def finish(device: StandIn, stream: int) -> None:
    """Run all of a stream, by none of the verbs that plans use."""
    queue = device.queue(stream)
    device.complete(queue, queue.end)


# -- the order of streams


@pytest.mark.parametrize("own_stream", [False, True])
def test_an_exchange_comes_after_earlier_work_and_before_later(comm, device, method, own_stream):
    stream = device.stream() if own_stream else None
    field = Field(comm, device, stream)
    halo = Halo(field.grid, fields=[field.array], method=method)
    copies = []
    for turn in range(4):
        field.set(10 * turn)
        if turn % 2:
            halo.exchange(field.array, stream=stream)
        else:
            halo.start(field.array, stream=stream)
            halo.wait()
        copies.append(field.copied())
    finish(device, field.queue)
    for turn, copy in enumerate(copies):
        assert field.is_filled(copy.get(), 10 * turn)


def test_what_comes_between_start_and_wait_is_not_waited_for(comm, device, method):
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    field.set(1)
    halo.start(field.array)
    middle = field.copied()
    before = census["launches"]
    halo.wait()
    assert census["launches"] == before + (comm.size > 1)  # to unpack
    halo.synchronize()
    assert field.is_filled(field.now(), 1)
    assert field.is_filled(middle.get(), 1) == (comm.size == 1)  # copies within a rank


def test_synchronize_before_the_first_exchange_is_nothing(comm, device):
    field = Field(comm, device)
    Halo(field.grid).synchronize()
    Halo(field.grid, fields=[field.array], method="staged").synchronize()


def turns(comm, device: StandIn, method: str, eager: bool) -> bool:
    """Exchanges on two streams by turns: whether all ghosts are right in the end.

    Streams run as late as they can, those of copies if `eager` as early.
    """
    streams = device.stream(), device.stream()
    fields = [Field(comm, device, streams[i % 2]) for i in range(3)]
    halo = Halo(fields[0].grid, fields=[fields[0].array], method=method)
    calls.begin()
    for number, field in enumerate(fields):
        calls.pause()
        field.set(10 * number)
        calls.go_on()
        halo.start(field.array, stream=field.stream)
        if eager:
            for stream in device_messages._copy_streams(device):
                finish(device, stream)
        halo.wait()
    halo.synchronize()
    calls.end()
    right = fields[-1].is_filled(fields[-1].now(), 10 * (len(fields) - 1))
    for stream in streams[::-1]:
        finish(device, stream)
    return right and all(field.is_filled(field.now(), 10 * i) for i, field in enumerate(fields))


class Calls:
    """Counts the verbs that order streams, and leaves one of them out."""

    def __init__(self) -> None:
        self.left_out = -1
        self.counting = False

    def begin(self) -> None:
        self.count, self.counting = 0, True

    def pause(self) -> None:
        self.counting = False

    def go_on(self) -> None:
        self.counting = True

    def end(self) -> None:
        self.counting = False

    def patch(self, monkeypatch, kind: type, verb: str) -> None:
        original: Callable = getattr(kind, verb)

        def counted(*arguments) -> None:
            if self.counting:
                self.count += 1
                if self.count - 1 == self.left_out:
                    return
            original(*arguments)

        monkeypatch.setattr(kind, verb, counted)


calls = Calls()


@several
def test_removing_any_one_wait_or_event_shows(comm, device, method, monkeypatch):
    calls.left_out = -1
    for kind, verb in ((Mark, "record"), (Mark, "synchronize"), (StandIn, "wait")):
        calls.patch(monkeypatch, kind, verb)
    assert all(turns(comm, device, method, eager) for eager in (False, True))
    for left_out in range(calls.count):
        calls.left_out = left_out
        right = [comm.allreduce(turns(comm, device, method, eager)) for eager in (False, True)]
        assert min(right) < comm.size, f"call {left_out} of {calls.count} is not needed"


# -- what it costs


def test_launches_and_calls_do_not_grow_with_faces_and_fields(comm, device):
    for method, most in (("staged", 6), ("oneshot", 4)):
        grid = Grid(comm, (8, 9, 7), periodic=True)
        fields = [grid.zeros(dtype, device=device) for dtype in ("f8", "f4", "i2", "u1")]
        halo = Halo(grid, fields=fields, corners=True, method=method)
        halo.exchange(*fields)
        before = census.copy()
        halo.exchange(*fields)
        waits = comm.size > 1  # for the packed data, by the host
        assert census["launches"] - before["launches"] <= 2
        assert census["calls"] - before["calls"] - waits <= most


def test_views_that_are_made_anew_are_found_again(comm, device, method):
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    halo.exchange(field.array)
    before = census["allocations"]
    for turn in range(10):
        field.set(turn)
        halo.exchange(field.array[:])
        assert field.is_filled(field.array.get(), turn)
        field.kept.clear()
        assert census["allocations"] == before


# -- several in flight


@pytest.mark.parametrize(
    "methods", [("staged", "oneshot"), ("staged", "staged"), ("packed", "staged")]
)
def test_halos_are_started_and_waited_for_in_any_order(comm, device, methods):
    fields = [Field(comm, device) for _ in methods]
    arrays = [
        field.grid.zeros() if method == "packed" else field.array
        for field, method in zip(fields, methods, strict=True)
    ]
    halos = [
        Halo(field.grid, fields=[array], method=method)
        for field, array, method in zip(fields, arrays, methods, strict=True)
    ]
    for turn in range(4):
        for i, (field, array) in enumerate(zip(fields, arrays, strict=True)):
            if array is field.array:
                field.set(100 * i + turn)
            else:
                array[field.grid.owned] = comm.rank + 100 * i + turn
        pairs = list(zip(halos, arrays, strict=True))
        for halo, array in pairs[:: 1 if (comm.rank + turn) % 2 else -1]:
            halo.start(array)
        for halo, _ in pairs[:: 1 if comm.rank % 2 else -1]:
            halo.wait()
        for i, (field, array) in enumerate(zip(fields, arrays, strict=True)):
            values = array if isinstance(array, np.ndarray) else array.get()
            assert field.is_filled(values, 100 * i + turn)


def landed(comm) -> None:
    """All ranks complete what is adrift, and the devices what they still do."""
    gc.collect()
    comm.Barrier()
    while adrift.adrift or lifetime._leaving or lifetime._left:
        adrift.land()
        lifetime._free()
    comm.Barrier()


@pytest.mark.parametrize("dropped", ["halo", "array", "both"])
def test_what_is_dropped_in_flight_lives_until_it_is_complete(comm, device, method, dropped):
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    field.set(3)
    halo.start(field.array)
    array = field.array
    if dropped != "halo":
        del field.array
    if dropped != "array":
        del halo
    copied = array[...]  # the same memory
    del array
    gc.collect()
    if dropped == "array":
        halo.wait()
    landed(comm)
    field.array = copied
    assert field.is_filled(copied.get(), 3)


def test_nothing_is_given_back_while_the_device_uses_it(comm, device, method):
    landed(comm)
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    field.set(4)
    halo.exchange(field.array)
    del halo
    gc.collect()
    assert lifetime._leaving
    assert field.is_filled(field.array.get(), 4)
    landed(comm)
    assert not lifetime._leaving


def test_many_plans_leave_nothing_behind(comm, device):
    field = Field(comm, device)
    landed(comm)
    kinds = ("allocations", "pinned", "registered", "opened", "streams", "events")
    before = {kind: census[kind] for kind in kinds}
    files = len([*Path("/proc/self/fd").iterdir()])
    for turn in range(1000 // comm.size):
        method = ("staged", "oneshot")[turn % 2]
        halo = Halo(field.grid, fields=[field.array], method=method)
        if turn % 50 == 0:
            halo.exchange(field.array)
    del halo
    landed(comm)
    assert {kind: census[kind] for kind in kinds} == before
    assert len([*Path("/proc/self/fd").iterdir()]) <= files + 2


@several
def test_the_end_of_the_program_completes_what_is_in_flight(comm, device, method, monkeypatch):
    monkeypatch.setattr(adrift, "_TIMEOUT", 60.0)
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    field.set(5)
    halo.start(field.array)
    adrift._end()
    assert not adrift.adrift
    assert field.is_filled(field.now(), 5)
    comm.Barrier()


# -- errors


REFUSED = HpckitError("the driver refuses this launch")


def refuse(monkeypatch, error: BaseException = REFUSED) -> list[int]:
    """One launch fails, after so many as the list that this gives says."""
    left = [10**9]
    original = StandIn.prepare

    def prepare(self, *arguments):
        launch = original(self, *arguments)

        def launched() -> None:
            left[0] -= 1
            if left[0] == -1:
                raise error
            launch()

        return launched

    monkeypatch.setattr(StandIn, "prepare", prepare)
    return left


def test_a_launch_that_fails_before_the_messages_may_be_tried_again(
    comm, device, method, monkeypatch
):
    left = refuse(monkeypatch)
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    for begin in (halo.exchange, halo.start):
        field.set(6)
        left[0] = 0
        with pytest.raises(HpckitError, match="refuses this launch"):
            begin(field.array)
        halo.exchange(field.array)
        assert field.is_filled(field.array.get(), 6)


def test_after_an_interrupt_wait_goes_on(comm, device, method, monkeypatch):
    left = refuse(monkeypatch, KeyboardInterrupt())
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    for launches in range(1 + (comm.size > 1)):
        field.set(9 + launches)
        left[0] = launches
        with pytest.raises(KeyboardInterrupt):
            halo.exchange(field.array)
        halo.wait()
        assert field.is_filled(field.array.get(), 9 + launches)


@several
def test_a_rank_that_tries_again_counts_calls_as_the_others_do(comm, device, monkeypatch):
    """Else it would begin a race, or end one, before or after them."""
    left = refuse(monkeypatch)
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array])
    for turn in range(600):
        field.set(turn)
        if turn % 7 == comm.rank:
            left[0] = 0
            with pytest.raises(HpckitError, match="refuses this launch"):
                halo.exchange(field.array)
        halo.exchange(field.array)
        assert field.is_filled(field.array.get(), turn)
        field.kept.clear()
    assert halo.method != "auto"


@several
def test_after_a_launch_that_fails_later_wait_goes_on(comm, device, method, monkeypatch):
    left = refuse(monkeypatch)
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method)
    field.set(7)
    left[0] = 1
    with pytest.raises(HpckitError, match="refuses this launch"):
        halo.exchange(field.array)
    with pytest.raises(HpckitError, match=r"call wait\(\) first"):
        halo.exchange(field.array)
    halo.wait()
    assert field.is_filled(field.array.get(), 7)
    halo.exchange(field.array)


class Clock:
    """Stands still, or hurries: then a deadline passes within a few looks at it."""

    def __init__(self) -> None:
        self.now, self.hurries = 0.0, False

    def monotonic(self) -> float:
        self.now += self.hurries
        return self.now


@several
def test_a_deadline_names_who_does_not_come(comm, device, method, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(spin, "time", clock)
    field = Field(comm, device)
    halo = Halo(field.grid, fields=[field.array], method=method, deadline=5)
    field.set(8)
    late = comm.size - 1
    if comm.rank != late:
        halo.start(field.array)
        adrift.begin_owed()
    comm.Barrier()
    if comm.rank in (0, late - 1):
        clock.hurries = True
        with pytest.raises(HpckitError, match=rf"rank {late} is late: waited 5 s for it in a halo"):
            halo.wait()
        clock.hurries = False
    comm.Barrier()
    if comm.rank == late:
        halo.start(field.array)
    halo.wait()
    assert field.is_filled(field.array.get(), 8)
    comm.Barrier()
