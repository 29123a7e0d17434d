"""A flight recorder of collectives: who is late, who calls something else, and where the time goes.

The last calls of each rank are kept in memory, which costs less than a microsecond per call. A
collective that takes long is reported once, with what every rank does at that moment (the idea of
C4, and of NCCL's flight recorder). With `check`, ranks compare their calls before they make them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from mpi4py import MPI

from hpckit.collectives.arguments import is_whole
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Persistent
from hpckit.collectives.recording import Recording, Signature
from hpckit.errors import ConfigError, same, together
from hpckit.machine.lifetime import outlive
from hpckit.machine.spin import is_number
from hpckit.watch.calls import (
    KINDS,
    NON_BLOCKING,
    NOTHING,
    Call,
    call,
    caller,
    reader,
    where,
)
from hpckit.watch.monitor import Line

_clock = time.monotonic
_NEVER = float("inf")
_PINGS = 5  # messages there and back from which a clock's offset is taken
# A record: _LEFT is minus the time since when the rank is blocked, 0 while it is not, then the time
# when it left; minus infinity while calls are compared, because then the monitor tells who is late.
_KIND, _SIGNATURE, _CODE, _AT, _NUMBER, _AGREED, _ENTERED, _LEFT = range(8)
_COMPLETE: list = [*[None] * _LEFT, 1.0]  # before there is any


class Watched(MPI.Intracomm):
    """The communicator that a `Watch` gives: the same one, with collectives that are recorded."""

    watch: Watch | None = None


class Watch:
    """Records the collectives of a communicator and of plans made with it (making and entering it
    are collective).

    patience : seconds that a collective may take; then who is late is logged, once, where it is
        noticed first
    check : compare the ranks' calls first: a different kind, root, operation, dtype or length, or a
        rank that does not come within `patience`, raises the same `HpckitError` on all ranks that
        are there, and, when they come, on the others. Every collective waits for all ranks then,
        non-blocking ones in `wait`, and so does leaving the block: this is for finding errors
    keep : calls that are remembered

    ::

        with Watch(comm) as comm:
            ...
            print(comm.watch.report())

    A non-blocking collective ends, and raises, in `Wait` or `Test` of its own request; one that
    `Waitall` and its like complete stays open. Persistent collectives pass unwatched. Between nodes
    it needs TCP.
    """

    def __init__(
        self, comm: MPI.Intracomm, *, patience: float = 60.0, check: bool = False, keep: int = 1024
    ) -> None:
        with together(comm):
            if not (is_number(patience) and is_whole(keep) and patience > 0 and keep > 0):
                raise ConfigError(
                    f"patience={patience!r} s and keep={keep!r} calls must be above 0, and keep a "
                    "whole number"
                )
        same(comm, "patience, check and keep of a Watch", ("watch", patience, bool(check), keep))
        channel = Channel.of(comm)
        self._comm, self._private, self._patience, self._check = (
            MPI.Intracomm(comm),
            channel.comm,
            patience,
            check,
        )
        self._offset = _clock_offset(channel)
        self._ring: list[list] = [[]] * keep
        self._waits: list = (
            _COMPLETE  # what was last waited for of those that did not block when they began
        )
        self._entered = self._plans = 0
        self._files: set[str] = set()  # known to be the user's
        self._line: Line | None = None

    def __enter__(self) -> Watched:
        self._thread = threading.get_ident()
        self._line = Line(self._private, self._patience, self._where, self._late)
        self._watched = Watched(self._comm)
        self._watched.watch = self
        for kind in KINDS:
            setattr(
                self._watched,
                kind,
                self._posted(kind) if kind in NON_BLOCKING else self._recorded(kind),
            )
        return self._watched

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        """The communicator goes on as an ordinary one."""
        for name in ("watch", *KINDS):
            delattr(self._watched, name)
        line = self._line
        assert line is not None  # __enter__ made it
        try:
            if error is None and self._check:
                self.left(self.enter("end of the watch", NOTHING, sys._getframe(1)))
        finally:
            self._line = None
            line.close(
                "has left the watch" + (f" by {type(error).__name__}: {error}" if error else "")
            )

    def enter(self, kind: str, signature: Signature, frame: Any, wait: bool = True) -> list:
        """Record that a collective begins; wait : it blocks, and with `check` all ranks must
        come.
        """
        code = frame.f_code
        if code.co_filename not in self._files:
            frame = caller(frame)
            code = frame.f_code
            self._files.add(code.co_filename)
        number, now = self._entered, _clock()
        record = [
            kind,
            signature,
            code,
            frame.f_lasti,
            number + 1,
            not self._check,
            now,
            -now if wait else 0.0,
        ]
        self._ring[number % len(self._ring)] = record
        self._entered = number + 1
        if self._check and self._line:
            self._line.call(number + 1, _call(record))
            if wait:
                self.compare(record)
        return record

    def compare(self, record: list, wait: bool = True) -> bool:
        """Whether all ranks are known to make this collective, where it is compared; `HpckitError`
        if they do not.

        wait : until that is known; the rank blocks then
        """
        if record[_LEFT] > 0:
            return True
        line = None if record[_AGREED] else self._line
        if wait:
            self._waits = record
        if line:
            record[_LEFT] = -_NEVER if wait else 0.0
            try:
                record[_AGREED] = line.verdict(record[_NUMBER], wait)
            finally:
                record[_LEFT] = 0.0
        if wait:
            record[_LEFT] = -_clock()
        return record[_AGREED] or not line

    def left(self, record: list) -> None:
        """Record that it is complete."""
        if record[_LEFT] <= 0:
            record[_LEFT] = _clock()

    def plan(self, kind: str, signature: Signature) -> Recording:
        """What makes the operations of a plan's chunks recorded; which of them comes first may
        differ by rank.
        """
        self._plans += 1
        name = f"{kind} plan {self._plans}"
        return lambda operations: [_Recorded(self, each, name, signature) for each in operations]

    def report(self) -> str:
        """A table of the calls that all ranks remember, a line per place in the program
        (collective).

        A call's time begins with its last arrival; the wait before that, with its first. GB/s count
        the array once.
        """
        records = self._ring[: self._entered] if self._entered < len(self._ring) else self._ring
        mine = {
            r[_NUMBER]: (_title(r), r[_ENTERED] + self._offset, r[_LEFT] + self._offset)
            for r in records
            if r[_LEFT] > 0
        }
        everyone = self._private.gather(mine)
        return self._private.bcast(None if everyone is None else _table(everyone))

    def _recorded(self, kind: str) -> Callable[..., Any]:
        """The collective of that name."""
        function, read, enter = getattr(self._comm, kind), reader(kind, self._comm.size), self.enter
        frame = sys._getframe

        def collective(*args: Any, **kwargs: Any) -> Any:
            record = enter(kind, read(args, kwargs), frame(1))
            try:
                return function(*args, **kwargs)
            finally:
                record[_LEFT] = _clock()

        return collective

    def _posted(self, kind: str) -> Callable[..., MPI.Request]:
        """The non-blocking collective of that name."""
        function, read = getattr(self._comm, kind), reader(kind, self._comm.size)

        def collective(*args: Any, **kwargs: Any) -> MPI.Request:
            record = self.enter(kind, read(args, kwargs), sys._getframe(1), wait=False)
            request = _Request(function(*args, **kwargs))
            request.watch, request.record, request.buffers = self, record, (args, kwargs)
            return request

        return collective

    def _where(self) -> tuple[int, str]:
        """How many collectives this rank has entered and what it does, for the monitor: another
        thread asks.
        """
        number = self._entered
        record = self._blocked()
        if record:
            return number, f"in its collective {record[_NUMBER]}, {_call(record)}"
        frame = caller(sys._current_frames()[self._thread])
        return (
            number,
            f"outside, after {number} collectives, at {where(frame.f_code, frame.f_lasti)}",
        )

    def _late(self) -> int | None:
        record = self._blocked()
        return record[_NUMBER] if record and self._patience - _clock() < record[_LEFT] < 0 else None

    def _blocked(self) -> list | None:
        """The collective that this rank waits for."""
        latest = self._ring[(self._entered - 1) % len(self._ring)]
        return next(
            (record for record in (latest, self._waits) if record and record[_LEFT] < 0), None
        )


class _Recorded:
    """An operation of a plan, whose calls are recorded."""

    def __init__(
        self, watch: Watch, operation: Persistent, kind: str, signature: Signature
    ) -> None:
        self._watch = watch
        self._operation = operation
        self._kind = kind
        self._signature = signature
        self._record = _COMPLETE

    def start(self) -> None:
        self._record = self._watch.enter(self._kind, self._signature, sys._getframe(1), wait=False)
        self._operation.start()

    def poll(self) -> bool:
        complete = self._watch.compare(self._record, wait=False) and self._operation.poll()
        if complete:
            self._watch.left(self._record)
        return complete

    def wait(self) -> None:
        self._watch.compare(self._record)
        try:
            self._operation.wait()
        finally:
            self._watch.left(self._record)

    def __call__(self) -> None:
        record = self._watch.enter(self._kind, self._signature, sys._getframe(1))
        try:
            self._operation()
        finally:
            self._watch.left(record)


class _Request(MPI.Request):
    """A request of a collective that is recorded. `Waitall` and its like complete it as any other,
    unrecorded.

    buffers : lives until it is complete; requests of mpi4py do not always hold on to what they
        write to
    """

    watch: Watch
    record: list
    buffers: object = None

    def Wait(self, status: MPI.Status | None = None) -> Literal[True]:
        self.watch.compare(self.record)
        try:
            return super().Wait(status)
        finally:
            self.watch.left(self.record)

    def Test(self, status: MPI.Status | None = None) -> bool:
        complete = self.watch.compare(self.record, wait=False) and super().Test(status)
        if complete:
            self.watch.left(self.record)
        return complete

    def wait(self, status: MPI.Status | None = None) -> None:
        self.Wait(status)

    def test(self, status: MPI.Status | None = None) -> tuple[bool, None]:
        return self.Test(status), None

    def __del__(
        self, null: MPI.Request = MPI.REQUEST_NULL, plain: type[MPI.Request] = MPI.Request
    ) -> None:
        if self != null:  # dropped before it is complete
            outlive([plain(self)], self.buffers)


def _call(record: list) -> Call:
    return call(record[_KIND], record[_SIGNATURE], where(record[_CODE], record[_AT]))


def _title(record: list) -> tuple[str, str, int]:
    """Kind, place in the program, and bytes."""
    count, dtype, _, _ = record[_SIGNATURE]
    return record[_KIND], where(record[_CODE], record[_AT]), count * dtype.itemsize if dtype else 0


def _clock_offset(channel: Channel) -> float:
    """Seconds to add to this rank's clock for rank 0's, by the fastest of a few messages
    (collective).

    The ranks of a node read the same clock, so only the first of each asks.
    """
    comm, node = channel.comm, channel.node
    askers = sorted(set(comm.allgather(node.ranks[0])) - {0})
    offset = 0.0
    if comm.rank == 0:
        for rank in np.repeat(askers, _PINGS).tolist():
            comm.recv(source=rank)
            comm.send(_clock(), rank)
    elif comm.rank in askers:
        offset = min(_ping(comm) for _ in range(_PINGS))[1]
    return node.comm.bcast(offset)


def _ping(comm: MPI.Intracomm) -> tuple[float, float]:
    """Seconds there and back, and the offset, taking both ways for equally long."""
    begin = _clock()
    comm.send(None, 0)
    theirs = comm.recv(source=0)
    end = _clock()
    return end - begin, theirs - (begin + end) / 2


_HEADER = f"{'calls':>7} {'time ms':>9} {'GB/s':>7} {'wait ms':>9}  {'last to come':<16} collective"


def _table(everyone: list[dict[int, tuple]]) -> str:
    """everyone : for each rank, by number of the call: (kind, place, bytes), time of entering, of
    leaving.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for number in sorted(set.intersection(*map(set, everyone))):
        places.setdefault(everyone[0][number][0][:2], []).append(number)
    return "\n".join(
        [_HEADER, *(_row(place, numbers, everyone) for place, numbers in places.items())]
    )


def _row(place: tuple[str, str], numbers: list[int], everyone: list[dict[int, tuple]]) -> str:
    entered, left = (np.array([[rank[n][i] for n in numbers] for rank in everyone]) for i in (1, 2))
    seconds, wait = left.max(axis=0) - entered.max(axis=0), np.ptp(entered, axis=0)
    rate = sum(everyone[0][n][0][2] for n in numbers) / seconds.sum() / 1e9
    last = np.bincount(entered.argmax(axis=0))
    who = f"rank {last.argmax()}, {100 * last.max() / len(numbers):.0f} %"
    return (
        f"{len(numbers):7} {1e3 * np.median(seconds):9.3f} {f'{rate:7.2f}' if rate else '':7} "
        f"{1e3 * wait.mean():9.3f}"
        f"  {who:<16} {place[0]} at {place[1]}"
    )
