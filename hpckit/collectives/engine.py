"""Runs schedules: persistent requests for the messages, and reductions on this rank for the
work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.channel import LIMIT, Channel
from hpckit.collectives.reduction import Reduction, datatype, grouped
from hpckit.collectives.schedule import Copy, Fold, Message, Piece, Round, Schedule, scratch_size
from hpckit.errors import HpckitError, ranges
from hpckit.machine.lifetime import free_with

_PARTS = 32  # short messages instead of one: what is longer takes so long that a handshake does not matter


class Way(Protocol):
    """A collective bound to its buffers; a call is `start` and `wait`."""

    def start(self) -> None: ...

    def poll(self) -> bool:
        """Progress without blocking; whether it is complete."""
        ...

    def wait(self) -> None: ...

    def __call__(self) -> None: ...


def in_time(poll: Callable[[], bool], deadline: float) -> bool:
    """Poll, yielding the core in between, until it is complete; whether that took no longer than
    `deadline` seconds.
    """
    limit = time.monotonic() + deadline
    while not poll():
        if time.monotonic() > limit:
            return False
        os.sched_yield()
    return True


def while_it_lives(op: MPI.Op, way: Way) -> Way:
    """The way, which says so where the user has freed the operation meanwhile."""
    return way if op == MPI.OP_NULL or op.is_predefined else _OfUser(op, way)


class _OfUser:
    def __init__(self, op: MPI.Op, way: Way) -> None:
        self._op, self._way = op, way

    def start(self) -> None:
        self._check()
        self._way.start()

    def poll(self) -> bool:
        self._check()
        return self._way.poll()

    def wait(self) -> None:
        self._check()
        self._way.wait()

    def __call__(self) -> None:
        self._check()
        self._way()

    def _check(self) -> None:
        if self._op == MPI.OP_NULL:
            raise HpckitError(
                "the operation of this plan was freed: free it after the plan's last call"
            )


class Work:
    """Work on this rank alone, as a way: done when it starts."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def start(self) -> None:
        self._work()

    def poll(self) -> bool:
        return True

    def wait(self) -> None: ...

    __call__ = start


class Stages:
    """Ways that follow each other."""

    def __init__(self, stages: Sequence[Way]) -> None:
        self._stages = stages
        self._at = len(stages)

    def start(self) -> None:
        self._at = 0
        self._stages[0].start()

    def poll(self) -> bool:
        while self._at < len(self._stages):
            if not self._stages[self._at].poll():
                return False
            self._next()
        return True

    def wait(self) -> None:
        while self._at < len(self._stages):
            self._stages[self._at].wait()
            self._next()

    def __call__(self) -> None:
        for stage in self._stages:
            stage()

    def _next(self) -> None:
        self._at += 1
        if self._at < len(self._stages):
            self._stages[self._at].start()


def alone(source: np.ndarray, target: np.ndarray, op: MPI.Op) -> Work:
    """What a reduction does on one rank."""
    finish = Reduction(op, target.dtype).finish(target)

    def work() -> None:
        np.copyto(target, source)
        if finish:
            finish()

    in_place = native.address(source) == native.address(target)
    return Work((finish or _nothing) if in_place else work)


def _nothing() -> None:
    pass


class Messages:
    """A schedule bound to an array; `source` is copied there first unless it is the same memory.

    target : (n,) contiguous, any dtype that MPI knows
    group : numbers that stay together; the schedule counts groups
    deadline : seconds that one round may wait for its messages; `HpckitError` names the ranks that
        did not come
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        schedule: Schedule,
        deadline: float | None = None,
        group: int = 1,
    ) -> None:
        self._source, self._target, self._deadline = (
            grouped(source, group),
            grouped(target, group),
            deadline,
        )
        self._channel = channel  # whose communicator must not be freed before this
        self._scratch = np.empty(scratch_size(schedule), self._target.dtype)
        self._type = datatype(target.dtype.char, group)
        self._eager = channel.eager // self._target.itemsize
        self._reduction = Reduction(op, target.dtype, group)
        tag = channel.tag()
        rounds = [
            step._replace(receives=self._cut(step.receives), sends=self._cut(step.sends))
            for step in schedule
        ]
        self._peers = [[m.peer for m in (*step.receives, *step.sends)] for step in rounds]
        self._requests = [self._persistent(channel.comm, step, tag) for step in rounds]
        self._work = [
            [call for task in step.work for call in self._tasks(task)] for step in schedule
        ]
        self._copies = not np.shares_memory(source, target)
        self._at = len(schedule)
        requests = [request for requests in self._requests for request in requests]
        free_with(self, *requests, keep=(source, target, self._scratch))

    def start(self) -> None:
        if self._copies:
            np.copyto(self._target, self._source)
        self._at = 0
        self._send()

    def poll(self) -> bool:
        while self._at < len(self._requests):
            if not MPI.Prequest.Testall(self._requests[self._at]):
                return False
            self._finish()
        return True

    def wait(self) -> None:
        while self._at < len(self._requests):
            self._await()
            self._finish()

    def __call__(self) -> None:
        self.start()
        self.wait()

    def _send(self) -> None:
        if self._at < len(self._requests):
            MPI.Prequest.Startall(self._requests[self._at])

    def _finish(self) -> None:
        for task in self._work[self._at]:
            task()
        self._at += 1
        self._send()

    def _await(self) -> None:
        requests = self._requests[self._at]
        if self._deadline is None:
            MPI.Prequest.Waitall(requests)
        elif not in_time(partial(MPI.Prequest.Testall, requests), self._deadline):
            late = sorted(
                {
                    peer
                    for peer, r in zip(self._peers[self._at], requests, strict=True)
                    if not r.Test()
                }
            )
            raise HpckitError(
                f"round {self._at + 1} of {len(self._requests)} of a collective waited "
                f"{self._deadline} s for"
                f" rank{'s' * (len(late) > 1)} {ranges(late)}: dead, late, or in another call"
            )

    def _persistent(self, comm: MPI.Intracomm, step: Round, tag: int) -> list[MPI.Prequest]:
        receives = [comm.Recv_init(self._buffer(m.piece), m.peer, tag) for m in step.receives]
        return receives + [comm.Send_init(self._buffer(m.piece), m.peer, tag) for m in step.sends]

    def _cut(self, messages: Sequence[Message]) -> list[Message]:
        """As they travel: short enough to need no handshake, unless the piece is long."""
        return [
            Message(m.peer, part) for m in messages for part in _parts(m.piece, self._most(m.piece))
        ]

    def _most(self, piece: Piece) -> int:
        return self._eager if 0 < piece.stop - piece.start <= _PARTS * self._eager else LIMIT

    def _tasks(self, task: Fold | Copy) -> list[Callable[[], object]]:
        if isinstance(task, Copy):
            return [partial(np.copyto, self._view(task.into), self._view(task.piece))]
        pairs = zip(_parts(task.piece, LIMIT), _parts(task.into, LIMIT), strict=True)
        views = [(self._view(piece), self._view(into)) for piece, into in pairs]
        fold = self._reduction.fold
        return [
            fold(into, piece, into) if task.after else fold(piece, into, into)
            for piece, into in views
        ]

    def _view(self, piece: Piece) -> np.ndarray:
        return (self._scratch if piece.scratch else self._target)[piece.start : piece.stop]

    def _buffer(self, piece: Piece) -> list:
        return [self._view(piece), piece.stop - piece.start, self._type]


def _parts(piece: Piece, most: int) -> list[Piece]:
    """Parts of so many elements at most."""
    return [
        piece._replace(start=a, stop=min(a + most, piece.stop))
        for a in range(piece.start, piece.stop, most)
    ]
