"""A plan's arrays, by the place where they are, and what carries them to an algorithm and back.

An algorithm takes contiguous operands in memory of one kind, the host's or a device's. What lies
otherwise is copied there before each operation, and the result back after it: strided arrays by one
sweep, arrays of a device to page-locked memory where the algorithm is the host's. So every
algorithm serves every array.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from hpckit import native
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Operands, Persistent
from hpckit.collectives.side_stream import passed
from hpckit.comm.device import Device, Host
from hpckit.comm.device_array import empty
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move, Packer, dense_strides
from hpckit.comm.places import check_alone, stream_of
from hpckit.comm.strided import from_array
from hpckit.errors import ConfigError, together
from hpckit.machine.lifetime import leave
from hpckit.machine.overlap import identical


def _nothing() -> None:
    pass


class _Flat(NamedTuple):
    """The elements of an array on a device as `values`, (n,): a view where that can be.

    pack, unpack : what enqueues the copies where it cannot
    """

    values: np.ndarray
    pack: Callable[[], None] = _nothing
    unpack: Callable[[], None] = _nothing


class Staged:
    """An operation on copies: `bring` makes those that it reads, `take` copies what it gives."""

    def __init__(
        self, operation: Persistent, bring: Callable[[], object], take: Callable[[], object]
    ) -> None:
        self._operation = operation
        self._bring = bring
        self._take = take
        self._begun = False

    def start(self) -> None:
        self._bring()
        self._operation.start()
        self._begun = True

    def poll(self) -> bool:
        complete = self._operation.poll()
        if complete:
            self._end()
        return complete

    def wait(self) -> None:
        self._operation.wait()
        self._end()

    def __call__(self) -> None:
        self._bring()
        self._operation()
        self._take()

    def _end(self) -> None:
        if self._begun:
            self._begun = False
            self._take()


class HostArrays:
    """Arrays in host memory: algorithms get them as they are where they are contiguous.

    order : in which all are contiguous, "C" or "F"; else "strided"

    flat : source and target, (n,) contiguous: views where that can be, else buffers
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        order: str,
        place: Host,
        stream: int,
    ) -> None:
        self._strided = order == "strided"
        if not self._strided:
            self.flat = _flattened(source, order), _flattened(target, order)
            return
        first = np.empty(source.size, source.dtype)
        last = first if identical(source, target) else np.empty_like(first)
        self.flat = first, last
        packer, unpacker = Packer(from_array(source)), Packer(from_array(target))
        self._bring = lambda: packer.pack(source, out=first)
        self._take = lambda: unpacker.unpack(last, target)

    @staticmethod
    def stream_of(array: Any, place: Host, given: Any) -> int:
        """On which stream the array is used. Raises `ConfigError` where one makes no sense."""
        if given is not None:
            raise ConfigError("stream is for arrays on a device: leave it out")
        return 0

    def operands(self, whole: Operands, kind: str) -> Operands:
        """The whole of them, as algorithms of this kind take them."""
        return whole

    def around(self, operation: Persistent, part: slice, kind: str) -> Persistent:
        """The operation on a part of what `operands` gave, as one on the arrays themselves."""
        return Staged(operation, self._bring, self._take) if self._strided else operation

    def settle(self) -> None:
        """The host waits until the results are there."""


class DeviceArrays:
    """Arrays on a device: the host's algorithms get page-locked memory (collective).

    Arguments and `flat` are as for `HostArrays`; buffers are on the device.
    """

    stream_of = staticmethod(stream_of)

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        order: str,
        place: Device,
        stream: int,
    ) -> None:
        check_alone(channel.comm, channel.node.comm, place)
        self._channel = channel
        self._device = place
        self._stream = stream
        # What is enqueued may still be to be done when this is gone.
        self._used: list[object] = [source, target]
        weakref.finalize(self, leave, passed(place, stream, self._used)).atexit = False
        with together(channel.comm):
            self._source = self._target = self._flat(source, order)
            if not identical(source, target):
                self._target = self._flat(target, order)
        self.flat = self._source.values, self._target.values

    def operands(self, whole: Operands, kind: str) -> Operands:
        return whole if kind == "device" else replace(whole, source=self._host, target=self._host)

    def around(self, operation: Persistent, part: slice, kind: str) -> Persistent:
        if kind == "host":
            return Staged(operation, partial(self._to_host, part), partial(self._back, part))
        if self._source.pack is not _nothing or self._target.unpack is not _nothing:
            return Staged(operation, self._source.pack, self._target.unpack)
        return operation

    def settle(self) -> None:
        self._device.synchronize(self._stream)

    def _flat(self, array: np.ndarray, order: str) -> _Flat:
        array = array.T if order == "F" else array
        if order != "strided" and array.flags.aligned:  # kernels load whole elements
            return _Flat(array.reshape(-1))
        values = empty(self._device, (array.size,), array.dtype).shadow
        row = array.itemsize
        dense = native.address(values), dense_strides(array.shape, row)
        strided = native.address(array), array.strides
        self._used.append(values)
        return _Flat(
            values,
            self._moves(Move(array.shape, row, *strided, *dense)),
            self._moves(Move(array.shape, row, *dense, *strided)),
        )

    def _moves(self, move: Move) -> Callable[[], None]:
        moves = DeviceMoves(self._device, [move], self._stream)
        self._used.append(moves)
        return moves.run

    def _to_host(self, part: slice) -> None:
        self._source.pack()
        self._copy(self._host[part], self._source.values[part])
        self._device.synchronize(self._stream)

    def _back(self, part: slice) -> None:
        self._copy(self._target.values[part], self._host[part])
        self._target.unpack()

    def _copy(self, target: np.ndarray, source: np.ndarray) -> None:
        if target.size:
            to, come_from = native.address(target), native.address(source)
            self._device.copy(to, come_from, target.nbytes, self._stream)

    @cached_property
    def _host(self) -> np.ndarray:
        """Page-locked memory like the target, which the node's ranks share where they can."""
        channel, target = self._channel, self._target.values
        nbytes = max(-(-target.nbytes // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        shares = channel.shares_memory
        with together(channel.comm):  # the ranks of a node fail together, but not those of all
            memory = channel.node.zeros((nbytes,), np.uint8) if shares else None
        with together(channel.comm):
            if memory is None:
                pinned = self._device.pinned(nbytes)
            else:
                pinned = self._device.register(memory)
        assert pinned.host is not None
        self._used += [pinned, memory]
        return pinned.host[: target.nbytes].view(target.dtype)


def _flattened(array: np.ndarray, order: str) -> np.ndarray:
    return (array.T if order == "F" else array).reshape(-1)


ARRAYS = {"host": HostArrays, "device": DeviceArrays}
