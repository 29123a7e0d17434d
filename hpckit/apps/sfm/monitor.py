"""What happens between iterations of a bundle adjustment: a line of the table, a stop in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpckit.errors import Checkpointed
from hpckit.program.loop import Loop
from hpckit.program.run import say

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.program.stop import StopSignal
    from hpckit.sfm.bundle.result import Iteration

_HEADER = (
    f"{'iter':>4} {'cost':>14} {'change':>11} {'gradient':>10} {'rho':>8} {'radius':>9} "
    f"{'linear':>6} {'seconds':>9}"
)


class Monitor:
    """A callback of `bundle_adjust`; collective, for all ranks call it after each iteration.

    until : when to stop at the latest, in seconds of `time.monotonic`
    heard : whether there was any iteration
    stopped : what to raise when all is saved, where the solve was asked to stop
    """

    def __init__(self, comm: MPI.Intracomm, stop: StopSignal, until: float = math.inf) -> None:
        self.stopped: Checkpointed | None = None
        self.heard = False
        self._comm, self._done = comm, 0
        self._loop = Loop(comm, [], stop=stop, stopped=self._told, until=until, interval=0.0)
        say(comm, _HEADER)

    def __call__(self, iteration: Iteration) -> bool:
        """Tell of it; True where one rank was asked to stop, or time is over."""
        say(self._comm, line(iteration))
        self.heard = True
        self._done = iteration.number
        try:
            self._loop.advance()
        except Checkpointed as stopped:
            self.stopped = stopped
        return self.stopped is not None

    def _told(self) -> str:
        return f"stopped after {self._done} iterations: run again with --resume to go on"


def line(iteration: Iteration) -> str:
    """A line of the table, as Ceres prints one; a step that was not taken is marked."""
    i = iteration
    return (
        f"{i.number:4} {i.cost:14.6e} {i.change:11.2e} {i.gradient:10.2e} {i.rho:8.1e} "
        f"{i.radius:9.1e} {i.linear_iterations:6} {i.seconds:9.3f}"
        f"{'' if i.accepted else '  rejected'}"
    )
