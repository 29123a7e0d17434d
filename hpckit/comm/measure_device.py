"""Measures the steps of a device's model, once per machine and device; see `hpckit.comm.measure`.

Each is timed with all that it needs to be known as done; what a kernel of one word takes is a step
of its own, and left out of the others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mpi4py import MPI

from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.gpu_awareness import known
from hpckit.comm.measure import MESSAGES, Case, Step, best, exchange, times, with_steps
from hpckit.comm.pack import Move
from hpckit.comm.peer_memory import PeerMemory
from hpckit.errors import HpckitError, meet, together
from hpckit.log import get_logger
from hpckit.machine.device_model import DeviceModel
from hpckit.machine.model import partner, place
from hpckit.machine.node_memory import NodeMemory, kept_by
from hpckit.machine.steps import Table

if TYPE_CHECKING:
    from hpckit.comm.device import Device, Signal

SIZES = tuple(1 << power for power in (12, 16, 20, 23))
ROWS = (8, 32, 256, 4096)
AREA = 1 << 27  # bytes that strided data may span
_SEVERAL = 8  # kernels more, to tell what one of them costs
_LEAST = 1e-9  # seconds: what a step takes beyond a kernel of one word may be too little to tell
_OF_PAIRS = {"pack", "peer"}  # what is there where nothing was refused
_KERNELS: tuple[str, ...] = ("pack", "unpack", "mapped pack", "mapped unpack", "peer")
_OTHERS: tuple[str, ...] = ("to host", "to device", "signal")  # that streams do


def with_device_steps(comm: MPI.Intracomm, node: NodeMemory, device: Device) -> DeviceModel:
    """The model of the ranks' devices, from a file or measured now (collective).

    Where they are not all alike, rank 0's counts for all. Measuring takes about a second.
    """
    host = with_steps(comm, node)
    which = comm.bcast((device.title, device.shared, known(device) is True))
    models = kept_by(comm, _none_yet)
    if which not in models:
        models[which] = DeviceModel(host, *which)
        models[which].steps = comm.bcast(models[which].kept() if comm.rank == 0 else None)
    model = models[which]
    if not model.steps:
        model.steps = _measure(comm, host.node_of, device, aware=which[-1])
        if comm.rank == 0 and {*model.steps} >= (_OF_PAIRS if host.has_messages else {"pack"}):
            model.keep()
    return model


def _none_yet(_: MPI.Intracomm) -> dict[tuple[str, bool, bool], DeviceModel]:
    return {}


def _measure(
    comm: MPI.Intracomm, node_of: Sequence[int], device: Device, aware: bool
) -> dict[str, Table]:
    """Rank 0 alone, with one of its node, and with one of another; the others sleep."""
    tables = _told(_alone, device) if comm.rank == 0 else {}
    meet(comm)
    for same_node in (True, False):
        other = partner(node_of, same_node)
        takes_part = other is not None and comm.rank in (0, other)
        pair = MPI.Intracomm(comm.Split(0 if takes_part else MPI.UNDEFINED, comm.rank))
        if pair != MPI.COMM_NULL:
            tables |= _told(_pair, device, pair) if same_node else {}
            tables |= _told(_messages, device, pair, place(same_node)) if aware else {}
            pair.Free()
        meet(comm)
    return comm.bcast(_steps(tables))


def _told(measure: Callable[..., dict[str, Table]], *arguments: object) -> dict[str, Table]:
    """What it measured; nothing where the device refuses, after a warning."""
    try:
        return measure(*arguments)
    except HpckitError as error:
        get_logger(__name__).warning("what devices cost is not measured: %s", error)
        return {}


def _alone(device: Device) -> dict[str, Table]:
    """Kernels and copies of one rank."""
    bench = _Bench(device)
    rows, packed = device.allocate(AREA), device.allocate(SIZES[-1])
    pinned = device.pinned(SIZES[-1])
    area, flat, mapped = rows.address, packed.address, pinned.address
    word = DeviceMoves(device, [Move((), 8, area, (), flat, ())], bench.stream).run
    several = [word] * (1 + _SEVERAL)
    timed = partial(times, MPI.COMM_SELF)
    return {
        "kernel": _one(best(MPI.COMM_SELF, _nothing, bench.whole(word))),
        "kernels": _one(best(MPI.COMM_SELF, _nothing, bench.whole(*several))),
        "pack": timed(_layouts(), bench.rows(area, flat, gathers=True)),
        "unpack": timed(_layouts(), bench.rows(flat, area, gathers=False)),
        "mapped pack": timed(_layouts(), bench.rows(area, mapped, gathers=True)),
        "mapped unpack": timed(_layouts(), bench.rows(mapped, area, gathers=False)),
        "to host": timed(_contiguous(), bench.copies(flat, mapped)),
        "to device": timed(_contiguous(), bench.copies(mapped, flat)),
    }


def _pair(device: Device, pair: MPI.Intracomm) -> dict[str, Table]:
    """What two ranks of a node read from each other, and how they tell that it is there."""
    bench = _Bench(device)
    other = 1 - pair.rank
    with together(pair):
        rows = device.allocate(AREA)
    memory = PeerMemory(pair, NodeMemory(pair), device, SIZES[-1], [other])
    counters: list[Signal] = [
        ("write", memory.counter(pair.rank, 0)),
        ("wait", memory.counter(other, 0)),
    ]
    tell = device.signals(counters, bench.stream)
    numbers = itertools.count(1)

    def signal() -> None:
        number = next(numbers)
        tell([number, number])

    read = bench.rows(memory.theirs(other), rows.address, gathers=False)
    tables = {
        "signal": _one(best(pair, _nothing, bench.whole(signal))),
        "peer": times(pair, _layouts(), read),
    }
    memory.event.record(bench.stream)
    while not memory.given_back():
        os.sched_yield()
    return tables


def _messages(device: Device, pair: MPI.Intracomm, where: str) -> dict[str, Table]:
    """Messages from and to devices' memory, which this MPI library is known to take."""
    with together(pair):
        send, receive = device.allocate(MESSAGES[-1]), device.allocate(MESSAGES[-1])

    def message(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
        del row, stride
        ends = (MPI.buffer.fromaddress(each.address, nbytes) for each in (send, receive))
        return _nothing, exchange(pair, *([end, MPI.BYTE] for end in ends))

    return {f"message, {where}": times(pair, [(n, 1, 1) for n in MESSAGES], message)}


def _steps(timed: dict[str, Table]) -> dict[str, Table]:
    """Each step by itself: what was timed, without what else was in that time."""
    if "kernel" not in timed:
        return {}
    (_, kernel), (_, kernels) = timed.pop("kernel")[1][0], timed.pop("kernels")[1][0]
    launch = max((kernels - kernel) / _SEVERAL, _LEAST)
    settle = max(kernel - launch, _LEAST)
    rest = dict.fromkeys(_KERNELS, kernel) | dict.fromkeys(_OTHERS, settle)
    return {"launch": _one(launch), "settle": _one(settle)} | {
        step: {
            row: [(n, max(seconds - rest.get(step, 0.0), _LEAST)) for n, seconds in points]
            for row, points in table.items()
        }
        for step, table in timed.items()
    }


def _one(seconds: float) -> Table:
    return {1: [(0, seconds)]}


def _layouts() -> list[tuple[int, int, int]]:
    """(bytes, row, stride)"""
    strides = {row: 2 * row + 64 for row in ROWS}
    return [
        (n, row, stride)
        for n in SIZES
        for row, stride in strides.items()
        if n >= row and n // row * stride <= AREA
    ]


def _contiguous() -> list[tuple[int, int, int]]:
    return [(n, 1, 1) for n in SIZES]


class _Bench:
    """A stream on which steps are timed one by one."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.stream = device.stream()
        self._event = device.event()

    def whole(self, *enqueue: Step) -> Step:
        """Enqueue these, and wait until they are done."""

        def step() -> None:
            for each in enqueue:
                each()
            self._event.record(self.stream)
            self._event.synchronize()

        return step

    def rows(self, source: int, target: int, gathers: bool) -> Case:
        """A kernel between packed bytes and rows: a `stride` apart in the source if it gathers."""

        def case(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
            apart = (stride, row) if gathers else (row, stride)
            move = Move((nbytes // row,), row, source, apart[:1], target, apart[1:])
            return _nothing, self.whole(DeviceMoves(self.device, [move], self.stream).run)

        return case

    def copies(self, source: int, target: int) -> Case:
        """A copy as the driver makes it."""

        def case(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
            del row, stride
            copy = partial(self.device.copy, target, source, nbytes, self.stream)
            return _nothing, self.whole(copy)

        return case


def _nothing() -> None:
    pass
