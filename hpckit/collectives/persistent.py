"""Persistent operations: a collective that is bound to its arrays, and called many times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.channel import Channel
from hpckit.collectives.reduction import Reduction
from hpckit.comm.device import HOST
from hpckit.errors import HpckitError


class Persistent(Protocol):
    """An operation bound to its arrays: a call is `start` and `wait`, with `poll` between them."""

    def start(self) -> None: ...

    def poll(self) -> bool:
        """Progress without blocking; whether it is complete."""
        ...

    def wait(self) -> None: ...

    def __call__(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Operands:
    """What is reduced, how, and among whom: all that an algorithm is bound to.

    source, target : (n,) contiguous, same dtype, the plan's owner's; one array where in place. On
        a device what algorithms of its kind take, else host memory
    op : it takes operands in rank order where it does not commute
    deadline : seconds to wait for other ranks before an `HpckitError` names them; None: for ever
    group : numbers that stay together in every cut
    columns : length of a row of the array in memory, for what looks at it as a matrix
    place, stream : where the plan's arrays are, and on which stream of a device they are used
    """

    channel: Channel
    source: np.ndarray
    target: np.ndarray
    op: MPI.Op
    deadline: float | None = None
    group: int = 1
    columns: int = 0
    place: Any = HOST
    stream: int = 0

    @property
    def in_place(self) -> bool:
        """Whether the result replaces what it is made of."""
        return native.address(self.source) == native.address(self.target)

    @property
    def groups(self) -> int:
        """How many there are: what may be cut."""
        return self.target.size // self.group


class Work:
    """Work on this rank alone: done when it starts."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def start(self) -> None:
        self._work()

    def poll(self) -> bool:
        return True

    def wait(self) -> None: ...

    __call__ = start


class Stages:
    """Operations that follow each other."""

    def __init__(self, stages: Sequence[Persistent]) -> None:
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


def alone(operands: Operands) -> Work:
    """What a reduction does on one rank."""
    source, target = operands.source, operands.target
    finish = Reduction(operands.op, target.dtype).finish(target)

    def copied() -> None:
        np.copyto(target, source)
        if finish:
            finish()

    return Work((finish or _nothing) if operands.in_place else copied)


def _nothing() -> None:
    pass


def in_time(poll: Callable[[], bool], deadline: float) -> bool:
    """Poll, yielding the core, until it is complete; whether `deadline` seconds were enough."""
    limit = time.monotonic() + deadline
    while not poll():
        if time.monotonic() > limit:
            return False
        os.sched_yield()
    return True


def while_it_lives(op: MPI.Op | None, operation: Persistent) -> Persistent:
    """The same, which says so where the user has freed the operation `op` meanwhile."""
    if not op or op.is_predefined:
        return operation
    return _OfUser(op, operation)


class _OfUser:
    """Checks before each call, for a handle that was freed may be another operation's by now."""

    def __init__(self, op: MPI.Op, operation: Persistent) -> None:
        self._op = op
        self._operation = operation

    def start(self) -> None:
        self._check()
        self._operation.start()

    def poll(self) -> bool:
        self._check()
        return self._operation.poll()

    def wait(self) -> None:
        self._check()
        self._operation.wait()

    def __call__(self) -> None:
        self._check()
        self._operation()

    def _check(self) -> None:
        if self._op == MPI.OP_NULL:
            raise HpckitError(
                "the operation of this plan was freed: free it after the plan's last call"
            )
