"""Method `device`: packed messages from and to a device's memory, for MPI libraries that take it.

Where the library does not, it reads what the host cannot and the process dies. Nothing here finds
that out: `auto` leaves this way out unless the doctor has seen it work, and who names it is refused
where the doctor has seen it fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hpckit.comm.gpu_awareness import known
from hpckit.errors import HpckitError, together
from hpckit.halo.device_messages import DeviceMessages

if TYPE_CHECKING:
    from hpckit.comm.device import Device as Where
    from hpckit.comm.device import Memory
    from hpckit.halo.pattern import Pattern, Sizes
    from hpckit.machine.device_model import DeviceModel


class Device(DeviceMessages):
    """Device memory, for kernels and for MPI."""

    name: ClassVar[str] = "device"
    pointers: ClassVar[str] = "device"

    def __init__(self, pattern: Pattern, tag: int) -> None:
        with together(pattern.grid.comm):
            refuse_unaware(pattern.place)
        super().__init__(pattern, tag)

    def _memories(self, device: Where, nbytes: int) -> tuple[Memory, Memory]:
        memory = device.allocate(nbytes)
        return memory, memory

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        place: Any = pattern.place
        return known(place) is True

    @staticmethod
    def _carrying(model: DeviceModel, sizes: Sizes) -> float:
        pack = sum(model.pack(*piece) for piece in sizes.sends)
        unpack = sum(model.unpack(*piece) for piece in sizes.receives)
        return pack + model.device_message(sizes.nbytes, sizes.near) + unpack


def refuse_unaware(place: Any) -> None:
    """`HpckitError` where the doctor has seen that MPI cannot take addresses of this device."""
    if known(place) is False:
        raise HpckitError(
            f"halo method 'device' is not possible: MPI cannot take addresses of {place.title}, as "
            "`python -m hpckit.apps.doctor --gpu` found; choose auto, staged, peer or oneshot"
        )
