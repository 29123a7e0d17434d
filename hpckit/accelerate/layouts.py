"""What is known of a datatype, kept where the datatype is, and which parcel a buffer becomes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

from mpi4py import MPI

from hpckit.accelerate.devices import array_of, device_parcel
from hpckit.accelerate.parcels import Parcel, Plain, Slab, Slabs
from hpckit.comm.shadow import is_of_device
from hpckit.comm.strided import NotStrided, StridedBlock, from_datatype

Pays = Callable[[StridedBlock], bool]
"""whether to pack messages of such a block"""

_MOST = 2**31 - 1  # bytes of a message that every MPI can count
_KEPT = 16  # numbers of objects for which a type keeps slabs


class Layout:
    """The canonical block of a derived datatype, and slabs for messages of some of its objects.

    It is an attribute of the datatype within MPI, and goes with it. By its handle it could not be
    found: MPI gives that of a freed type to the next one.
    """

    def __init__(self, datatype: MPI.Datatype) -> None:
        self._extent = datatype.extent
        self._block: StridedBlock | None = None
        with suppress(NotStrided):
            self._block = from_datatype(datatype)
        self._slabs: dict[tuple[Pays, int], Slabs[Slab] | None] = {}

    @classmethod
    def of(cls, datatype: MPI.Datatype) -> Layout:
        """That of a datatype, made when it is first seen."""
        kept: Any = datatype.Get_attr(_key())
        if kept is None:
            kept = cls(datatype)
            datatype.Set_attr(_key(), kept)
        return kept

    def count(self, nbytes: int) -> int:
        """Objects in a buffer of so many bytes; 0 where that is no whole number."""
        return nbytes // self._extent if self._extent > 0 and nbytes % self._extent == 0 else 0

    def slabs(self, pays: Pays, count: int) -> Slabs[Slab] | None:
        """Those for `count` objects; None where MPI shall walk them."""
        try:
            return self._slabs[pays, count]
        except KeyError:
            pass
        block = self._block.repeat(count) if self._block and count > 0 else None
        packs = block and block.counts and block.nbytes <= _MOST and pays(block)
        if len(self._slabs) == _KEPT:
            self._slabs.clear()
        found = Slabs(partial(Slab, block)) if block and packs else None
        self._slabs[pays, count] = found
        return found


def parcel(buffer: Any, pays: Pays, readonly: bool = False) -> Parcel:
    """What MPI gets instead of a buffer in any of mpi4py's forms, `[array, 1, datatype]`, say.

    readonly : it is sent from
    """
    if is_of_device(array_of(buffer)):
        return device_parcel(buffer, readonly)
    match buffer:
        case [array, MPI.Datatype() as datatype]:
            count = None
        case [array, int() as count, MPI.Datatype() as datatype]:
            pass
        case _:
            return Plain(buffer)
    if datatype.is_predefined:
        return Plain(buffer)
    try:
        memory = MPI.buffer.frombuffer(array, readonly)
    except (TypeError, BufferError, ValueError):  # MPI.BOTTOM, None; or wrong, as MPI will say
        return Plain(buffer)
    layout = Layout.of(datatype)
    slabs = layout.slabs(pays, layout.count(memory.nbytes) if count is None else count)
    return Plain(buffer) if slabs is None else slabs.take().at(memory.address)


@cache
def _key() -> int:
    """Made at the first use, so that importing needs no MPI_Init."""
    return MPI.Datatype.Create_keyval()
