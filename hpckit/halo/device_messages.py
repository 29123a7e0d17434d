"""What the methods have in common by which fields on a device go through messages.

One launch packs the boxes of all fields for all partners into a slab (`hpckit.halo.slab`), messages
carry it, and one launch unpacks what came. The methods differ in where slabs are.

MPI knows no streams: the host waits for the packed data before it begins the sends. It does so when
it waits for an exchange, this or another one, so that what the caller enqueues after `start` runs
meanwhile.

Slabs are used again by the next exchange, which packs behind the last one's unpacking, whatever
streams they are on. So when its packed data is there, the device has unpacked all that was received
before, and messages may be received anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.device import Device, Memory
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.errors import HpckitError, together
from hpckit.halo.adrift import owed
from hpckit.halo.bound_exchange import (
    DOING,
    Exchange,
    NotBegun,
    Step,
    poll_steps,
    run_steps,
)
from hpckit.halo.pattern import ALIGN, Box, Partner, Pattern, Sizes
from hpckit.halo.slab import Message, Slab
from hpckit.machine.lifetime import free_with, leave
from hpckit.machine.spin import complete, waiter

if TYPE_CHECKING:
    from hpckit.machine.device_model import DeviceModel


class DeviceMessages:
    """Packed messages of fields on a device; a method says where slabs are.

    partners : those to exchange with, by default all of the pattern
    own : whether the copies within this rank are made as well

    Constructing is collective, also for ranks without partners. Raises `HpckitError` on all ranks
    where one of them has no memory for it.
    """

    def __init__(
        self,
        pattern: Pattern,
        tag: int,
        partners: Sequence[Partner] | None = None,
        own: bool = True,
    ) -> None:
        self._pattern = pattern
        self._device: Any = pattern.place
        self._own = own
        self._partners = pattern.partners if partners is None else partners
        comm = pattern.grid.comm
        sends = [(partner.rank, partner.sends) for partner in self._partners]
        receives = [(partner.rank, partner.receives) for partner in self._partners]
        with together(comm):
            self._out_offsets, self._out = self._slab(sends, comm.Send_init, tag)
            self._in_offsets, self._in = self._slab(receives, comm.Recv_init, tag)
            self._packed, self._arrived, self._filled = (self._device.event() for _ in range(3))
        # When the first chunk may be sent, and messages may be received.
        self._ready = self._out.chunks[0].copied if self._out.chunks else self._packed
        self._stream: int | None = None  # of the last exchange
        free_with(self, *self._in.requests, *self._out.requests, keep=(self._in, self._out))

    def _memories(self, device: Device, nbytes: int) -> tuple[Memory, Memory]:
        """Where kernels have a slab of so many bytes, and where MPI has it."""
        raise NotImplementedError

    def _slab(
        self, boxes: Sequence[tuple[int, Sequence[Box]]], init: Callable, tag: int
    ) -> tuple[list[int], Slab]:
        """A slab for the boxes of each rank, and where in it they begin."""
        *offsets, nbytes = self._pattern.offsets([each for _, each in boxes])
        messages = [
            Message(rank, offset, self._pattern.nbytes(each))
            for offset, (rank, each) in zip(offsets, boxes, strict=True)
        ]
        memories = self._memories(self._device, max(nbytes, ALIGN))
        messages = [message for message in messages if message.nbytes]
        return offsets, Slab(self._device, *memories, messages, init, tag)

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return True

    @classmethod
    def cost(cls, model: DeviceModel, pattern: Pattern) -> float:
        return cls.cost_of(model, pattern.sizes)

    @classmethod
    def cost_of(cls, model: DeviceModel, partners: Sequence[Sizes]) -> float:
        """Seconds to exchange with some partners; chunks are taken as if none overlapped."""
        by_itself = 2 * (model.launch() + model.settle()) if partners else 0.0
        return by_itself + sum(cls._carrying(model, sizes) for sizes in partners)

    @staticmethod
    def _carrying(model: DeviceModel, sizes: Sizes) -> float:
        """What the bytes for and from one partner take from fields to fields."""
        raise NotImplementedError

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        pack = DeviceMoves(self._device, self._pack_moves(arrays), stream)
        unpack = DeviceMoves(self._device, self._unpack_moves(arrays), stream)
        left: list[Step] = []  # to do; after an error `wait` goes on with the one that failed
        packing = [Step(partial(self._follow, stream)), Step(pack.run), *self._copy_out(stream)]
        sends = [*self._send_steps(), Step(partial(owed.pop, id(left), None))]
        rest = [
            *self._receive_steps(stream),
            Step(unpack.run),
            Step(partial(self._filled.record, stream)),
            self._wait(self._out.ranks, self._out.requests),
        ]
        send = partial(run_steps, left, len(rest))
        wait = partial(run_steps, left, 0)

        def start() -> None:
            left[:] = [*packing, *sends, *rest]
            try:
                run_steps(left, len(sends) + len(rest))
            except HpckitError as error:
                left.clear()
                raise NotBegun(str(error)) from error
            owed[id(left)] = send

        # The device may use these when nobody else does any more.
        weakref.finalize(wait, leave, self._filled.done, (pack, unpack, self)).atexit = False
        poll = partial(poll_steps, left, self._filled.done)
        return Exchange.of(start, wait, poll, self, self._filled.synchronize)

    def _pack_moves(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """From the fields to the slab, and within this rank."""
        moves = self._pattern.own_moves(arrays) if self._own else []
        for partner, offset in zip(self._partners, self._out_offsets, strict=True):
            packed = self._out.packed.address + offset
            moves += self._pattern.pack_moves(arrays, partner.sends, packed)
        return moves

    def _unpack_moves(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """From the slab to the fields."""
        return [
            move
            for partner, offset in zip(self._partners, self._in_offsets, strict=True)
            for move in self._pattern.unpack_moves(
                arrays, partner.receives, self._in.packed.address + offset
            )
        ]

    def _follow(self, stream: int) -> None:
        """Come after the last exchange, if that was on another stream."""
        if self._stream not in (None, stream):
            self._device.wait(stream, self._filled)
        self._stream = stream

    def _copy_out(self, stream: int) -> Iterator[Step]:
        """To where MPI sends from, with a mark when each chunk is there."""
        down = stream
        if self._out.pipelined:
            down, _ = _copy_streams(self._device)
            yield Step(partial(self._packed.record, stream))
            yield Step(partial(self._device.wait, down, self._packed))
        for chunk in self._out.chunks:
            yield from self._out.copy_out(chunk, down)
            yield Step(partial(chunk.copied.record, down))
        if self._partners and not self._out.chunks:
            yield Step(partial(self._ready.record, stream))

    def _send_steps(self) -> Iterator[Step]:
        if self._partners:
            yield Step(self._ready.synchronize, self._ready.done)
        for chunk in self._in.chunks:
            yield Step(chunk.start)
        for chunk in self._out.chunks:
            if chunk.copied is not self._ready:
                yield Step(chunk.copied.synchronize, chunk.copied.done)
            yield Step(chunk.start)

    def _receive_steps(self, stream: int) -> Iterator[Step]:
        up = _copy_streams(self._device)[1] if self._in.pipelined else stream
        for chunk in self._in.chunks:
            yield self._wait(chunk.ranks, chunk.requests)
            yield from self._in.copy_in(chunk, up)
        if self._in.pipelined:
            yield Step(partial(self._arrived.record, up))
            yield Step(partial(self._device.wait, stream, self._arrived))

    def _wait(self, ranks: Sequence[int | None], requests: Sequence[MPI.Prequest]) -> Step:
        """For messages, of these ranks."""
        wait = waiter(ranks, self._pattern.deadline, DOING)
        return Step(partial(wait, requests), partial(complete, requests))


@cache
def _copy_streams(device: Device) -> tuple[int, int]:
    """Of all exchanges of this device: to the host, and from it."""
    return device.stream(), device.stream()
