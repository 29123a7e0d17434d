"""Through page-locked memory and messages, a piece at a time, reduced on the devices.

A two-shot, as `twoshot`: each rank reduces its slice of everybody's array. The slices are cut into
pieces, and two rounds of pieces are under way at once: while those of one are copied from or to the
device, those of the other travel. A device reads what came from other ranks where it arrived, in
page-locked memory, while it reduces: so that crosses the bus once, and no host adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.algorithms.on_device import OnDevice, rounded, slices
from hpckit.collectives.folds import Folds
from hpckit.collectives.persistent import Operands, in_time
from hpckit.collectives.schedule import others
from hpckit.collectives.side_stream import SideStream
from hpckit.comm.device import Device
from hpckit.errors import together
from hpckit.machine.lifetime import free_with
from hpckit.machine.spin import is_late

_PIECE = 1 << 20  # bytes; not yet measured
_OURS, _THEIRS, _RESULTS = range(3)


class Pipelined(OnDevice):
    """A direct exchange of slices, twice, in pieces that are copied, sent and reduced at once."""

    name = "pipelined"

    def bind(self, operands: Operands) -> PipelinedReduction:
        return PipelinedReduction(operands)


class _Slot:
    """Page-locked memory for the pieces of a round, and what says how far its copies are.

    For each rank there is room for what we have for it (_OURS), what it has for us (_THEIRS), and
    its part of the result (_RESULTS).
    """

    def __init__(self, device: Device, ranks: int, piece: int) -> None:
        self._memory = device.pinned(3 * ranks * piece)
        self._ranks = ranks
        self._piece = piece
        self.brought, self.folded, self.taken = (device.event() for _ in range(3))

    def address(self, which: int, rank: int) -> int:
        return self._memory.address + self._offset(which, rank)

    def bytes(self, which: int, rank: int, nbytes: int) -> np.ndarray:
        assert self._memory.host is not None
        return self._memory.host[self._offset(which, rank) :][:nbytes]

    def _offset(self, which: int, rank: int) -> int:
        return (which * self._ranks + rank) * self._piece


class PipelinedReduction:
    """Progresses when it is polled; it is complete when the result is on the device."""

    def __init__(self, operands: Operands) -> None:
        channel, device, source = operands.channel, operands.place, operands.source
        self._device, self._comm, self._deadline = device, channel.comm, operands.deadline
        self._rank, self._others = channel.rank, others(channel.rank, channel.size)
        self._source, self._target = native.address(source), native.address(operands.target)
        self._cuts = slices(source.nbytes, channel.size)
        self._piece = min(rounded(self._cuts[1]), _PIECE)  # the first slice is as long as any
        rounds = range(-(-self._cuts[1] // _PIECE))
        self._tags = [(channel.tag(), channel.tag()) for _ in range(2)]
        self._flying: list[MPI.Request] = []
        self._awaited: list[tuple[int, MPI.Request]] = []  # what comes from which rank
        self._active: list[Iterator[None]] = []  # what is to be done, in each of the slots
        keep: list[object] = [source, operands.target]
        with together(channel.comm):
            self._slots = [_Slot(device, channel.size, self._piece) for _ in range(2)]
            self._down, self._up = (SideStream(device, operands.stream, keep) for _ in range(2))
            rows = [[self._operand(i, rank) for rank in range(channel.size)] for i in rounds]
            table = np.array(rows, np.int64).reshape(len(rounds), channel.size)
            folds = Folds(device, operands.op, source.dtype, table, self._up.number)
            self._folds = [self._fold(folds, i) for i in rounds]
        keep += [self._slots, folds, self._folds]
        free_with(self, keep=keep, flying=self._flying)

    def start(self) -> None:
        self._down.follow()
        self._up.follow()
        self._active = [self._rounds(first) for first in range(2)]
        self.poll()

    def poll(self) -> bool:
        self._active = [each for each in self._active if not next(each, True)]
        if not self._active:
            self._flying.clear()
            self._awaited.clear()
        return not self._active

    def wait(self) -> None:
        if not in_time(self.poll, self._deadline or float("inf")):
            late = {rank for rank, request in self._awaited if not request.Test()}
            raise is_late(sorted(late), self._deadline or 0.0, "an allreduce on devices")

    def __call__(self) -> None:
        self.start()
        self.wait()

    def _rounds(self, first: int) -> Iterator[None]:
        """All that is done in a slot; yields where it has to wait."""
        for i in range(first, len(self._folds), 2):
            yield from self._round(i)

    def _round(self, i: int) -> Iterator[None]:
        slot, (there, back) = self._slots[i % 2], self._tags[i % 2]
        down, up = self._down.number, self._up.number
        start, own = self._part(i, self._rank)
        parts = [(rank, *self._part(i, rank)) for rank in self._others]
        terms = [self._receive(slot, _THEIRS, rank, own, there) for rank in self._others]
        results = [self._receive(slot, _RESULTS, rank, n, back) for rank, _, n in parts]
        for rank, begin, n in parts:
            self._copy(slot.address(_OURS, rank), self._source + begin, n, down)
        slot.brought.record(down)
        yield from _until(slot.brought.done)
        sends = [self._send(slot.bytes(_OURS, rank, n), rank, there) for rank, _, n in parts]
        yield from _until(partial(MPI.Request.Testall, terms))
        self._folds[i]()
        self._copy(slot.address(_RESULTS, self._rank), self._target + start, own, up)
        slot.folded.record(up)
        yield from _until(slot.folded.done)
        result = slot.bytes(_RESULTS, self._rank, own)
        sends += [self._send(result, rank, back) for rank in self._others]
        yield from _until(partial(MPI.Request.Testall, results))
        for rank, begin, n in parts:
            self._copy(self._target + begin, slot.address(_RESULTS, rank), n, up)
        slot.taken.record(up)
        yield from _until(partial(MPI.Request.Testall, sends))
        yield from _until(slot.taken.done)

    def _part(self, i: int, rank: int) -> tuple[int, int]:
        """Where the piece begins that a rank reduces in this round, and its bytes."""
        start = self._cuts[rank] + i * self._piece
        return start, min(max(self._cuts[rank + 1] - start, 0), self._piece)

    def _operand(self, i: int, rank: int) -> int:
        """Where that rank's version of our piece is when it is reduced."""
        if rank == self._rank:
            return self._source + self._part(i, rank)[0]
        return self._slots[i % 2].address(_THEIRS, rank)

    def _fold(self, folds: Folds, i: int) -> Callable[[], object]:
        start, nbytes = self._part(i, self._rank)
        return folds.fold(i, self._target + start, 0, nbytes, self._up.number)

    def _copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        if nbytes:
            self._device.copy(target, source, nbytes, stream)

    def _receive(self, slot: _Slot, which: int, rank: int, nbytes: int, tag: int) -> MPI.Request:
        request = self._comm.Irecv([slot.bytes(which, rank, nbytes), MPI.BYTE], rank, tag)
        self._awaited.append((rank, request))
        return self._in_flight(request)

    def _send(self, array: np.ndarray, rank: int, tag: int) -> MPI.Request:
        return self._in_flight(self._comm.Isend([array, MPI.BYTE], rank, tag))

    def _in_flight(self, request: MPI.Request) -> MPI.Request:
        self._flying.append(request)
        return request


def _until(done: Callable[[], bool]) -> Iterator[None]:
    while not done():
        yield
