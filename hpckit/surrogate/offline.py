"""Studies in two acts: solve and record; then train on what was recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpckit.surrogate.ledger import Ledger
from hpckit.surrogate.result import Report
from hpckit.surrogate.tape import Tape

if TYPE_CHECKING:
    from hpckit.surrogate.running import Running
    from hpckit.surrogate.settings import Settings
    from hpckit.surrogate.sources import Source
    from hpckit.surrogate.space import Sampler


class Collector:
    """A trainer that trains nothing: it records what its solvers solve.

    resume : what is whole on the tape already is not solved again
    """

    def __init__(self, settings: Settings, running: Running, tape: Any, resume: bool) -> None:
        self._settings = settings
        self._running = running
        self._tape = Tape.create(tape, settings.roles.team, settings.solver, resume)
        there = Tape.open(tape)
        self._whole = [
            number
            for number in sorted(there.validation + there.simulations)
            if max(number, -1 - number) % settings.trainers == settings.trainer
        ]

    def work(self, source: Callable[..., Source]) -> Report:
        """Record until nothing more comes."""
        settings, running = self._settings, self._running
        ledger = Ledger(settings.solver.steps, settings.trainers)
        for number in self._whole:
            ledger.know(number)
        from_solvers = source(settings.bound_sampler(), ledger)
        lanes = [0] * settings.lanes
        running.clock.turn("receiving")
        while not from_solvers.over:
            message = from_solvers.peek()
            if message is None:
                running.wait_for(from_solvers)
                continue
            ledger.take(int(message["simulation"]), int(message["step"]))
            self._tape.write(message)
            lanes[message["lane"]] += 1
            from_solvers.drop()
        from_solvers.close()
        self._tape.close()
        return Report("trainer", steps=lanes)


def recorded(settings: Settings, path: str | os.PathLike[str]) -> Callable[..., Source]:
    """What makes a trainer's source of a tape."""
    tape = Tape.open(path)
    tape.check(settings.solver)
    simulations = tape.first(settings.simulations)

    def source(sampler: Sampler, ledger: Ledger, ahead: Any) -> Source:
        received = ledger.received
        return tape.source(
            simulations, settings.trainer, settings.trainers, settings.validation, received
        )

    return source
