"""What all trainers do at the same gradient step."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.comm.alarm import Alarm
from hpckit.machine.lifetime import outlive


class Agreement:
    """The smallest of all trainers' numbers, by a wait that notices other ranks' errors.

    comm : of the trainers
    deadline : seconds until a trainer that does not come is an error; None: for ever

    ::

        agreement = Agreement(comm, alarm, deadline=60.0)
        (all_have_one,) = agreement.smallest(have_one)
    """

    def __init__(self, comm: MPI.Intracomm, alarm: Alarm, deadline: float | None) -> None:
        self._comm = comm
        self._alarm = alarm
        self._deadline = deadline

    def smallest(self, *numbers: int) -> tuple[int, ...]:
        """Of each number the smallest (collective over the trainers)."""
        if self._comm.size == 1:
            return numbers
        mine = np.array(numbers, np.int64)
        found = np.empty_like(mine)
        request = self._comm.Iallreduce(mine, found, MPI.MIN)
        try:
            self._alarm.wait(request.Test, self._deadline, lambda: "the other trainers")
        except BaseException:
            outlive([request], (mine, found))
            raise
        return tuple(found.tolist())
