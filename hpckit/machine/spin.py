"""Waiting for flags in shared memory and for messages: how long to poll, and what then.

A rank that only polls can wait for ever: a message that it has begun may need it to call MPI, and
the rank that it waits for may need that message, or have died. So kernels poll a while, and then
let `Lookout.look` have a turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, HpckitError, ranges
from hpckit.machine.lifetime import free_with, never_free
from hpckit.machine.node_memory import NodeMemory

_INTERVAL = 1.0  # seconds from one look at the processes to the next
_FEW = 64  # ranks that tell each other directly that they are here


def check_deadline(deadline: Any) -> None:
    """`ConfigError` unless it is None or a number of seconds."""
    if deadline is not None and not (is_number(deadline) and deadline > 0):
        raise ConfigError(
            f"deadline={deadline!r} must be a number of seconds above 0, or None to wait for ever"
        )


def is_number(value: Any) -> bool:
    """Whether it is a real number, and neither a truth value nor NaN."""
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and value == value
    )


def crowded(node: MPI.Intracomm) -> bool:
    """Whether the ranks of this node share cores (collective on the node)."""
    cores = set().union(*node.allgather(os.sched_getaffinity(0)))
    return len(cores) < node.size


def poll_limits(node: MPI.Intracomm) -> tuple[int, int]:
    """(polls before giving up, polls before yielding the core) here (collective on the node).

    A rank without a core of its own yields at once; the others after some 10 us, for the sake of
    other programs.
    """
    eager = 20 if crowded(node) else 400
    return eager + 1000, eager


class Lookout:
    """Looks after a rank that waits for others of its node (made collectively there).

    comm : whose messages make progress
    ranks : those waited for, numbered as in `node.ranks`
    doing : names the operation in errors, as in "a halo exchange"
    deadline : seconds that may pass between `begin` and the last `look`
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        node: NodeMemory,
        ranks: Iterable[int],
        doing: str,
        deadline: float | None = None,
    ) -> None:
        processes = dict(zip(node.ranks, node.comm.allgather(os.getpid()), strict=True))
        self._processes = {rank: processes[rank] for rank in ranks if _alive(processes[rank])}
        self._comm = comm
        self._doing = doing
        self._deadline = deadline
        self._began = self._looked = time.monotonic()

    def begin(self) -> None:
        """The deadline counts from now."""
        self._began = time.monotonic()

    def look(self, late: int | Sequence[int] | None = None) -> None:
        """Let MPI progress; `HpckitError` where a process died or `late` ones miss the deadline."""
        self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
        now = time.monotonic()
        if now > self._looked + _INTERVAL:
            self._looked = now
            for rank, process in self._processes.items():
                if not _alive(process):
                    raise HpckitError(
                        f"rank {rank} (process {process} on this node) died during {self._doing}"
                    )
        if self._deadline is not None and now > self._began + self._deadline:
            raise is_late(
                [late] if isinstance(late, int) else late or [], self._deadline, self._doing
            )


def is_late(ranks: Sequence[int], deadline: float, doing: str) -> HpckitError:
    """The error that says so."""
    several = len(ranks) > 1
    return HpckitError(
        f"rank{'s' * several} {ranges(ranks)} {'are' if several else 'is'} late: waited "
        f"{deadline:g} s for"
        f" {'them' if several else 'it'} in {doing}; look what "
        f"{'they do' if several else 'it does'},"
        " or allow a longer deadline"
    )


def complete(requests: Sequence[MPI.Request]) -> bool:
    """Whether all are. One by one: MPICH 5.0.2's Testall fails on persistent collectives."""
    return all([request.Test() for request in requests])  # noqa: C419  (each gets its turn)


def waiter(
    ranks: Sequence[int | None], deadline: float | None, doing: str
) -> Callable[[Sequence[MPI.Request]], object]:
    """What completes persistent requests: MPI, or what raises `HpckitError` at the deadline.

    ranks : whose message each of the requests is; None: nobody's in particular
    """
    if deadline is None:
        return MPI.Request.Waitall

    def wait(requests: Sequence[MPI.Request]) -> None:
        limit = time.monotonic() + deadline
        while not complete(requests):
            if time.monotonic() > limit:
                pending = [
                    rank
                    for rank, request in zip(ranks, requests, strict=True)
                    if not request.Test()
                ]
                raise is_late(
                    sorted({rank for rank in pending if rank is not None}), deadline, doing
                )
            os.sched_yield()

    return wait


class Meeting:
    """All ranks wait for each other, by empty messages: who misses the deadline is named.

    tag : of its own, so that those who meet in another order do not mix. After an error it goes on
        where it was.
    """

    def __init__(self, comm: MPI.Intracomm, tag: int, deadline: float | None, doing: str) -> None:
        self._comm = comm
        rank = comm.rank
        size = comm.size
        steps = [2**i for i in range((size - 1).bit_length())]
        pairs = [([(rank - step) % size], [(rank + step) % size]) for step in steps]
        if size <= _FEW:  # else a rank that waits for another one could be named in its place
            others = [other for other in range(size) if other != rank]
            pairs = [(others, others)] * (size > 1)
        self._rounds = [
            (
                [
                    *(comm.Recv_init([None, 0, MPI.BYTE], source, tag) for source in sources),
                    *(comm.Send_init([None, 0, MPI.BYTE], to, tag) for to in targets),
                ],
                waiter([*sources, *targets], deadline, doing),
            )
            for sources, targets in pairs
        ]
        free_with(self, *(request for requests, _ in self._rounds for request in requests))
        self._at = 0  # the round that comes next
        self._begun = False

    def __call__(self) -> None:
        while self._at < len(self._rounds):
            requests, wait = self._rounds[self._at]
            if not self._begun:
                MPI.Prequest.Startall(requests)
                self._begun = True
            wait(requests)
            self._at, self._begun = self._at + 1, False
        self._at = 0

    def __del__(self) -> None:
        if getattr(self, "_at", 0) or getattr(self, "_begun", False):
            never_free(self._comm)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
