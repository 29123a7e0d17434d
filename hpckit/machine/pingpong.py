"""Messages there and back: how long one takes, and how far apart two clocks are."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

_TRIPS = 10  # there and back, from which a clock's offset is taken


def one_way(comm: MPI.Intracomm, peer: int, nbytes: int, first: bool, repeats: int) -> float:
    """Seconds of a message, half of the shortest of several trips; both ranks call it.

    first : whether this rank sends first; the other one does not

    ::

        if comm.rank in (0, 1):
            latency = one_way(comm, 1 - comm.rank, 8, first=comm.rank == 0, repeats=10)
    """
    buffer = np.zeros(nbytes, np.uint8)
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        for sends in (first, not first):
            if sends:
                comm.Send(buffer, peer)
            else:
                comm.Recv(buffer, peer)
        best = min(best, (time.perf_counter() - begin) / 2)
    return best


def clock_offset(comm: MPI.Intracomm) -> float:
    """Seconds from this rank's `time.monotonic` to rank 0's (collective).

    All ranks of a machine read the same clock, so the first of each asks for the others, and on
    rank 0's machine nobody. Both ways of the fastest trip are taken for equally long, which may
    be wrong by half of it. ::

        began = time.monotonic() + clock_offset(comm)  # comparable among ranks
    """
    boot = Path("/proc/sys/kernel/random/boot_id")  # the same wherever the clock is the same
    machines = comm.allgather(boot.read_text() if boot.exists() else comm.rank)
    mine = machines.index(machines[comm.rank])
    offset = 0.0
    for rank in sorted(set(map(machines.index, machines)) - {0}):
        if comm.rank == 0:
            _answer(comm, rank)
        elif comm.rank == rank:
            offset = min(_ask(comm) for _ in range(_TRIPS))[1]
    return comm.allgather(offset)[mine]


def _answer(comm: MPI.Intracomm, rank: int) -> None:
    """Tell it this clock's time whenever it asks."""
    now = np.zeros(1)
    for _ in range(_TRIPS):
        comm.Recv(now, rank)
        now[0] = time.monotonic()
        comm.Send(now, rank)


def _ask(comm: MPI.Intracomm) -> tuple[float, float]:
    """Seconds there and back, and the offset."""
    theirs = np.zeros(1)
    begin = time.monotonic()
    comm.Send(theirs, 0)
    comm.Recv(theirs, 0)
    end = time.monotonic()
    return end - begin, theirs[0] - (begin + end) / 2
