"""What programs report: rounded figures, and how fast this machine's memory is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.comm.device import HOST, Device, Host

if TYPE_CHECKING:
    from mpi4py import MPI

# Bytes of a rank that does nothing, as Linux counts them: Python, NumPy, MPI and its shared memory.
PROCESS = 85e6
COPIED = 256 << 20  # bytes that all ranks together copy at most to see how fast memory is


def rounded(value: float) -> float:
    """Four significant digits: no more is known of times, or of interest in a report."""
    return float(f"{value:.4g}")


def copy_rate(comm: MPI.Intracomm, nbytes: int, place: Host | Device = HOST) -> float:
    """Bytes per second, read and written, when all ranks copy `nbytes` at once (collective).

    It is the limit of a sweep there. Ranks that share a core take turns.
    """
    from mpi4py import MPI

    from hpckit.machine.node_memory import node_ranks

    nbytes = max(8192, min(nbytes, COPIED // comm.size))
    copy, best = _COPIES[place.kind](place, nbytes), math.inf
    with node_ranks(comm) as node:
        share = min(1.0, (os.cpu_count() or 1) / node.size)
    for _ in range(6):
        comm.Barrier()
        begin = time.perf_counter()
        copy()
        best = min(best, comm.allreduce(time.perf_counter() - begin, MPI.MAX))
    return 2 * nbytes * comm.allreduce(share) / best


def _on_host(place: Host, nbytes: int) -> Callable[[], object]:
    source = np.ones(nbytes, np.uint8)
    return partial(np.copyto, np.empty_like(source), source)


def _on_device(place: Device, nbytes: int) -> Callable[[], object]:
    source, target = place.allocate(nbytes), place.allocate(nbytes)

    def copy() -> None:
        place.copy(target.address, source.address, nbytes, place.default_stream)
        place.synchronize(place.default_stream)

    return copy


_COPIES: dict[str, Any] = {"host": _on_host, "device": _on_device}  # what copies once, by kind
