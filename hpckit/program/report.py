"""What programs report: rounded figures, and how fast this machine's memory is."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

# Bytes of a rank that does nothing, as Linux counts them: Python, NumPy, MPI and its shared memory.
PROCESS = 85e6
COPIED = 256 << 20  # bytes that all ranks together copy at most to see how fast memory is


def rounded(value: float) -> float:
    """Four significant digits: no more is known of times, or of interest in a report."""
    return float(f"{value:.4g}")


def copy_rate(comm: MPI.Intracomm, nbytes: int) -> float:
    """Bytes per second, read and written, when all ranks copy `nbytes` at once (collective).

    It is the limit of a sweep. Ranks that share a core take turns.
    """
    from mpi4py import MPI

    from hpckit.machine.node_memory import node_ranks

    source = np.ones(max(8192, min(nbytes, COPIED // comm.size)) // 8)
    target, best = np.empty_like(source), math.inf
    with node_ranks(comm) as node:
        share = min(1.0, (os.cpu_count() or 1) / node.size)
    for _ in range(6):
        comm.Barrier()
        begin = time.perf_counter()
        np.copyto(target, source)
        best = min(best, comm.allreduce(time.perf_counter() - begin, MPI.MAX))
    return 2 * source.nbytes * comm.allreduce(share) / best
