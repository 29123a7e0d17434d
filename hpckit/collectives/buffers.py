"""Where `allreduce` reduces, by the place of what it is given: kept for more such calls."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.arguments import check_numbers, numbers
from hpckit.collectives.channel import Channel, empty
from hpckit.collectives.side_stream import passed
from hpckit.comm import device_array
from hpckit.comm.device import Device, Host
from hpckit.comm.device_array import DeviceArray
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.errors import HpckitError, together
from hpckit.machine.lifetime import leave


class HostBuffer:
    """In the node's shared memory where there is enough of it (collective).

    array : like the one given
    """

    def __init__(self, comm: MPI.Intracomm, array: np.ndarray, place: Host) -> None:
        self.array = np.empty(0)
        if Channel.of(comm).shares_memory:
            with contextlib.suppress(HpckitError):  # on all ranks
                self.array = empty(comm, array.shape, array.dtype)
                return
        self.array = np.empty(array.shape, array.dtype)

    @staticmethod
    def view(array: Any, place: Host) -> np.ndarray:
        """The array as one of NumPy. Raises `ConfigError` where it is none of numbers."""
        return numbers(array)

    def put(self, array: np.ndarray, stream: int) -> None:
        """Reduce this next, once all is done that is on the stream on which it is used."""
        np.copyto(self.array, array)

    def get(self, stream: int) -> np.ndarray:
        """What is there, as a new array, for all that comes later on the stream."""
        return self.array.copy()


class DeviceBuffer:
    """On the device, used on its default stream, whatever those of the arrays are (collective)."""

    def __init__(self, comm: MPI.Intracomm, array: np.ndarray, place: Device) -> None:
        self._device = place
        with together(comm):
            self.array = device_array.empty(place, array.shape, array.dtype)
            self._event = place.event()

    @staticmethod
    def view(array: Any, place: Device) -> np.ndarray:
        found = place.view(array)
        check_numbers(found)
        return found

    def put(self, array: np.ndarray, stream: int) -> None:
        self._follow(self._device.default_stream, stream)
        self._copy(self.array.shadow, array)

    def get(self, stream: int) -> DeviceArray:
        result = device_array.empty(self._device, self.array.shape, self.array.dtype)
        self._copy(result.shadow, self.array.shadow)
        self._follow(stream, self._device.default_stream)
        return result

    def _follow(self, stream: int, other: int) -> None:
        """What comes later on a stream runs after all that is on the other."""
        if stream != other:
            self._event.record(other)
            self._device.wait(stream, self._event)

    def _copy(self, target: np.ndarray, source: np.ndarray) -> None:
        ends = native.address(source), source.strides, native.address(target), target.strides
        stream = self._device.default_stream
        moves = DeviceMoves(self._device, [Move(source.shape, source.itemsize, *ends)], stream)
        moves.run()
        leave(passed(self._device, stream, (moves, target, source)))


BUFFERS = {"host": HostBuffer, "device": DeviceBuffer}
