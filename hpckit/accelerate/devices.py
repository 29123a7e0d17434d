"""Messages from and to arrays on devices: through pinned memory, whatever MPI knows of devices.

A kernel gathers straight into pinned memory, which MPI sends like any other; what is contiguous is
copied. Nothing here is measured yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, Self

import numpy as np
from mpi4py import MPI

from hpckit import collectives, native
from hpckit.accelerate.parcels import Packed, Parcel, Plain, Slabs
from hpckit.comm.device import Device
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move, beyond, dense_strides
from hpckit.comm.places import place, stream_of
from hpckit.comm.shadow import is_of_device
from hpckit.comm.strided import NotStrided, StridedBlock, from_array, from_datatype
from hpckit.errors import ConfigError, together

_KEPT = 16  # layouts whose pinned memory is kept, and places of each that its kernels know


@dataclass(frozen=True)
class Described:
    """What mpi4py's forms of a buffer say: `[array, (count, displacement), datatype]`, say."""

    array: Any
    count: int | None = None
    displacement: int = 0
    datatype: MPI.Datatype | None = None


def array_of(buffer: Any) -> Any:
    """What has the memory, in any of the forms."""
    return buffer[0] if isinstance(buffer, list | tuple) and buffer else buffer


def device_parcel(buffer: Any, readonly: bool) -> Parcel:
    """The parcel of a buffer whose array is on a device, in any of mpi4py's forms.

    Alone, the array may have any strides. Raises `ConfigError` where no kernel can move it.
    """
    said = _described(buffer)
    device: Any = place([said.array])
    view = device.view(said.array)
    if not readonly and not view.flags.writeable:
        raise ConfigError("an array on a device is read-only, nothing can be received in it")
    if view.flags.forc:  # in the order of memory, as mpi4py takes those of the host
        block, offset = _objects(said, view)
    elif said.count is None and said.datatype is None:
        block, offset = from_array(view), 0
    else:
        raise ConfigError(
            f"an array on a device with strides {view.strides} was given with a count or a "
            "datatype, which need a contiguous one: pass it alone"
        )
    if not block.nbytes:
        return Plain([np.empty(0, np.uint8), MPI.PACKED])
    if outside := beyond(block, view, offset):  # a kernel that leaves its array ends the process
        raise ConfigError(
            f"a message of {block} {outside} on a device: give a smaller count or displacement"
        )
    stream = stream_of(said.array, device)
    return _slabs(device, block).take().at(native.address(view) + offset, stream)


def is_used(*arguments: Any) -> bool:
    """Whether a buffer among them is on a device."""
    return any(is_of_device(array_of(each)) for each in arguments)


def allreduce(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, op: MPI.Op) -> None:
    """`Allreduce` of arrays on a device, by `hpckit.allreduce` (collective)."""
    source = recvbuf if sendbuf is MPI.IN_PLACE else sendbuf
    with together(comm):
        device, result = _result(source, recvbuf)
        device.synchronize(stream_of(recvbuf, device))
    total = collectives.allreduce(comm, source, op=op)
    stream = stream_of(source, device)
    if result.nbytes:
        device.copy(native.address(result), native.address(total.shadow), result.nbytes, stream)
    device.synchronize(stream)


def _result(source: Any, result: Any) -> tuple[Device, np.ndarray]:
    """Where the sum of one array is wanted in another, of which is the view."""
    if not is_of_device(source) or not is_of_device(result):
        raise ConfigError(
            "Allreduce on a device takes arrays there, alone or with MPI.IN_PLACE, got "
            f"{type(source).__name__} and {type(result).__name__}"
        )
    device: Any = place([source, result])
    ours, theirs = device.views([source, result])
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        raise ConfigError(
            f"Allreduce of {ours.dtype} {ours.shape} cannot be put in {theirs.dtype} {theirs.shape}"
        )
    if not theirs.flags.c_contiguous or not theirs.flags.writeable:
        raise ConfigError("the result of Allreduce on a device needs a contiguous, writable array")
    return device, theirs


def _described(buffer: Any) -> Described:
    match buffer:
        case [array, MPI.Datatype() | str() as datatype]:
            return Described(array, datatype=_datatype(datatype))
        case [array, [count, displacement]]:
            return Described(array, count, displacement)
        case [array, count]:
            return Described(array, count)
        case [array, [count, displacement], datatype] | [array, count, displacement, datatype]:
            return Described(array, count, displacement or 0, _datatype(datatype))
        case [array, count, datatype]:
            return Described(array, count, datatype=_datatype(datatype))
        case list() | tuple():
            raise ConfigError(
                f"a buffer of {len(buffer)} items: pass an array, [array, count], [array, "
                "datatype], [array, count, datatype] or [array, count, displacement, datatype]"
            )
    return Described(buffer)


def _datatype(given: MPI.Datatype | str) -> MPI.Datatype:
    return MPI.Datatype.fromcode(given) if isinstance(given, str) else given


def _objects(said: Described, view: np.ndarray) -> tuple[StridedBlock, int]:
    """So many objects of a datatype, or elements, of a contiguous array, and where they begin."""
    one = StridedBlock(0, (), (), view.itemsize, view.itemsize)
    if said.datatype is not None:
        try:
            one = from_datatype(said.datatype)
        except NotStrided as error:
            raise ConfigError(
                f"no kernel can move this datatype on a device ({error.args[0]}): send from, or "
                "receive in, a copy on the host"
            ) from None
    offset = said.displacement * one.extent
    count = said.count
    if count is None:
        count, rest = divmod(view.nbytes - offset, one.extent) if one.extent > 0 else (0, 1)
        if rest:
            raise ConfigError(
                f"{view.nbytes} bytes on a device are no whole number of objects {one.extent} "
                "bytes apart: say how many, [array, count, datatype]"
            )
    return one.repeat(count), offset


class PinnedSlab(Packed):
    """The packed bytes of a block in an array on a device, in pinned memory."""

    def __init__(self, device: Device, block: StridedBlock, home: Slabs[PinnedSlab]) -> None:
        self._pinned = device.pinned(block.nbytes)
        assert self._pinned.host is not None
        super().__init__(self._pinned.host, home)
        self._device = device
        self._block = block
        self._address = self._stream = 0
        self._known: dict[tuple[str, int, int], Callable[[], object]] = {}

    def at(self, address: int, stream: int) -> Self:
        """Of the array at this address, after all that is on a stream, until the next message."""
        self._address, self._stream = address, stream
        return self

    def gather(self) -> None:
        self._walk("source")

    def scatter(self) -> None:
        self._walk("target")

    def _walk(self, end: Literal["source", "target"]) -> None:
        """Both ways the host waits: MPI reads at once, and the next message comes at once."""
        key = end, self._address, self._stream
        if key not in self._known:
            if len(self._known) == _KEPT:
                self._known.clear()
            self._known[key] = self._plan(end)
        self._known[key]()
        self._device.synchronize(self._stream)

    def _plan(self, end: Literal["source", "target"]) -> Callable[[], object]:
        block, here, there = self._block, self._pinned.address, self._address + self._block.start
        if not block.counts:
            ends = (here, there) if end == "source" else (there, here)
            return partial(self._device.copy, *ends, block.nbytes, self._stream)
        dense = here, dense_strides(block.counts, block.row)
        strided = there, block.strides
        ends = (*strided, *dense) if end == "source" else (*dense, *strided)
        return DeviceMoves(self._device, [Move(block.counts, block.row, *ends)], self._stream).run


@lru_cache(_KEPT)
def _slabs(device: Device, block: StridedBlock) -> Slabs[PinnedSlab]:
    return Slabs(partial(PinnedSlab, device, block))
