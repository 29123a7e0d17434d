"""The model of this machine: what moving data costs, measured once, kept, asked by who chooses.

It has two parts, each measured when it is first needed. *Steps* are what a halo is made of: two
ranks work at once, in both directions, and the sender has just written what it sends (otherwise
caches make everything look two to ten times faster); `hpckit.comm.measure` measures them. *Links*
are what messages between nodes cost.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.machine import store
from hpckit.machine.links import Links, measure
from hpckit.machine.node_memory import NodeMemory, kept_by
from hpckit.machine.steps import Table, interpolate, parse

if TYPE_CHECKING:
    from mpi4py import MPI

VERSION = 5  # of the file: change it with whatever changes the meaning of the numbers
_HOST = ("host", "cpu", "mpi", "pairs", "version")  # on which steps depend


class Model:
    """What moving data costs, in seconds; infinite where there was nothing to measure it on.

    machine : what was measured: host, CPU, MPI library, placement of the ranks, version
    node_of : node number of each rank
    steps : by name a table of times; empty while they are not measured
    links : None while they are not measured

    The same on all ranks. It belongs to a communicator: get it by `with_links(comm, node)` or
    `hpckit.comm.measure.with_steps(comm, node)`::

        model = with_steps(grid.comm, grid.node_memory)
        model.pack(32768, row=8) + model.message(32768)
    """

    def __init__(
        self,
        machine: Mapping[str, Any],
        node_of: Sequence[int],
        steps: Mapping[str, Table] | None = None,
        links: Links | None = None,
    ) -> None:
        self.machine = machine
        self.node_of = tuple(node_of)
        self.steps = dict(steps or {})
        self.links = links
        self._asked: dict[tuple[str, int, int], float] = {}

    @classmethod
    def of(cls, comm: MPI.Intracomm, node: NodeMemory) -> Model:
        """That of a communicator, with what its file knows; made at the first call (collective)."""
        return kept_by(comm, _read, node)

    @classmethod
    def newest(cls) -> Model | None:
        """That with the steps last measured on this host, by any MPI; None where there is none."""
        found = [
            cls(machine, machine["node_of"], parse(content.get("steps")))
            for machine, content in store.newest("model")
            if machine.get("host") == platform.node() and machine.get("version") == VERSION
        ]
        models = [model for model in found if model.steps]
        return next((each for each in models if each.has_messages), models[0] if models else None)

    @property
    def has_messages(self) -> bool:
        """Whether there were two ranks on a node to measure."""
        return f"message, {place(True)}" in self.steps

    def copying(self) -> float:
        """Bytes per second, read and written, at which one core moves more than its caches hold."""
        nbytes, seconds = max(points[-1] for points in self.steps["pack"].values())
        return 2 * nbytes / seconds

    def pack(self, nbytes: int, row: int) -> float:
        """Gather rows of `row` contiguous bytes into one buffer."""
        return self._seconds("pack", nbytes, row)

    def unpack(self, nbytes: int, row: int) -> float:
        """Scatter one buffer to rows of `row` contiguous bytes."""
        return self._seconds("unpack", nbytes, row)

    def message(self, nbytes: int, same_node: bool = True) -> float:
        """A contiguous message each way between two ranks, by persistent requests."""
        return self._seconds(f"message, {place(same_node)}", nbytes, 1)

    def datatype(self, nbytes: int, row: int, same_node: bool = True) -> float:
        """A message each way between two ranks, rows of `row` bytes that MPI walks itself."""
        return self._seconds(f"datatype, {place(same_node)}", nbytes, row)

    def flag(self) -> float:
        """Tell another rank of this node that data is there, and hear the same from it."""
        return self._seconds("flag", 0, 0)

    def shared(self, nbytes: int, row: int) -> float:
        """Scatter to rows of `row` bytes what another rank of this node has just packed."""
        return self._seconds("shared", nbytes, row)

    def direct(self, nbytes: int, row: int) -> float:
        """Copy rows of `row` bytes to such rows, just written by another rank of this node."""
        return self._seconds("direct", nbytes, row)

    def learn_steps(self, steps: Mapping[str, Table], keep: bool) -> None:
        """They are measured now; kept in the file where this rank is told to."""
        self.steps = dict(steps)
        self._asked.clear()
        if keep:
            self._keep("steps", self.steps)

    def learn_links(self, links: Links, keep: bool) -> None:
        """They are measured now; kept in the file where this rank is told to."""
        self.links = links
        if keep:
            self._keep("links", links.to_json())

    def _keep(self, part: str, content: Any) -> None:
        """Beside what the file has of the other part, which another model may have measured."""
        found = store.read("model", self.machine)
        others = found if isinstance(found, dict) else {}
        store.write("model", self.machine, others | {part: content})

    def _seconds(self, step: str, nbytes: int, row: int) -> float:
        """Interpolated once: the faces of a block ask the same again and again."""
        key = step, nbytes, row
        seconds = self._asked.get(key)
        if seconds is None:
            table = self.steps.get(step)
            seconds = interpolate(table, nbytes, row) if table else math.inf
            self._asked[key] = seconds
        return seconds

    def __str__(self) -> str:
        """The machine and the steps as a table, then the links."""
        shown = tuple(512 * 8**k for k in range(5))
        lines = [f"{name:10}{self.machine[name]}" for name in _HOST if name in self.machine]
        if self.steps:
            heads = "".join(f"{nbytes:>9}" for nbytes in shown)
            lines.append(f"\nmicroseconds for bytes{'row':>5}{heads}")
        for step, table in self.steps.items():
            for row in table:
                seconds = [self._seconds(step, nbytes, row) for nbytes in shown]
                times = "".join(f"{1e6 * each:9.1f}" for each in seconds)
                lines.append(f"{step:22}{row if len(table) > 1 else '':>5}{times}")
        return "\n".join([*lines, *([f"\n{self.links}"] if self.links else [])])


def with_links(comm: MPI.Intracomm, node: NodeMemory, fresh: bool = False) -> Model:
    """The model of a communicator with its links, from a file or measured now (collective).

    fresh : measure them now, and carefully
    """
    model = Model.of(comm, node)
    if model.links is None or fresh:
        lowest = comm.allgather(node.ranks[0])
        model.learn_links(measure(comm, lowest, careful=fresh), keep=comm.rank == 0)
    return model


def place(same_node: bool) -> str:
    """Of two ranks, in the names of steps."""
    return "same node" if same_node else "other node"


def partner(node_of: Sequence[int], same_node: bool) -> int | None:
    """The rank that rank 0 is measured with."""
    others = range(1, len(node_of))
    return next((rank for rank in others if (node_of[rank] == node_of[0]) == same_node), None)


def _read(comm: MPI.Intracomm, node: NodeMemory) -> Model:
    """What is known (collective)."""
    ranks = comm.allgather((platform.node(), node.ranks[0]))
    lowest, node_of = np.unique([first for _, first in ranks], return_inverse=True)
    known = None
    if comm.rank == 0:
        hosts = [ranks[rank][0] for rank in lowest.tolist()]
        machine = _machine(hosts, node_of.tolist())
        found = store.read("model", machine)
        content = found if isinstance(found, dict) else {}
        steps = parse(content.get("steps")) or _steps_elsewhere(machine)
        known = machine, steps, Links.from_json(content.get("links"), node_of.tolist())
    machine, steps, links = comm.bcast(known)
    return Model(machine, node_of.tolist(), steps, links)


def _machine(hosts: list[str], node_of: list[int]) -> dict[str, Any]:
    pairs = [place(same) for same in (True, False) if partner(node_of, same) is not None]
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "host": platform.node(),
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "mpi": store.mpi_library(),
        "pairs": " and ".join(pairs) or "one rank alone",
        "version": VERSION,
        "hosts": hosts,
        "node_of": node_of,
    }


def _steps_elsewhere(machine: Mapping[str, Any]) -> dict[str, Table]:
    """Steps that were measured with other ranks on this host: they are the same."""
    for other, content in store.newest("model"):
        alike = all(other.get(name) == machine[name] for name in _HOST)
        if alike and isinstance(content, dict) and (steps := parse(content.get("steps"))):
            return steps
    return {}
