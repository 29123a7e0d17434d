"""Method `oneshot`: kernels pack straight into pinned host memory, from which MPI sends.

No copy in between: the bytes cross to the host as the kernel writes them, and back as one reads
them. Good for little data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hpckit.halo.device_messages import DeviceMessages

if TYPE_CHECKING:
    from hpckit.comm.device import Device, Memory
    from hpckit.halo.pattern import Sizes
    from hpckit.machine.device_model import DeviceModel


class OneShot(DeviceMessages):
    """Pinned memory that the device maps, for kernels and for MPI."""

    name: ClassVar[str] = "oneshot"
    pointers: ClassVar[str] = "mapped"

    def _memories(self, device: Device, nbytes: int) -> tuple[Memory, Memory]:
        mapped = device.pinned(nbytes)
        return mapped, mapped

    @staticmethod
    def _carrying(model: DeviceModel, sizes: Sizes) -> float:
        pack = sum(model.mapped_pack(*piece) for piece in sizes.sends)
        unpack = sum(model.mapped_unpack(*piece) for piece in sizes.receives)
        return pack + model.message(sizes.nbytes, sizes.near) + unpack
