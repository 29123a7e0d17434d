"""Waiting for flags in shared memory: how long to poll, and what to do when that takes long.

A rank that only polls can wait for ever: a message that it has begun may need it to call MPI, and the rank that it
waits for may need that message, or have died. So kernels poll a while, and then let `Watch.look` have a turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from mpi4py import MPI

from hpckit.comm.shared import NodeMemory
from hpckit.errors import HpckitError

_INTERVAL = 1.0  # seconds from one look at the processes to the next


def crowded(node: MPI.Intracomm) -> bool:
    """Whether the ranks of this node share cores (collective on the node)."""
    cores = set().union(*node.allgather(os.sched_getaffinity(0)))
    return len(cores) < node.size


def patience(node: MPI.Intracomm) -> tuple[int, int]:
    """(polls before giving up, polls before yielding the core), for the ranks of this node (collective on the node).

    A rank without a core of its own yields at once; the others after some 10 us, for the sake of other programs.
    """
    eager = 20 if crowded(node) else 400
    return eager + 1000, eager


class Watch:
    """Looks after a rank that waits for others of its node (constructing is collective on the node).

    comm : whose messages make progress
    ranks : those waited for, numbered as in `node.ranks`
    doing : names the operation in errors, as in "a halo exchange"
    deadline : seconds that may pass between `begin` and the last `look`
    """

    def __init__(
        self, comm: MPI.Intracomm, node: NodeMemory, ranks: Iterable[int], doing: str, deadline: float | None = None
    ) -> None:
        processes = dict(zip(node.ranks, node.comm.allgather(os.getpid()), strict=True))
        self._processes = {rank: processes[rank] for rank in ranks if _alive(processes[rank])}
        self._comm, self._doing, self._deadline = comm, doing, deadline
        self._began = self._looked = time.monotonic()

    def begin(self) -> None:
        """The deadline counts from now."""
        self._began = time.monotonic()

    def look(self, late: int | None = None) -> None:
        """Let MPI progress; raise `HpckitError` where a process died, or rank `late` is later than the deadline."""
        self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
        now = time.monotonic()
        if now > self._looked + _INTERVAL:
            self._looked = now
            for rank, process in self._processes.items():
                if not _alive(process):
                    raise HpckitError(f"rank {rank} (process {process} on this node) died during {self._doing}")
        if self._deadline is not None and now > self._began + self._deadline:
            raise HpckitError(
                f"rank {late} is late: waited {self._deadline:g} s for it in {self._doing};"
                " look what it does, or allow a longer deadline"
            )


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
