"""Devices: the verbs by which hpckit uses a GPU, and the arrays that live in its memory.

All that differs between an NVIDIA GPU (`hpckit.comm.cuda`) and its stand-in on the CPU
(`hpckit.comm.stand_in`) is behind `Device`. What is above asks nobody what he is: it takes the
*place* of the fields, `HOST` or a device, and what is registered for it.

Work on a device is enqueued on *streams* and runs later, in the order of each stream; *events* tie
streams together. An address is an integer; the host must not touch those of a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from hpckit.comm.shadow import shadow

STAGING = 1 << 22  # bytes


class Kernel(NamedTuple):
    """A kernel by its module and name (see `hpckit.ptx`)."""

    module: str
    name: str


class Memory(Protocol):
    """A piece of memory that a device reaches; given back when nobody holds this any more."""

    address: int
    """as the device sees it"""
    nbytes: int
    host: np.ndarray | None
    """(nbytes,) uint8 where the host may touch it too, else None"""


class Event(Protocol):
    """A place in a stream, where it was recorded last."""

    def record(self, stream: int) -> None: ...

    def done(self) -> bool:
        """Whether all work before it is."""
        ...

    def synchronize(self) -> None:
        """The host waits for that."""
        ...


Signal = tuple[Literal["write", "wait"], int]
"""Of a 32-bit counter at an address: set it, or wait until it has come to a value or beyond."""


class Device(Protocol):
    """One GPU, as this rank uses it. Every verb raises `HpckitError` where the driver refuses."""

    name: ClassVar[str]
    """what users call its kind, `"cuda"`"""
    kind: ClassVar[str] = "device"
    """what is registered for it, as for `Host.kind`"""
    number: int
    """which of those that this process sees"""
    title: str
    """what it is, for tables"""
    uuid: str
    """which one it is, whatever number it has here"""
    driver: str
    """what drives it, with its version: what is found out about it may change with that"""
    shared: bool
    """whether other ranks may use it too"""
    default_stream: int
    """the one on which arrays are used that name none"""

    # -- all of its kind; one is made by its number and whether it is shared

    @classmethod
    def count(cls) -> int:
        """How many this process sees."""
        ...

    @classmethod
    def number_at(cls, address: int) -> int | None:
        """Of that in whose memory this address is; None: of none."""
        ...

    @classmethod
    def describe(cls) -> list[str]:
        """Lines for people, about the driver and all devices that this process sees."""
        ...

    # -- arrays, as `DeviceArrays` has them

    def view(self, array: Any) -> np.ndarray: ...

    def views(self, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]: ...

    @property
    def staging(self) -> Memory: ...

    # -- memory

    def allocate(self, nbytes: int) -> Memory:
        """Device memory that other ranks of the node may open, aligned to 256 bytes."""
        ...

    def pinned(self, nbytes: int) -> Memory:
        """Page-locked host memory that kernels reach too."""
        ...

    def register(self, array: np.ndarray) -> Memory:
        """Makes whole pages of host memory, `(n,)` uint8, such; undone with the result."""
        ...

    def export(self, memory: Memory) -> bytes:
        """What another rank of the node needs to `open` what was allocated."""
        ...

    def open(self, exported: bytes) -> Memory:
        """Another rank's memory; once for each that was allocated."""
        ...

    def holds(self, address: int) -> bool:
        """Whether this is an address in the memory of this very device."""
        ...

    # -- streams

    def stream(self) -> int:
        """A new one, which nothing else waits for; lives as long as the device."""
        ...

    def event(self) -> Event: ...

    def wait(self, stream: int, event: Event) -> None:
        """What is enqueued on the stream from now on runs after the event, as last recorded."""
        ...

    def synchronize(self, stream: int) -> None:
        """The host waits for all that is on the stream."""
        ...

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy between any two addresses of the device or of pinned memory."""
        ...

    def prepare(
        self, kernel: Kernel, blocks: int, arguments: Sequence[Any], stream: int
    ) -> Callable[[], object]:
        """What enqueues a kernel of `blocks` (1 or more) blocks, as cheaply as can be.

        arguments : int as int64, float as float64, `numpy.float32` as itself
        """
        ...

    def signals(self, signals: Sequence[Signal], stream: int) -> Callable[[Sequence[int]], object]:
        """What enqueues these, given the value of each, in one call of the driver."""
        ...


class DeviceArrays:
    """What all devices have in common: how they see arrays."""

    kind: ClassVar[str] = "device"

    def view(self, array: Any) -> np.ndarray:
        """The array as plans walk it: its `shadow`, of which nobody may touch the elements."""
        return shadow(array)

    def views(self, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
        return tuple(map(self.view, arrays))

    @cached_property
    def staging(self: Device) -> Memory:
        """Pinned memory through which arrays go to the host and back, one at a time."""
        return self.pinned(STAGING)


class Host:
    """The place of NumPy arrays."""

    name: ClassVar[str] = "host"
    kind: ClassVar[str] = "host"
    title = "host memory"

    def view(self, array: Any) -> Any:
        """The array, as plans walk it."""
        return array

    def views(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Those of several, all in this place."""
        return tuple(arrays)


HOST = Host()
