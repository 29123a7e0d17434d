"""Whether MPI may be given addresses in a device's memory: as the doctor found, never a guess.

An MPI library that cannot take them dereferences them and dies, and what it says of itself is wrong
either way: some answer yes where there is no driver. So nothing in a job tries; `python -m
hpckit.apps.doctor --gpu` does, in a job of its own, and what it finds is kept for this MPI library,
driver and host.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.machine import store

if TYPE_CHECKING:
    from hpckit.comm.device import Device

KIND = "gpu-awareness"
_LIBRARY = re.compile(r"/\S*/libmpi(?:_\w+)?\.so[.\d]*$", re.MULTILINE)


def known(device: Device) -> bool | None:
    """Whether MPI sends and receives this device's memory itself; None where nobody has tried.

    ::

        known(device)  # True: method "device" may be taken
    """
    return store.read(KIND, machine(device))


def keep(machine: dict[str, Any], aware: bool) -> None:
    """What was found out for a `machine`."""
    store.write(KIND, machine, aware)


def machine(device: Device) -> dict[str, Any]:
    """What the answer depends on: the MPI library that is loaded, the driver, and the host."""
    library = _library()
    return {
        "mpi": [str(library), library.stat().st_mtime_ns],
        "device": [device.name, device.driver],
        "host": platform.node(),
    }


def _library() -> Path:
    """The file of the MPI library in this process."""
    from mpi4py import MPI

    loaded = _LIBRARY.findall(Path("/proc/self/maps").read_text())
    return Path(os.path.realpath(loaded[0] if loaded else MPI.__file__))
