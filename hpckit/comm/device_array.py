"""Arrays in a device's memory: what `Grid.zeros(device=...)` gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import EllipsisType
from typing import Any, Literal, Self

import numpy as np

from hpckit import native
from hpckit.comm.device import STAGING, Device, Memory
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.comm.places import handle_of
from hpckit.comm.shadow import Shadow, shadow_at
from hpckit.errors import ConfigError

Index = int | np.integer | slice | EllipsisType | None


class DeviceArray:
    """An array on a device: to be exchanged and reduced, viewed, and copied to the host and back.

    It computes nothing. CuPy, PyTorch and Numba take it as theirs, without a copy, by
    `__cuda_array_interface__`: `cupy.asarray(u)`, `torch.as_tensor(u, device="cuda")`.

    memory : what it lies in, and keeps
    shadow : NumPy's view of where its elements are (see `hpckit.comm.shadow`)

    ::

        u = grid.zeros(device="cuda")
        u[0].set(1.0)
        u.get()  # a NumPy array
    """

    def __init__(self, device: Device, memory: Memory, shadow: np.ndarray) -> None:
        self.device = device
        self.memory = memory
        self.shadow = shadow
        self.shape = shadow.shape
        self.strides = shadow.strides
        self.dtype = shadow.dtype
        self.ndim = shadow.ndim
        self.size = shadow.size
        self.nbytes = shadow.nbytes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "data": (native.address(self.shadow), False),
            "shape": self.shape,
            "strides": None if self.shadow.flags.c_contiguous else self.strides,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": self.device.default_stream,
            "version": 3,
        }

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Self:
        """A view, by integers, slices, `...` and None."""
        each = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(i, Index) and not isinstance(i, bool) for i in each):
            raise ConfigError(f"index {index!r} must be of ints, slices, ... and None: use .get()")
        if Ellipsis not in each:
            each = (*each, ...)  # else NumPy would read a single element
        return type(self)(self.device, self.memory, self.shadow[each])

    def get(self, stream: Any = None) -> np.ndarray:
        """A copy on the host, of what is there after all that is on the stream.

        ::

            u[grid.owned].get()
        """
        host = np.empty_like(self.shadow, subok=False)
        if self.size:
            queue = self._queue(stream)
            dense = self._like(host)
            packing = _moves(self, dense, queue)
            packing.run()
            for there, here in _chunks(dense, host):
                self.device.copy(self.device.staging.address, there, here.size, queue)
                self.device.synchronize(queue)
                here[:] = _staged(self.device, here.size)
        return host

    def set(self, values: Any, stream: Any = None) -> None:
        """Give it values, an array or a number of the host, after all that is on the stream.

        It has them when this returns. ::

            u[0].set(np.arange(10.0))
        """
        host = np.empty_like(self.shadow, subok=False)
        host[...] = values
        if self.size:
            queue = self._queue(stream)
            dense = self._like(host)
            for there, here in _chunks(dense, host):
                _staged(self.device, here.size)[:] = here
                self.device.copy(there, self.device.staging.address, here.size, queue)
                self.device.synchronize(queue)
            unpacking = _moves(dense, self, queue)
            unpacking.run()
            self.device.synchronize(queue)

    def _queue(self, stream: Any) -> int:
        return self.device.default_stream if stream is None else handle_of(stream)

    def _like(self, host: np.ndarray) -> DeviceArray:
        """This array where its elements lie as densely as the host's, else a new one with such."""
        steps = zip(self.shape, self.strides, host.strides, strict=True)
        if all(n == 1 or ours == theirs for n, ours, theirs in steps):
            return self
        memory = self.device.allocate(self.nbytes)
        flat = shadow_at(memory, memory.address, (self.nbytes,), np.dtype("u1"))
        shadow = Shadow(self.shape, self.dtype, flat, strides=host.strides)
        return DeviceArray(self.device, memory, shadow)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("an array on a device becomes NumPy's only by a copy: use .get()")

    def __len__(self) -> int:
        return len(self.shadow)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.shape} {self.dtype} on {self.device.uuid}>"


def empty(
    device: Device, shape: tuple[int, ...], dtype: Any = float, order: Literal["C", "F"] = "C"
) -> DeviceArray:
    """A new one, of whatever was there. Raises `HpckitError` where there is no memory for it.

    ::

        empty(device, (3, 4), "f4")
    """
    dtype = np.dtype(dtype)
    memory = device.allocate(max(math.prod(shape) * dtype.itemsize, 1))
    return DeviceArray(device, memory, shadow_at(memory, memory.address, shape, dtype, order))


def zeros(
    device: Device, shape: tuple[int, ...], dtype: Any = float, order: Literal["C", "F"] = "C"
) -> DeviceArray:
    """As `empty`, but filled with zeros."""
    made = empty(device, shape, dtype, order)
    made.set(np.zeros((), made.dtype))
    return made


def _moves(source: DeviceArray, target: DeviceArray, queue: int) -> DeviceMoves:
    """What copies one to another of the same shape; nothing where they are the same."""
    move = Move(
        source.shape,
        source.dtype.itemsize,
        native.address(source.shadow),
        source.strides,
        native.address(target.shadow),
        target.strides,
    )
    return DeviceMoves(source.device, [move] if source is not target else [], queue)


def _chunks(there: DeviceArray, here: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Address on the device and bytes on the host of what is copied at once."""
    address = native.address(there.shadow)
    memory = here.ravel("K").view("u1")
    for start in range(0, memory.size, STAGING):
        yield address + start, memory[start : start + STAGING]


def _staged(device: Device, nbytes: int) -> np.ndarray:
    host = device.staging.host
    assert host is not None  # it is pinned
    return host[:nbytes]
