"""An error on one rank reaches all the others, whatever they wait for.

Collectives tell all ranks of errors (`hpckit.errors.agree`), but ranks that do different things
have no collective to meet in. So every rank looks, as often as it likes, whether another one has
rung.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mpi4py import MPI

from hpckit.errors import HpckitError, cause, of_kind
from hpckit.machine.node_memory import NodeMemory
from hpckit.machine.spin import Lookout

GRACE = 5.0  # seconds that ranks have to come together after an error
_LONGEST_WORDS = 2000  # characters of an error: such messages need no answer to go
_YIELDS = 10  # polls before a wait begins to sleep
_SHORTEST = 1e-4  # seconds of its first sleep
_DOUBLINGS = 4  # from one sleep to the next


class Alarm:
    """What rings on all ranks of `comm` when one of them fails (made collectively).

    doing : names what the ranks do together, for errors

    ::

        alarm = Alarm(comm)
        with alarm.guard():
            request = comm.Ibarrier()
            alarm.wait(request.Test, deadline=60.0, who=lambda: "the other ranks")
        alarm.close()
    """

    def __init__(self, comm: MPI.Intracomm, doing: str = "the run") -> None:
        self._comm = comm.Dup()
        node = NodeMemory.of(comm)
        self._watch = Lookout(self._comm, node, node.ranks, doing)
        self._rung = False
        self._heard: dict[int, HpckitError] = {}  # by rank
        self._messages: list[MPI.Request] = []

    def ring(self, error: BaseException) -> None:
        """Tell all other ranks, without waiting for them; nothing after the first on this rank."""
        if self._rung or self._heard:
            return
        self._rung = True
        others = [rank for rank in range(self._comm.size) if rank != self._comm.rank]
        self._messages = [self._comm.isend(_words(error), rank) for rank in others]

    def check(self) -> None:
        """Raise the error of another rank, `rank 3: its words`, where one has rung.

        It is an `HpckitError`, a `ConfigError` or `Checkpointed` where it was one there.
        """
        if self._hears():
            raise next(iter(self._heard.values()))

    def wait(
        self, condition: Callable[[], bool], deadline: float | None, who: Callable[[], str]
    ) -> float:
        """Sleep until `condition()`; returns the seconds that it took.

        deadline : seconds after which all are told, and `HpckitError` is raised; None: never
        who : names those waited for, as in "rank 3"

        Raises what `check` does, and `HpckitError` where a process of this node has died.
        """
        began = time.monotonic()
        polls = 0
        while not condition():
            self.check()
            self._look()
            if deadline is not None and time.monotonic() > began + deadline:
                self._fail(_late(deadline, who()))
            _pause(polls)
            polls += 1
        return time.monotonic() - began

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Ring where the block raises, and raise the same words here as on all other ranks.

        What is no `Exception`, such as `KeyboardInterrupt`, goes on as it is.
        """
        try:
            yield
        except Exception as error:
            self.ring(error)
            if error in self._heard.values():
                raise
            raise _error(self._comm.rank, *_words(error)) from error
        except BaseException as error:
            self.ring(error)
            raise

    def meet(self, deadline: float | None = None) -> bool:
        """Wait for all ranks (collective); False where after an error some do not come.

        They have `GRACE` seconds then. Before an error `deadline` counts, as in `wait`.
        """
        everyone = self._comm.Ibarrier()
        began = time.monotonic()
        failed = None  # since when
        polls = 0
        while not everyone.Test():
            now = time.monotonic()
            if failed is None and (self._rung or self._hears()):
                failed = now
            if failed is not None and now > failed + GRACE:
                return False
            if failed is None:
                self._look()
                if deadline is not None and now > began + deadline:
                    self._fail(_late(deadline, "all ranks to come to the end"))
            _pause(polls)
            polls += 1
        return True

    def close(self) -> None:
        """Let go of it (collective), also after it has rung; not where ranks do not come."""
        if not self.meet():
            return
        rung = self._comm.allgather(self._rung)
        for rank, rings in enumerate(rung):
            if rings and rank != self._comm.rank and rank not in self._heard:
                self._comm.recv(source=rank)
        MPI.Request.Waitall(self._messages)
        self._comm.Free()

    def _hears(self) -> bool:
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            rank = status.Get_source()
            self._heard[rank] = _error(rank, *self._comm.recv(source=rank))
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


def _words(error: BaseException) -> tuple[int, str]:
    """Its exit code, and what it says."""
    return getattr(error, "exit_code", 1), cause(error)[:_LONGEST_WORDS]


def _error(rank: int, exit_code: int, words: str) -> HpckitError:
    return of_kind(exit_code, f"rank {rank}: {words}")


def _late(deadline: float, who: str) -> HpckitError:
    return HpckitError(
        f"waited {deadline:g} s for {who}: dead, late, or in another call; look what happens there,"
        " or allow a longer deadline"
    )


def _pause(polls: int) -> None:
    """Give the core to others: for the first polls at once, then for longer and longer."""
    if polls < _YIELDS:
        os.sched_yield()
    else:
        time.sleep(_SHORTEST * 2 ** min(polls - _YIELDS, _DOUBLINGS))
