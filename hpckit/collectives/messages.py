"""Runs schedules: persistent requests for messages, reductions on this rank for the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import LIMIT
from hpckit.collectives.persistent import Operands, in_time
from hpckit.collectives.reduction import Reduction, datatype, grouped
from hpckit.collectives.schedule import Copy, Fold, Message, Piece, Schedule, scratch_size
from hpckit.errors import HpckitError, ranges
from hpckit.machine.lifetime import free_with, never_free

_PARTS = 32  # short messages instead of one: for longer ones a handshake does not matter


class Messages:
    """A schedule bound to an array; the source is copied there first unless it is the same memory.

    The schedule counts groups of numbers. A round that waits longer for its messages than the
    operands' deadline raises `HpckitError`, which names the ranks that did not come.
    """

    def __init__(self, operands: Operands, schedule: Schedule) -> None:
        channel, op, group = operands.channel, operands.op, operands.group
        source, target = operands.source, operands.target
        self._source = grouped(source, group)
        self._target = grouped(target, group)
        self._copies = not np.shares_memory(source, target)
        self._deadline = operands.deadline
        self._channel = channel  # whose communicator must not be freed before this
        self._scratch = np.empty(scratch_size(schedule), self._target.dtype)
        self._type = datatype(target.dtype.char, group)
        self._eager = channel.eager // self._target.itemsize
        self._reduction = Reduction(op, target.dtype, group)
        receive, send, tag = channel.comm.Recv_init, channel.comm.Send_init, channel.tag()
        self._at = len(schedule)  # the round that is under way
        self._requests: list[list[MPI.Prequest]] = []  # of each round
        self._peers: list[list[int]] = []
        self._work: list[list[Callable[[], object]]] = []
        for step in schedule:
            receives, sends = self._cut(step.receives), self._cut(step.sends)
            self._requests.append(
                [receive(self._buffer(m.piece), m.peer, tag) for m in receives]
                + [send(self._buffer(m.piece), m.peer, tag) for m in sends]
            )
            self._peers.append([m.peer for m in (*receives, *sends)])
            self._work.append([call for task in step.work for call in self._calls(task)])
        every = [request for requests in self._requests for request in requests]
        free_with(self, *every, keep=(source, target, self._scratch))

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

    def __del__(self) -> None:
        if getattr(self, "_at", 0) < len(getattr(self, "_requests", ())):  # or half made
            never_free(self._channel.comm)

    def _send(self) -> None:
        if self._at < len(self._requests):
            MPI.Prequest.Startall(self._requests[self._at])

    def _finish(self) -> None:
        for call in self._work[self._at]:
            call()
        self._at += 1
        self._send()

    def _await(self) -> None:
        requests = self._requests[self._at]
        if self._deadline is None:
            MPI.Prequest.Waitall(requests)
        elif not in_time(partial(MPI.Prequest.Testall, requests), self._deadline):
            pairs = zip(self._peers[self._at], requests, strict=True)
            late = sorted({peer for peer, request in pairs if not request.Test()})
            raise HpckitError(
                f"round {self._at + 1} of {len(self._requests)} of a collective waited "
                f"{self._deadline} s for rank{'s' * (len(late) > 1)} {ranges(late)}: dead, late, "
                "or in another call"
            )

    def _cut(self, messages: Sequence[Message]) -> list[Message]:
        """As they travel: short enough to need no handshake, unless the piece is long."""
        return [
            Message(m.peer, part) for m in messages for part in _parts(m.piece, self._most(m.piece))
        ]

    def _most(self, piece: Piece) -> int:
        return self._eager if 0 < piece.stop - piece.start <= _PARTS * self._eager else LIMIT

    def _calls(self, task: Fold | Copy) -> list[Callable[[], object]]:
        """What does this work."""
        if isinstance(task, Copy):
            return [partial(np.copyto, self._view(task.into), self._view(task.piece))]
        calls = []
        pairs = zip(_parts(task.piece, LIMIT), _parts(task.into, LIMIT), strict=True)
        for piece, into in ((self._view(a), self._view(b)) for a, b in pairs):
            left, right = (into, piece) if task.after else (piece, into)
            calls.append(self._reduction.fold(left, right, into))
        return calls

    def _view(self, piece: Piece) -> np.ndarray:
        return (self._scratch if piece.scratch else self._target)[piece.start : piece.stop]

    def _buffer(self, piece: Piece) -> list:
        return [self._view(piece), piece.stop - piece.start, self._type]


def _parts(piece: Piece, most: int) -> list[Piece]:
    """Parts of so many elements at most."""
    return [
        piece._replace(start=start, stop=min(start + most, piece.stop))
        for start in range(piece.start, piece.stop, most)
    ]
