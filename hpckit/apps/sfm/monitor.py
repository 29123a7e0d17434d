"""What happens between iterations of a bundle adjustment: a line of the table, a stop in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpckit.program.loop import Every, Loop
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

    save : writes a checkpoint; every : seconds between two, 0: only when asked to stop
    until : when to stop at the latest, in seconds of `time.monotonic`
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        stop: StopSignal,
        save: Callable[[], None],
        every: float = 0.0,
        until: float = math.inf,
    ) -> None:
        self._comm, self._done = comm, 0
        self._loop = Loop(
            comm,
            [(Every(seconds=every, at_stop=True), save)],
            stop=stop,
            stopped=lambda: (
                f"stopped after {self._done} iterations: run again with --resume to go on"
            ),
            until=until,
            interval=0.5,
        )

    def __call__(self, iteration: Iteration) -> None:
        """Tell of it; raises `Checkpointed` on all ranks where one was asked to stop."""
        if not self._done:
            say(self._comm, _HEADER)
        say(self._comm, line(iteration))
        self._done = iteration.number
        if iteration.number:
            self._loop.advance()


def line(iteration: Iteration) -> str:
    """A line of the table, as Ceres prints one; a step that was not taken is marked."""
    i = iteration
    return (
        f"{i.number:4} {i.cost:14.6e} {i.change:11.2e} {i.gradient:10.2e} {i.rho:8.1e} "
        f"{i.radius:9.1e} {i.linear_iterations:6} {i.seconds:9.3f}"
        f"{'' if i.accepted else '  rejected'}"
    )
