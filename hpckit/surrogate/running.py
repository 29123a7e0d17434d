"""A run of a study: every rank's part of it, and how they come together at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpckit.comm.alarm import Alarm
from hpckit.errors import Checkpointed
from hpckit.surrogate.clock import Clock
from hpckit.surrogate.lines import Lines, open_lines
from hpckit.surrogate.result import Report
from hpckit.surrogate.rotation import Rotation
from hpckit.surrogate.solving import solve
from hpckit.surrogate.sources import Source, open_source

if TYPE_CHECKING:
    from hpckit.surrogate.ledger import Progress
    from hpckit.surrogate.space import Sampler
    from hpckit.surrogate.study import Study


class Running:
    """The ranks of a study at work (made collectively).

    solving : whether solver ranks solve, or only wait until the trainers are done
    asked : the exit code that a signal asked this rank for, 0: none
    """

    def __init__(
        self, study: Study, *, solving: bool, asked: Callable[[], int] = lambda: 0
    ) -> None:
        self.clock = Clock("starting")
        self.alarm = Alarm(study.comm, "the study")
        self._study = study
        self._asked = asked
        self._lines: Lines | None = None
        if solving:
            self._lines = open_lines(study.comm, study.roles, study.solver, study.lanes, study.way)

    def go(self, train: Callable[[], Report]) -> list[Report]:
        """What all ranks report once each has done its part; `train` is the trainers' (collective).

        Raises on all ranks what one has raised; `Checkpointed` where the trainers stopped.
        """
        try:
            with self.alarm.guard():
                report = self._solve() if self._study.roles.trainer is None else train()
                self.clock.turn("waiting")
                self.alarm.meet()
                self.alarm.check()
            report.seconds = self.clock.seconds
        finally:
            self.close()
        reports = self._study.comm.allgather(report)
        for each in reports:
            if each.stopped:
                raise Checkpointed(each.stopped)
        return reports

    def source(self, sampler: Sampler, progress: Progress, ahead: Any) -> Source:
        """What this trainer gets from its solvers."""
        study = self._study
        assert self._lines is not None
        return open_source(
            study.roles,
            self._lines,
            study.solver,
            sampler,
            study.schedule,
            Rotation(study.lanes, study.solver.steps, study.simulations, study.validation),
            progress.received,
            self.alarm,
            study.deadline,
            ahead,
        )

    def close(self) -> None:
        """Let go of everything that ranks share (collective)."""
        if self.alarm.meet() and self._lines:
            self._lines.close()
        self.alarm.close()

    def _solve(self) -> Report:
        """Solve what trainers ask for, until they say that it is over."""
        study = self._study
        self.clock.turn("solving")
        if self._lines is None:
            return Report("solver")
        solved = solve(
            study.roles,
            self._lines,
            study.solver,
            study.schedule,
            study.lanes,
            self.alarm,
            study.deadline,
            self._asked,
        )
        self.clock.move(solved.waited, "waiting")
        return Report("solver")
