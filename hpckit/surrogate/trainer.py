"""The part of a trainer in a run of a study, from its first to its last moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.errors import Checkpointed, together
from hpckit.io.checkpoint_folder import set_aside
from hpckit.surrogate import engine
from hpckit.surrogate.agreement import Agreement
from hpckit.surrogate.engine import Shapes
from hpckit.surrogate.intake import Intake
from hpckit.surrogate.normaliser import Normaliser
from hpckit.surrogate.result import Report
from hpckit.surrogate.saving import Saving
from hpckit.surrogate.solver import Fields
from hpckit.surrogate.surrogate import Surrogate
from hpckit.surrogate.tape import Tape
from hpckit.surrogate.training import Training

if TYPE_CHECKING:
    from hpckit.surrogate.recording import Recording
    from hpckit.surrogate.running import Running
    from hpckit.surrogate.settings import Settings
    from hpckit.surrogate.sources import Source


class Trainer:
    """One trainer of a study (collective over the trainers in all methods).

    tape : folder in which all that comes is recorded, or None
    resume : go on with the last checkpoint, if there is one
    each : called after each gradient step
    surrogate : what was trained, once `work` is done

    Raises `ConfigError` on all trainers for a model that does not fit, and checkpoints of another
    study.
    """

    def __init__(
        self,
        settings: Settings,
        running: Running,
        tape: Any,
        resume: bool,
        each: Callable[[], object] | None,
    ) -> None:
        comm = settings.roles.team
        self.surrogate: Surrogate | None = None
        self._settings = settings
        self._clock = running.clock
        self._each = each
        self._tape = None if tape is None else Tape.create(tape, comm, settings.solver, resume)
        self.training = _training(settings, running, self._tape)
        self._saving: Saving | None = None
        self._saved = time.monotonic()
        self._ahead: Any = None  # what the source of the run that goes on had said of itself
        if settings.folder is not None:
            self._open(Path(settings.folder, "checkpoint"), resume)

    def work(self, source: Callable[..., Source]) -> Report:
        """Train until all gradient steps are taken, or `each` wants to stop."""
        try:
            return self._work(source)
        except BaseException:
            self.training.fail()
            raise

    def _work(self, source: Callable[..., Source]) -> Report:
        stopped = ""
        training = self.training
        from_solvers = source(training.sampler, training.intake.ledger, self._ahead)
        try:
            training.run(from_solvers, self._settings.steps, self._after)
        except Checkpointed as error:  # on all trainers
            stopped = str(error)
        from_solvers.close()
        with together(training.comm):
            if self._tape:
                self._tape.close()
        if training.done:
            self.surrogate = self._exported()
        return self._report(stopped)

    def save(self) -> None:
        """Keep where the training is; nothing without a folder."""
        if self._saving is None:
            return
        before = self._clock.turn("saving")
        with together(self.training.comm):
            if self._tape:
                self._tape.flush()
        self._saving.save(self.training)
        self._saved = time.monotonic()
        self._clock.turn(before)

    def _after(self) -> None:
        """What is done after a gradient step."""
        if self.training.due:
            self.save()
        self.training.wish = time.monotonic() > self._saved + self._settings.save_every
        if self._each:
            self._each()

    def _open(self, folder: Path, resume: bool) -> None:
        comm = self.training.comm
        with together(comm):
            if comm.rank == 0 and not resume:
                set_aside(folder)
        self._saving = Saving(folder, comm, self._settings.identity())
        if resume and self._saving.exists():
            self._ahead = self._saving.load(self.training)

    def _exported(self) -> Surrogate:
        """What is trained until now, also in the folder."""
        settings, training = self._settings, self.training
        engine = {"gradient steps": training.done, "engine": training.engine.about()}
        surrogate = Surrogate(
            training.engine.export(),
            training.normaliser,
            view=settings.view,
            space=settings.solver.space,
            fields=Fields.of(settings.solver.fields),
            about=settings.identity() | engine,
        )
        with together(training.comm):
            if settings.folder is not None and training.comm.rank == 0:
                surrogate.save(settings.folder)
        return surrogate

    def _report(self, stopped: str) -> Report:
        training, intake = self.training, self.training.intake
        return Report(
            "trainer",
            steps=intake.lanes,
            received=intake.buffer.received,
            drawn=intake.buffer.drawn,
            reuse=intake.buffer.reuse,
            left=training.left,
            losses=training.history.losses,
            scores=training.history.scores,
            stopped=stopped,
        )


def _training(settings: Settings, running: Running, tape: Recording | None) -> Training:
    """The training before its first gradient step."""
    team, solver = settings.roles.team, settings.solver
    intake = Intake(settings, running.clock, running.wait_for, tape.write if tape else None)
    view, fields = intake.view, Fields.of(solver.fields)
    shapes = dict(zip(fields.names, fields.shapes, strict=True))
    return Training(
        comm=team,
        agreement=Agreement(team, running.alarm, settings.deadline),
        clock=running.clock,
        intake=intake,
        normaliser=Normaliser(view.scalars, view.history, fields, settings.ranges),
        engine=engine.make(
            settings.model,
            Shapes(view.scalars, view.history, shapes, (*solver.space.names, "time")),
            team,
            settings.seed,
            settings.options,
        ),
        sampler=settings.bound_sampler(),
        validate_every=settings.validate_every,
    )
