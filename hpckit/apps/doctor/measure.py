"""How fast memory and messages are here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import meet
from hpckit.machine.pingpong import one_way
from hpckit.trace import span

if TYPE_CHECKING:
    from mpi4py import MPI

COPIES = 10
MIB = 2**20


def measure(comm: MPI.Intracomm, nbytes: int) -> dict[str, Any]:
    """Copies by one rank and by all at once; messages of ranks 0 and the last (collective)."""
    source = np.ones(nbytes, np.uint8)
    target = np.empty(nbytes, np.uint8)
    last = comm.size - 1
    target[:] = source

    def copy() -> None:
        for _ in range(COPIES):
            np.copyto(target, source)

    gigabytes = 2e-9 * nbytes * COPIES  # each byte is read and written
    with span("copy, one rank"):
        alone = _seconds(copy) if comm.rank == 0 else math.inf
        meet(comm)
    with span("copy, all ranks"):
        everywhere = _seconds(lambda: (copy(), meet(comm)))
    results = {
        "copy by one rank, GB/s (read + written)": gigabytes / alone,
        "copy by all ranks, GB/s (read + written)": comm.size * gigabytes / everywhere,
    }
    if last > 0:
        with span("messages"):
            latency, transfer = _message(comm, 8), _message(comm, MIB)
            meet(comm)
        results[f"latency between ranks 0 and {last}, us"] = latency * 1e6
        results[f"messages between ranks 0 and {last}, GB/s"] = MIB / transfer / 1e9
    return results


def _message(comm: MPI.Intracomm, nbytes: int) -> float:
    """Seconds one way between the first and the last rank, which alone know."""
    last = comm.size - 1
    if comm.rank not in (0, last):
        return math.inf
    return one_way(comm, last - comm.rank, nbytes, comm.rank == 0, repeats=100)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
