"""A run of a study: every rank's part of it, and how they come together at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

from hpckit.comm.alarm import Alarm
from hpckit.errors import Checkpointed
from hpckit.machine.lifetime import never_free
from hpckit.surrogate.clock import Clock
from hpckit.surrogate.connections import Connections, open_connections
from hpckit.surrogate.result import Report
from hpckit.surrogate.rotation import Rotation
from hpckit.surrogate.solving import solve
from hpckit.surrogate.sources import Source, open_source

if TYPE_CHECKING:
    from hpckit.surrogate.ledger import Ledger
    from hpckit.surrogate.settings import Settings
    from hpckit.surrogate.space import Sampler


_GRACE = 30.0  # seconds that ranks have at most to come together after an error


class Worker(Protocol):
    """A trainer's part."""

    def work(self, source: Callable[..., Source]) -> Report:
        """Do it, with what comes from the source."""
        ...


class Running:
    """The ranks of a study at work (made collectively).

    solving : whether solver ranks solve, or only wait until the trainers are done
    asked : the exit code that a signal asked this rank for, 0: none
    """

    def __init__(
        self, settings: Settings, *, solving: bool, asked: Callable[[], int] = lambda: 0
    ) -> None:
        self.clock = Clock("starting")
        self.alarm = Alarm(
            settings.comm, "the study", grace=min(settings.deadline or _GRACE, _GRACE)
        )
        self._settings = settings
        self._asked = asked
        self.connections: Connections | None = None
        if solving:
            self.connections = open_connections(
                settings.comm, settings.roles, settings.solver, settings.lanes, settings.way
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            self.alarm.ring(error)
            never_free(self._settings.roles.team)  # ranks have left their work in the middle
        if self.alarm.meet() and self.connections:
            self.connections.close()
        self.alarm.close()

    def go(self, worker: Worker | None, source: Callable[..., Source]) -> list[Report]:
        """What all ranks report once each has done its part (collective).

        worker : a trainer's; None on solver ranks
        source : makes its source, of what it is asked with

        Raises on all ranks what one has raised; `Checkpointed` where the trainers stopped.
        """
        with self.alarm.guard():
            report = worker.work(source) if worker else self._solve()
            self.clock.turn("waiting")
        report.seconds = self.clock.seconds
        reports = self._settings.comm.allgather(report)
        for each in reports:
            if each.stopped:
                raise Checkpointed(each.stopped)
        return reports

    def source(
        self, simulations: int | None, sampler: Sampler, ledger: Ledger, ahead: Any = None
    ) -> Source:
        """What this trainer gets from its solvers.

        ahead : what the source of a run that is resumed had said of itself
        """
        settings = self._settings
        assert self.connections is not None
        return open_source(
            settings.roles,
            self.connections,
            settings.solver,
            sampler,
            settings.schedule,
            Rotation(settings.lanes, settings.solver.steps, simulations, settings.validation),
            ledger.received,
            self.alarm,
            settings.deadline,
            ahead,
        )

    def wait_for(self, source: Source) -> None:
        """Until a trainer's source has a message, or is over."""
        before = self.clock.turn("waiting")
        self.alarm.wait(
            lambda: source.over or source.peek() is not None,
            self._settings.deadline,
            lambda: source.late,
        )
        self.clock.turn(before)

    def _solve(self) -> Report:
        """Solve what trainers ask for, until they say that it is over."""
        settings = self._settings
        self.clock.turn("solving")
        if self.connections is None:
            return Report("solver")
        solved = solve(
            settings.roles,
            self.connections,
            settings.solver,
            settings.schedule,
            settings.lanes,
            self.alarm,
            settings.deadline,
            self._asked,
        )
        self.clock.move(solved.waited, "waiting")
        return Report("solver")
