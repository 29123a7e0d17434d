"""Method `device`: packed messages from and to a device's memory, for MPI libraries that take it.

Where the library does not, it reads what the host cannot and the process dies. Nothing here finds
that out: `auto` leaves this way out unless the doctor has seen it work, and who names it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hpckit.halo.device_messages import DeviceMessages
from hpckit.halo.packed import packed_cost

if TYPE_CHECKING:
    from hpckit.comm.device import Device as Where
    from hpckit.comm.device import Memory
    from hpckit.halo.pattern import Pattern
    from hpckit.machine.model import Model


class Device(DeviceMessages):
    """Device memory, for kernels and for MPI."""

    name: ClassVar[str] = "device"
    pointers: ClassVar[str] = "device"

    def _memories(self, device: Where, nbytes: int) -> tuple[Memory, Memory]:
        memory = device.allocate(nbytes)
        return memory, memory

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return False

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        return sum((packed_cost(model, each) for each in pattern.sizes), 0.0)
