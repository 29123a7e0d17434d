"""Method `staged`: packed messages through pinned host memory, for every MPI library.

Kernels pack in the device's memory, and copies take it to pinned memory, from which MPI sends, and
back: in chunks on streams of their own where there is more than one, else on the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hpckit.halo.device_messages import DeviceMessages

if TYPE_CHECKING:
    from hpckit.comm.device import Device, Memory
    from hpckit.halo.pattern import Sizes
    from hpckit.machine.device_model import DeviceModel


class Staged(DeviceMessages):
    """Device memory for kernels, pinned memory for MPI, copies in between."""

    name: ClassVar[str] = "staged"
    pointers: ClassVar[str] = "pinned"

    def _memories(self, device: Device, nbytes: int) -> tuple[Memory, Memory]:
        return device.allocate(nbytes), device.pinned(nbytes)

    @staticmethod
    def _carrying(model: DeviceModel, sizes: Sizes) -> float:
        pack = sum(model.pack(*piece) for piece in sizes.sends)
        unpack = sum(model.unpack(*piece) for piece in sizes.receives)
        copies = model.to_host(sizes.nbytes) + model.to_device(sizes.received)
        return pack + copies + model.message(sizes.nbytes, sizes.near) + unpack
