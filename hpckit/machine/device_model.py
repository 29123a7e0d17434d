"""The model of a device: what moving data on it costs, beside what `Model` knows of the host.

All that is exchanged goes by few kernels, whatever the number of boxes. So what a kernel costs by
itself is a step of its own, and the others are without it.
"""

from __future__ import annotations

import math

from hpckit.machine import store
from hpckit.machine.model import Model, place
from hpckit.machine.steps import Table, interpolate, parse

_VERSION = 1  # of the file: change it with whatever changes the meaning of the numbers
_HOST = ("host", "cpu", "mpi", "pairs")  # of the host's model, on which these depend too


class DeviceModel:
    """What moving data costs where it is on a device, in seconds; infinite where not measured.

    host : the model of the host, for messages
    title : of the device
    shared : whether other ranks use the device too
    aware : whether MPI takes addresses of its memory
    steps : by name a table of times; empty while they are not measured

    The same on all ranks; get it by `hpckit.comm.measure_device.with_device_steps`. ::

        model = with_device_steps(grid.comm, grid.node_memory, device)
        model.launch() + model.pack(32768, row=8) + model.to_host(32768) + model.settle()
    """

    def __init__(self, host: Model, title: str, shared: bool, aware: bool) -> None:
        self.host = host
        names = {name: host.machine[name] for name in _HOST if name in host.machine}
        own = {"device": title, "shared": shared, "aware": aware, "version": _VERSION}
        self._machine = names | own
        self.steps: dict[str, Table] = {}

    def kept(self) -> dict[str, Table]:
        """The steps in the file of such a device; none where there is no file."""
        return parse(store.read("device", self._machine))

    def keep(self) -> None:
        """Keep the steps for later runs."""
        store.write("device", self._machine, self.steps)

    def launch(self) -> float:
        """One more kernel on a stream, however little it does."""
        return self._seconds("launch", 0, 0)

    def settle(self) -> float:
        """The host learns that all that it has enqueued is done."""
        return self._seconds("settle", 0, 0)

    def signal(self) -> float:
        """Streams of two ranks of this node tell each other that data is there."""
        return self._seconds("signal", 0, 0)

    def pack(self, nbytes: int, row: int) -> float:
        """Gather rows of `row` contiguous bytes into one buffer of the device."""
        return self._seconds("pack", nbytes, row)

    def unpack(self, nbytes: int, row: int) -> float:
        """Scatter one buffer of the device to rows of `row` contiguous bytes."""
        return self._seconds("unpack", nbytes, row)

    def mapped_pack(self, nbytes: int, row: int) -> float:
        """As `pack`, into pinned memory of the host."""
        return self._seconds("mapped pack", nbytes, row)

    def mapped_unpack(self, nbytes: int, row: int) -> float:
        """As `unpack`, from pinned memory of the host."""
        return self._seconds("mapped unpack", nbytes, row)

    def peer(self, nbytes: int, row: int) -> float:
        """As `unpack`, from the memory of another rank's device."""
        return self._seconds("peer", nbytes, row)

    def to_host(self, nbytes: int) -> float:
        """Copy to pinned memory of the host."""
        return self._seconds("to host", nbytes, 1)

    def to_device(self, nbytes: int) -> float:
        """Copy from pinned memory of the host."""
        return self._seconds("to device", nbytes, 1)

    def message(self, nbytes: int, same_node: bool = True) -> float:
        """A contiguous message each way between two ranks' hosts."""
        return self.host.message(nbytes, same_node)

    def device_message(self, nbytes: int, same_node: bool = True) -> float:
        """The same between two ranks' devices, by an MPI library that takes their addresses."""
        return self._seconds(f"message, {place(same_node)}", nbytes, 1)

    def _seconds(self, step: str, nbytes: int, row: int) -> float:
        table = self.steps.get(step)
        return interpolate(table, nbytes, row) if table else math.inf
