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
from types import CodeType
from typing import Any, Literal

from mpi4py import MPI

from hpckit.collectives.arguments import is_whole
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Persistent
from hpckit.collectives.recording import Recording, Signature
from hpckit.errors import ConfigError, same, together
from hpckit.machine.lifetime import outlive
from hpckit.machine.pingpong import clock_offset
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
from hpckit.watch.report import table

_clock = time.monotonic
_NEVER = float("inf")


class Record:
    """One call of a collective on this rank; made by assignment, for it may take but a moment.

    code, at : the place in the program, an instruction of this code
    number : of the calls, from 1 on
    agreed : all ranks are known to make this call, or nobody asks
    entered : when it began
    left : when it was complete; minus the time since when the rank is blocked; 0 while neither;
        minus infinity while calls are compared, because then the monitor tells who is late
    """

    __slots__ = ("agreed", "at", "code", "entered", "kind", "left", "number", "signature")
    kind: str
    signature: Signature
    code: CodeType
    at: int
    number: int
    agreed: bool
    entered: float
    left: float

    @property
    def call(self) -> Call:
        """What the other ranks are told."""
        return call(self.kind, self.signature, where(self.code, self.at))

    @property
    def title(self) -> tuple[str, str, int]:
        """Kind, place in the program, and bytes."""
        count, dtype, _, _ = self.signature
        nbytes = count * dtype.itemsize if count is not None and dtype is not None else 0
        return self.kind, where(self.code, self.at), nbytes


def _complete() -> Record:
    """What there is before the first call."""
    record = Record()
    record.left = 1.0
    return record


_new = Record.__new__
_COMPLETE = _complete()


class Watched(MPI.Intracomm):
    """The communicator that a `Watch` gives: the same one, with collectives that are recorded."""

    watch: Watch | None = None


class Watch:
    """Records a communicator's and its plans' collectives (made and entered collectively).

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
        self._comm = MPI.Intracomm(comm)
        self._private = channel.comm
        self._patience = patience
        self._check = check
        self._offset = clock_offset(self._private)
        self._keep = keep
        self._ring = [_COMPLETE] * keep
        self._waits = _COMPLETE  # the last of those that did not block when they began
        self._entered = 0
        self._plans = 0
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

    def enter(self, kind: str, signature: Signature, frame: Any, wait: bool = True) -> Record:
        """Record that a collective begins; `wait`: it blocks, and with `check` all must come."""
        code = frame.f_code
        if code.co_filename not in self._files:
            frame = caller(frame)
            code = frame.f_code
            self._files.add(code.co_filename)
        at = self._entered
        number = at + 1
        now = _clock()
        record = _new(Record)
        record.kind = kind
        record.signature = signature
        record.code = code
        record.at = frame.f_lasti
        record.number = number
        record.agreed = not self._check
        record.entered = now
        record.left = -now if wait else 0.0
        self._ring[at % self._keep] = record
        self._entered = number  # last: the monitor's thread looks at it
        if self._check and self._line:
            self._line.call(number, record.call)
            if wait:
                self.compare(record)
        return record

    def compare(self, record: Record, wait: bool = True) -> bool:
        """Whether all ranks are known to make this collective; `HpckitError` if they do not.

        wait : until that is known; the rank blocks then
        """
        if record.left > 0:
            return True
        line = None if record.agreed else self._line
        if wait:
            self._waits = record
        if line:
            record.left = -_NEVER if wait else 0.0
            try:
                record.agreed = line.verdict(record.number, wait)
            finally:
                record.left = 0.0
        if wait:
            record.left = -_clock()
        return record.agreed or not line

    def left(self, record: Record) -> None:
        """Record that it is complete."""
        if record.left <= 0:
            record.left = _clock()

    def plan(self, kind: str, signature: Signature) -> Recording:
        """What makes a plan's operations recorded, one for each chunk, in any order."""
        self._plans += 1
        name = f"{kind} plan {self._plans}"
        return lambda operations: [_Recorded(self, each, name, signature) for each in operations]

    def report(self) -> str:
        """A table of the calls that all ranks remember, a line per place (collective).

        A call's time begins with its last arrival; the wait before that, with its first. GB/s count
        the array once.
        """
        records = self._ring[: self._entered] if self._entered < self._keep else self._ring
        mine = {
            r.number: (r.title, r.entered + self._offset, r.left + self._offset)
            for r in records
            if r.left > 0
        }
        everyone = self._private.gather(mine)
        return self._private.bcast(None if everyone is None else table(everyone))

    def _recorded(self, kind: str) -> Callable[..., Any]:
        """The collective of that name."""
        function, read, enter = getattr(self._comm, kind), reader(kind, self._comm.size), self.enter
        frame = sys._getframe

        def collective(*args: Any, **kwargs: Any) -> Any:
            record = enter(kind, read(args, kwargs), frame(1))
            try:
                return function(*args, **kwargs)
            finally:
                record.left = _clock()

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
        """How many collectives were entered, and what this rank does; another thread asks."""
        number = self._entered
        record = self._blocked()
        if record:
            return number, f"in its collective {record.number}, {record.call}"
        frame = caller(sys._current_frames()[self._thread])
        return (
            number,
            f"outside, after {number} collectives, at {where(frame.f_code, frame.f_lasti)}",
        )

    def _late(self) -> int | None:
        record = self._blocked()
        return record.number if record and self._patience - _clock() < record.left < 0 else None

    def _blocked(self) -> Record | None:
        """The collective that this rank waits for."""
        latest = self._ring[(self._entered - 1) % self._keep]
        return next((record for record in (latest, self._waits) if record.left < 0), None)


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
    """A recorded request; `Waitall` and its like complete it as any other, unrecorded.

    buffers : lives until it is complete; requests of mpi4py do not always hold on to what they
        write to
    """

    watch: Watch
    record: Record
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
