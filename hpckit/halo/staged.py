"""Method `staged`: packed messages through pinned host memory, for every MPI library.

Kernels pack in the device's memory, and copies take it to pinned memory, from which MPI sends, and
back: in chunks on streams of their own where there is more than one, else on the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hpckit.halo.device_messages import DeviceMessages
from hpckit.halo.packed import packed_cost

if TYPE_CHECKING:
    from hpckit.comm.device import Device, Memory
    from hpckit.halo.pattern import Pattern
    from hpckit.machine.model import Model


class Staged(DeviceMessages):
    """Device memory for kernels, pinned memory for MPI, copies in between."""

    name: ClassVar[str] = "staged"
    pointers: ClassVar[str] = "pinned"

    def _memories(self, device: Device, nbytes: int) -> tuple[Memory, Memory]:
        return device.allocate(nbytes), device.pinned(nbytes)

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        return sum((packed_cost(model, each) for each in pattern.sizes), 0.0)
