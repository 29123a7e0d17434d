"""What moving data costs on this machine: measured once, kept in a file, asked by whoever must
choose a way.

The times are those of a halo: two ranks exchange at once, in both directions, and the sender has
just written what it sends (otherwise caches make everything look two to ten times faster). Between
the measured points times are interpolated in log(bytes), log(seconds) and log(row); beyond the
largest one they grow with the bytes.
"""

from __future__ import annotations

import math
import os
import platform
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from hpckit import native
from hpckit.comm import probe
from hpckit.comm.probe import Table
from hpckit.errors import meet
from hpckit.machine import store

VERSION = 1  # of the file: change it with whatever changes the meaning of the numbers


@dataclass(frozen=True)
class System:
    """Seconds that each elementary step takes; infinite where there was nothing to measure it on.

    machine : what was measured: host, CPU, MPI library, version, placement of the ranks
    tables : by step; that of `flag` is a single point
    """

    machine: Mapping[str, str | int]
    tables: Mapping[str, Table]

    @classmethod
    def load_or_measure(cls, comm: MPI.Intracomm) -> System:
        """The numbers of this machine, the same on all ranks (collective); measured if there is no
        file of them.

        Measuring takes about a tenth of a second: two ranks work, the others sleep.
        """
        nodes = comm.allgather(_node(comm))
        machine = comm.bcast(_machine(nodes))
        tables = comm.bcast(_tables(store.read("system", machine)) if comm.rank == 0 else None)
        if tables is None:
            tables = _measure(comm, nodes)
            if comm.rank == 0 and probe.is_whole(tables):
                store.write("system", machine, tables)
        return cls(machine, tables)

    @classmethod
    def load_newest(cls) -> System | None:
        """The numbers last measured on this host, by any MPI; None where there are none. Needs no
        MPI.
        """
        found = [(machine, _tables(content)) for machine, content in store.newest("system")]
        good = (
            cls(m, t)
            for m, t in found
            if t and m.get("host") == platform.node() and m.get("version") == VERSION
        )
        whole = list(good)
        return next((each for each in whole if each.has_messages), whole[0] if whole else None)

    @property
    def has_messages(self) -> bool:
        """Whether there were two ranks on a node to measure."""
        return f"message, {_place(True)}" in self.tables

    def copying(self) -> float:
        """Bytes per second, read and written, at which one core moves more than its caches hold."""
        nbytes, seconds = max(points[-1] for points in self.tables["pack"].values())
        return 2 * nbytes / seconds

    def pack(self, nbytes: int, row: int) -> float:
        """Gather rows of `row` contiguous bytes into one buffer."""
        return self._seconds("pack", nbytes, row)

    def unpack(self, nbytes: int, row: int) -> float:
        """Scatter one buffer to rows of `row` contiguous bytes."""
        return self._seconds("unpack", nbytes, row)

    def message(self, nbytes: int, same_node: bool = True) -> float:
        """A contiguous message each way between two ranks, by persistent requests."""
        return self._seconds(f"message, {_place(same_node)}", nbytes, 1)

    def datatype(self, nbytes: int, row: int, same_node: bool = True) -> float:
        """A message each way between two ranks from and to rows of `row` bytes, which MPI walks
        itself.
        """
        return self._seconds(f"datatype, {_place(same_node)}", nbytes, row)

    def flag(self) -> float:
        """Tell another rank of this node that data is there, and hear the same from it."""
        return self._seconds("flag", 0, 0)

    def shared(self, nbytes: int, row: int) -> float:
        """Scatter to rows of `row` bytes from a buffer that another rank of this node has just
        written.
        """
        return self._seconds("shared", nbytes, row)

    def direct(self, nbytes: int, row: int) -> float:
        """Copy rows of `row` bytes to such rows, from memory that another rank of this node has
        just written.
        """
        return self._seconds("direct", nbytes, row)

    def _seconds(self, step: str, nbytes: int, row: int) -> float:
        return interpolate(self.tables[step], nbytes, row) if step in self.tables else math.inf

    def __str__(self) -> str:
        shown = tuple(512 * 8**k for k in range(5))
        lines = [f"{name:10}{value}" for name, value in self.machine.items()]
        lines.append(
            f"\nmicroseconds for bytes{'row':>5}" + "".join(f"{nbytes:>9}" for nbytes in shown)
        )
        for step, table in self.tables.items():
            for row in table:
                times = "".join(
                    f"{1e6 * self._seconds(step, nbytes, row):9.1f}" for nbytes in shown
                )
                lines.append(f"{step:22}{row if len(table) > 1 else '':>5}{times}")
        return "\n".join(lines)


def interpolate(table: Table, nbytes: int, row: int) -> float:
    """Seconds for `nbytes` in rows of `row` bytes; rows outside the table count as the nearest in
    it.
    """
    rows = list(table)
    row = min(max(row, rows[0]), rows[-1])
    above = bisect_left(rows, row)
    if rows[above] == row:
        return _along(table[row], nbytes)
    low, high = rows[above - 1], rows[above]
    part = math.log(row / low) / math.log(high / low)
    return _along(table[low], nbytes) ** (1 - part) * _along(table[high], nbytes) ** part


def _along(points: list[tuple[int, float]], nbytes: int) -> float:
    (smallest, least), (largest, most) = points[0], points[-1]
    if nbytes <= smallest:
        return least
    if nbytes >= largest:
        return most * nbytes / largest if largest else most
    above = next(i for i, (n, _) in enumerate(points) if n > nbytes)
    (n0, t0), (n1, t1) = points[above - 1], points[above]
    part = math.log(nbytes / n0) / math.log(n1 / n0)
    return min(max(t0 ** (1 - part) * t1**part, t0), t1)  # rounding may not make more bytes faster


# -- what was measured, and its file
# ----------------------------------------------------------------------------------


def _node(comm: MPI.Intracomm) -> int:
    """The lowest rank of this node."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    lowest = node.bcast(comm.rank)
    node.Free()
    return lowest


def _machine(nodes: Sequence[int]) -> dict[str, str | int]:
    pairs = [_place(same) for same in (True, False) if _partner(nodes, same) is not None]
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "host": platform.node(),
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "mpi": store.mpi_library(),
        "pairs": " and ".join(pairs) or "one rank alone",
        "version": VERSION,
    }


def _partner(nodes: Sequence[int], same_node: bool) -> int | None:
    """The rank that rank 0 is measured with."""
    return next(
        (rank for rank, node in enumerate(nodes) if rank and (node == nodes[0]) == same_node), None
    )


def _place(same_node: bool) -> str:
    return "same node" if same_node else "other node"


def _tables(found: Any) -> dict[str, Table] | None:
    """The tables of a file; None where it is damaged."""
    try:
        tables = {
            step: {
                int(row): [(int(n), float(t)) for n, t in points] for row, points in table.items()
            }
            for step, table in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return None
    numbers = [
        number
        for table in tables.values()
        for points in table.values()
        for pair in points
        for number in pair
    ]
    whole = "pack" in tables and all(
        points for table in tables.values() for points in table.values()
    )
    return tables if whole and all(0 <= number < math.inf for number in numbers) else None


# -- measuring
# ---------------------------------------------------------------------------------------------------------


def _measure(comm: MPI.Intracomm, nodes: Sequence[int]) -> dict[str, Table]:
    """Rank 0 alone, then with a rank of its node, then with one of another; the other ranks sleep
    (collective).
    """
    native.load("hpckit.comm.moves")  # compile before the clock runs
    tables = probe.copies() if comm.rank == 0 else {}
    for same_node in (True, False):
        partner = _partner(nodes, same_node)
        pair = MPI.Intracomm(
            comm.Split(0 if partner and comm.rank in (0, partner) else MPI.UNDEFINED, comm.rank)
        )
        if pair != MPI.COMM_NULL:
            tables |= {
                f"{step}, {_place(same_node)}": table
                for step, table in probe.messages(pair).items()
            }
            tables |= probe.window(pair) if same_node else {}
            pair.Free()
        meet(comm)
    return comm.bcast(tables)
