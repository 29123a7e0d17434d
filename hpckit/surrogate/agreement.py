"""What all trainers do at the same gradient step."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.comm.alarm import Alarm
from hpckit.errors import HpckitError, completes
from hpckit.machine.lifetime import Flight

_NUMBERS = 8  # that trainers agree on at once, at most
_GRACE = 30.0  # seconds until trainers that have heard an alarm come no more


class Agreement:
    """The smallest of all trainers' numbers, by a wait that notices other ranks' errors.

    Either all trainers go on, or none: one that went on alone would wait in the next collective for
    ever. So whoever has said its numbers goes on if all have, even where it hears of an error
    meanwhile, and whoever fails elsewhere says so in the place of its numbers.

    comm : of the trainers
    deadline : seconds until a trainer that does not come is an error; None: for ever

    ::

        agreement = Agreement(comm, alarm, deadline=60.0)
        (all_have_one,) = agreement.smallest(have_one)
    """

    def __init__(self, comm: MPI.Intracomm, alarm: Alarm, deadline: float | None) -> None:
        self._comm = comm.Dup()
        self._mine = np.zeros(1 + _NUMBERS, np.int64)
        self._found = np.zeros_like(self._mine)
        # Not freed before what is in flight there: another communicator could take its place.
        self._flight = Flight(self._comm, self._mine, self._found)
        self._alarm = alarm
        self._deadline = deadline
        self._over = False  # no trainer goes on

    def smallest(self, *numbers: int) -> tuple[int, ...]:
        """Of each number the smallest (collective over the trainers).

        Raises the error of a rank that has failed.
        """
        if self._comm.size == 1:
            return numbers
        well, *found = self._gather(1, *numbers)
        if not well:
            self._over = True
            self._alarm.wait(lambda: False, _GRACE, lambda: "the words of a trainer that failed")
        return tuple(found[: len(numbers)])

    def fail(self) -> None:
        """Say that this trainer has failed, to those that wait for it (not collective)."""
        if self._comm.size > 1 and not self._over:
            self._over = True
            self._say()

    def _gather(self, *words: int) -> list[int]:
        request = self._say(*words)
        try:
            self._alarm.wait(request.Test, self._deadline, lambda: "the other trainers")
        except BaseException as error:
            heard = isinstance(error, HpckitError) and self._alarm.heard
            if not (heard and completes(request, _GRACE)):  # all had come before they heard of it
                self._over = True
                raise
        self._flight.land()
        return self._found.tolist()

    def _say(self, *words: int) -> MPI.Request:
        self._mine[:] = 0
        self._mine[: len(words)] = words
        request = self._comm.Iallreduce(self._mine, self._found, MPI.MIN)
        self._flight.add(request)
        return request
