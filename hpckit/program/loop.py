"""The one loop of all programs: steps or passes, and between them a list of (when, action).

Whether it is time for an action is no rank's own business: clocks differ, signals reach one rank, a
NaN appears on one. So ranks meet now and then in one small `Allreduce`: all bring their wishes, the
largest counts, and all do the same. What is known from the number of steps alone, such as a
snapshot every 100, needs no wish. How many steps lie between two meetings follows from how long
they take: `interval` seconds' worth, so that meetings cost nothing that can be measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpckit.errors import Checkpointed, ConfigError

if TYPE_CHECKING:
    from os import PathLike

    from mpi4py import MPI

    from hpckit.program.stop import StopSignal


class When:
    """When an action is due. This one: at every meeting, as a line of progress is."""

    at_stop = False  # whether it is also due when the run stops before its end

    def next(self, done: int) -> float:
        """The first step after `done` that it is due after, the same on all ranks; inf: none."""
        return math.inf

    def wish(self) -> bool:
        """Whether this rank wants it now; asked at every meeting, and one rank's wish is enough."""
        return True

    def taken(self) -> None:
        """The action has just been done."""


class At(When):
    """After these steps; 0 is before the first one."""

    def __init__(self, steps: Collection[int]) -> None:
        self._steps = sorted(steps)

    def next(self, done: int) -> float:
        return next((step for step in self._steps if step > done), math.inf)

    def wish(self) -> bool:
        return False


class Every(When):
    """After so many steps, or seconds, again and again; 0: never.

    at_stop : also when the run stops before its end, as a checkpoint must
    """

    def __init__(self, *, steps: int = 0, seconds: float = 0.0, at_stop: bool = False) -> None:
        self.at_stop = at_stop
        self._steps = steps
        self._seconds = seconds or math.inf
        self._since = time.monotonic()

    def next(self, done: int) -> float:
        return (
            max(self._steps, done - done % self._steps + self._steps) if self._steps else math.inf
        )

    def wish(self) -> bool:
        return time.monotonic() > self._since + self._seconds

    def taken(self) -> None:
        self._since = time.monotonic()


class If(When):
    """At the meetings where this is true on any rank, such as a NaN in the state."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def wish(self) -> bool:
        return bool(self._condition())


class Loop:
    """Steps, or passes, and what happens between them; collective in every method.

    actions : done in this order where they are due; an error that one raises must be raised on all
        ranks.
    stop : noticed signals end the loop, after the actions that are due `at_stop`.
    stopped : what `Checkpointed` shall say then.
    steps : how many there are; None: not known before, as in a search that ends when it finds
        nothing more.
    done : how many there were already, in the run that this one goes on with.
    until : when to stop at the latest, in seconds of `time.monotonic`.
    interval : seconds between two meetings of all ranks.

    A program that takes its steps itself asks the loop how many to take at a time::

        actions = [(At({0, 1000}), snapshot), (Every(steps=100, at_stop=True), save)]
        loop = Loop(comm, actions, stop=StopSignal(comm), stopped=lambda: "run again", steps=1000)
        for count in loop:
            for _ in range(count):
                solver.step(dt)

    One whose steps are taken by somebody else, who calls it after each, says `loop.advance(1)`
    there.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        actions: Sequence[tuple[When, Callable[[], object]]],
        *,
        stop: StopSignal,
        stopped: Callable[[], str],
        steps: int | None = None,
        done: int = 0,
        until: float = math.inf,
        interval: float = 1.0,
    ) -> None:
        self.done = done
        self.steps = math.inf if steps is None else steps
        self._comm = comm
        self._actions = list(actions)
        self._stop = stop
        self._stopped = stopped
        self._until = until
        self._interval = interval
        self._met = done
        self._met_at = time.perf_counter()  # the last meeting's step, and its end
        self._next: float = (
            done + 1
        )  # the step of the next one; the first tells how long steps take

    def __iter__(self) -> Iterator[int]:
        """Steps to take before the next meeting, again and again until all are taken.

        Raises `Checkpointed` on all ranks where one was asked to stop.
        """
        if self.done == 0:
            self._stop.check()
            self._act([when.next(-1) == 0 for when, _ in self._actions])
        while self.done < self.steps:
            self._met_at = time.perf_counter()
            count = int(self._next) - self.done
            yield count
            self.advance(count)

    def advance(self, count: int = 1) -> None:
        """Say that `count` more steps are done; now and then all ranks meet, and act.

        Raises `Checkpointed` on all ranks where one was asked to stop, or time is over.
        """
        self.done += count
        if self.done >= self._next:
            self._meet()

    def _meet(self) -> None:
        per_step = (time.perf_counter() - self._met_at) / (self.done - self._met)
        pace = max(1, int(self._interval / max(per_step, 1e-9)))
        code, pace, over, *wishes = self._largest(
            self._stop.wish(),
            pace,
            time.monotonic() > self._until,
            *(when.wish() for when, _ in self._actions),
        )
        self._stop.obey(code)
        stopping = (code or over) and self.done < self.steps
        self._act(
            [
                wish or when.next(self.done - 1) == self.done or (stopping and when.at_stop)
                for wish, (when, _) in zip(wishes, self._actions, strict=True)
            ]
        )
        if stopping:
            raise Checkpointed(self._stopped())
        dates = [when.next(self.done) for when, _ in self._actions]
        self._next = min([self.done + pace, self.steps, *dates])
        self._met, self._met_at = self.done, time.perf_counter()

    def _largest(self, *mine: int) -> list[int]:
        """What the rank with the largest number has, for each of them."""
        from mpi4py import MPI

        numbers = np.array(mine, np.int64)
        self._comm.Allreduce(MPI.IN_PLACE, numbers, MPI.MAX)
        return numbers.tolist()

    def _act(self, due: Sequence[object]) -> None:
        for yes, (when, action) in zip(due, self._actions, strict=True):
            if yes:
                action()
                when.taken()


def check_case(
    folder: str | PathLike[str], found: Mapping[str, object], ours: Mapping[str, object]
) -> None:
    """Raise `ConfigError` where a checkpoint is of another case than the one that would resume it.

    found : what the checkpoint says that it is of; ours : what it must say
    """
    if found != ours:
        raise ConfigError(
            f"the checkpoints in {folder} are of another case, with {found} instead of {ours}:"
            " choose another --output, or leave out --resume to start over"
        )
