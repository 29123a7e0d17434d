"""An error on one rank reaches all the others, whatever they wait for.

Collectives tell all ranks of errors (`hpckit.errors.agree`), but ranks that do different things
have no collective to meet in. So every rank looks, as often as it likes, whether another one has
rung.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from hpckit.errors import HpckitError, by_rank, cause, of_kind
from hpckit.machine.lifetime import outlive
from hpckit.machine.node_memory import NodeMemory
from hpckit.machine.spin import Lookout

_LONGEST = 2000  # characters of an error that travel: such messages need no answer to go
_TAG = 911  # of what an alarm sends
_YIELDS = 10  # polls before a wait begins to sleep, and to look for errors
_SHORTEST = 1e-4  # seconds of its first sleep
_DOUBLINGS = 4  # from one sleep to the next
_Words = tuple[int, str]  # exit code, and what an error says


class Alarm:
    """What rings on all ranks of `comm` when one of them fails (made collectively).

    doing : names what the ranks do together, for errors
    grace : seconds that ranks have to come together after an error

    ::

        alarm = Alarm(comm)
        with alarm.guard():
            request = comm.Ibarrier()
            alarm.wait(request.Test, deadline=60.0, who=lambda: "the other ranks")
        alarm.close()
    """

    def __init__(self, comm: MPI.Intracomm, doing: str = "the run", grace: float = 30.0) -> None:
        self._comm = comm.Dup()
        self._grace = grace
        node = NodeMemory.of(comm)
        self._watch = Lookout(self._comm, node, node.ranks, doing)
        self._rung: _Words | None = None
        self._heard: dict[int, _Words] = {}  # by rank
        self._error: HpckitError | None = None  # what `check` raises
        self._met: bool | None = None  # since an error: whether all ranks have come together
        self._messages: list[MPI.Request] = []

    def ring(self, error: BaseException) -> None:
        """Tell all other ranks, without waiting for them; nothing after the first on this rank."""
        if self._rung or self._heard:
            return
        self._rung = getattr(error, "exit_code", 1), cause(error)[:_LONGEST]
        others = [rank for rank in range(self._comm.size) if rank != self._comm.rank]
        self._messages = [self._comm.isend(self._rung, rank, _TAG) for rank in others]

    def check(self) -> None:
        """Raise the error of another rank, `rank 3: its words`, where one has rung.

        It is an `HpckitError`, a `ConfigError` or `Checkpointed` where it was one there.
        """
        if self._error is None and self._hears():
            self._error = self._joint()
        if self._error is not None:
            raise self._error

    @property
    def heard(self) -> bool:
        """Whether another rank has rung, as far as this one has looked."""
        return bool(self._heard)

    def wait(
        self, condition: Callable[[], bool], deadline: float | None, who: Callable[[], str]
    ) -> float:
        """Sleep until `condition()`; returns the seconds that it took.

        deadline : seconds after which all are told, and `HpckitError` is raised; None: never
        who : names those waited for, as in "rank 3"

        Raises what `check` does, and `HpckitError` where a process of this node has died.
        """
        began = time.monotonic()
        for _ in range(_YIELDS):
            if condition():
                return time.monotonic() - began
            os.sched_yield()
        for pause in _pauses():
            if condition():
                break
            self.check()
            self._look()
            if deadline is not None and time.monotonic() > began + deadline:
                self._fail(_late(deadline, who()))
            time.sleep(pause)
        return time.monotonic() - began

    @contextmanager
    def guard(self) -> Iterator[None]:
        """A block that all ranks end together, each its own: all well, or with the same error.

        Where it raises on one rank, the others' next `check` or `wait` does; all come out with the
        words of those that rang. What is no `Exception`, such as `KeyboardInterrupt`, goes on as it
        is on its rank.
        """
        try:
            yield
        except BaseException as error:
            told = error is self._error  # by another rank
            self.ring(error)
            self.meet()
            if not isinstance(error, Exception) or self._error is None:
                raise
            raise self._error from (None if told else error)
        self.meet()
        self.check()

    def meet(self) -> bool:
        """Wait until all ranks are here (collective); False where after an error some do not come.

        All learn here of an error that one has rung. From then on the answer stays as it is, and
        no further meeting takes place: ranks may have left their work at different places.
        """
        if self._met is None:
            failed = np.array([bool(self._rung or self._heard)], np.intc)
            anyone = np.zeros_like(failed)
            come = self._all_come(self._comm.Iallreduce(failed, anyone, MPI.MAX), failed, anyone)
            if come and not anyone[0]:
                return True
            # Who was late learns here that others have given up: they do not come again.
            self._met = come and self._all_come(self._comm.Ibarrier())
            if self._met:
                self._settle()
            self._error = self._joint()
        return self._met

    def close(self) -> None:
        """Let go of it (collective), also after it has rung; not where ranks do not come."""
        if self.meet():
            self._comm.Free()

    def _all_come(self, request: MPI.Request, *arrays: np.ndarray) -> bool:
        """Whether this collective, which uses the arrays, completes within the grace."""
        failed = None  # since when
        for pause in _pauses():
            if request.Test():
                return True
            if failed is None:
                failed = time.monotonic() if self._fails() else None
            elif time.monotonic() > failed + self._grace:
                outlive([request], arrays)
                return False
            time.sleep(pause)
        raise AssertionError("unreachable: pauses never end")

    def _fails(self) -> bool:
        """Whether a rank has rung, or a process of this node has died."""
        if not (self._rung or self._hears()):
            with suppress(HpckitError):
                self._look()
        return bool(self._rung or self._heard)

    def _settle(self) -> None:
        """Take all that was sent of errors (collective)."""
        everyone = self._comm.allgather(self._rung)
        for rank, words in enumerate(everyone):
            if words and rank != self._comm.rank and rank not in self._heard:
                self._heard[rank] = self._comm.recv(source=rank, tag=_TAG)
        MPI.Request.Waitall(self._messages)

    def _hears(self) -> bool:
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, _TAG, status):
            rank = status.Get_source()
            self._heard[rank] = self._comm.recv(source=rank, tag=_TAG)
        return bool(self._heard)

    def _look(self) -> None:
        """Whether the processes of this node live."""
        try:
            self._watch.look()
        except HpckitError as error:
            self._fail(error)

    def _fail(self, error: HpckitError) -> NoReturn:
        self.ring(error)
        raise error

    def _joint(self) -> HpckitError:
        """All that is known of who rang, in one error."""
        mine = {self._comm.rank: self._rung} if self._rung else {}
        texts: list[str | None] = [None] * self._comm.size
        codes = set()
        for rank, (code, text) in {**self._heard, **mine}.items():
            texts[rank] = text
            codes.add(code)
        alike = texts[0] if len({*texts}) == 1 else None
        return of_kind(codes.pop() if len(codes) == 1 else 1, alike or by_rank(texts))


def _late(deadline: float, who: str) -> HpckitError:
    return HpckitError(
        f"waited {deadline:g} s for {who}: dead, late, or in another call; look what happens there,"
        " or allow a longer deadline"
    )


def _pauses() -> Iterator[float]:
    """Seconds to sleep between polls, longer and longer, for ever."""
    return chain((_SHORTEST * 2**i for i in range(_DOUBLINGS)), repeat(_SHORTEST * 2**_DOUBLINGS))
