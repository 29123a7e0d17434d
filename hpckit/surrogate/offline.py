"""Studies in two acts: solve and record; then train on what was recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpckit.surrogate.ledger import Progress
from hpckit.surrogate.result import Report
from hpckit.surrogate.tape import Tape

if TYPE_CHECKING:
    from hpckit.surrogate.plan import Plan
    from hpckit.surrogate.running import Running
    from hpckit.surrogate.sources import Source
    from hpckit.surrogate.space import Sampler


class Recorder:
    """A trainer that trains nothing: it records what its solvers solve.

    resume : what is whole on the tape already is not solved again
    """

    def __init__(self, plan: Plan, running: Running, tape: Any, resume: bool) -> None:
        self._plan = plan
        self._running = running
        self._tape = Tape.create(tape, plan.roles.team, plan.solver, resume)
        there = Tape.open(tape)
        self._whole = [
            number
            for number in sorted(there.validation + there.simulations)
            if max(number, -1 - number) % plan.trainers == plan.trainer
        ]

    def work(self, source: Callable[..., Source]) -> Report:
        """Record until nothing more comes."""
        plan, running = self._plan, self._running
        progress = Progress(plan.solver.steps, plan.trainers)
        for number in self._whole:
            progress.know(number)
        from_solvers = source(plan.bound_sampler(), progress)
        lanes = [0] * plan.lanes
        running.clock.turn("receiving")
        while not from_solvers.over:
            message = from_solvers.peek()
            if message is None:
                running.wait_for(from_solvers)
                continue
            progress.take(int(message["simulation"]), int(message["step"]))
            self._tape.write(message)
            lanes[message["lane"]] += 1
            from_solvers.drop()
        from_solvers.close()
        self._tape.close()
        return Report("trainer", steps=lanes)


def recorded(plan: Plan, path: str | os.PathLike[str]) -> Callable[..., Source]:
    """What makes a trainer's source of a tape."""
    tape = Tape.open(path)
    tape.check(plan.solver)
    simulations = tape.first(plan.simulations)

    def source(sampler: Sampler, progress: Progress, ahead: Any) -> Source:
        received = progress.received
        return tape.source(simulations, plan.trainer, plan.trainers, plan.validation, received)

    return source
