"""The part of a trainer in a run of a study, from its first to its last moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.errors import Checkpointed, together
from hpckit.io.checkpoint_folder import set_aside
from hpckit.surrogate import engine, space, views
from hpckit.surrogate.agreement import Agreement
from hpckit.surrogate.engine import Shapes
from hpckit.surrogate.intake import Intake
from hpckit.surrogate.ledger import Progress
from hpckit.surrogate.normaliser import Normaliser
from hpckit.surrogate.result import Report
from hpckit.surrogate.saving import Saving
from hpckit.surrogate.solver import Fields
from hpckit.surrogate.surrogate import Surrogate
from hpckit.surrogate.training import Training
from hpckit.surrogate.validation import Validation

if TYPE_CHECKING:
    from hpckit.comm.alarm import Alarm
    from hpckit.surrogate.buffers import Buffer
    from hpckit.surrogate.clock import Clock
    from hpckit.surrogate.sources import Source
    from hpckit.surrogate.study import Study


class Trainer:
    """One trainer of a study (collective over the trainers in all methods).

    tape : where all that comes is recorded, or None

    Raises `ConfigError` on all trainers for a model that does not fit, and checkpoints of another
    study.
    """

    def __init__(
        self, study: Study, alarm: Alarm, clock: Clock, buffer: Buffer, tape: Any, resume: bool
    ) -> None:
        self.study = study
        self.training = _training(study, alarm, clock, buffer, tape)
        self.ahead: Any = None  # what the source of a run that is resumed had said of itself
        self._clock = clock
        self._tape = tape
        self._saving: Saving | None = None
        self._saved = time.monotonic()
        if study.folder is not None:
            self._open(Path(study.folder), resume)

    def work(self, source: Source, each: Callable[[Study], object] | None) -> Report:
        """Train until all gradient steps are taken, or `each` wants to stop; what it came to."""
        stopped = ""
        try:
            self.training.run(source, self.study.steps, lambda: self._after(each))
        except Checkpointed as error:  # raised on all trainers
            stopped = str(error)
        source.close()
        return self._report(stopped)

    def save(self) -> None:
        """Keep where the training is; nothing without a folder."""
        if self._saving is None:
            return
        before = self._clock.turn("saving")
        if self._tape:
            self._tape.flush()
        self._saving.save(self.training)
        self._saved = time.monotonic()
        self._clock.turn(before)

    def surrogate(self) -> Surrogate:
        """What is trained until now."""
        study, training = self.study, self.training
        identity = study.identity()
        return Surrogate(
            training.engine.export(),
            training.normaliser,
            view=study.view,
            space=study.solver.space,
            fields=Fields.of(study.solver.fields),
            about={**identity, "gradient steps": training.done, "engine": training.engine.about()},
        )

    def _after(self, each: Callable[[Study], object] | None) -> None:
        """What is done after a gradient step."""
        if self.training.due:
            self.save()
        self.training.wish = time.monotonic() > self._saved + self.study.save_every
        if each:
            each(self.study)

    def _open(self, folder: Path, resume: bool) -> None:
        place = folder / "checkpoint"
        with together(self.training.comm):
            if self.training.comm.rank == 0 and not resume:
                set_aside(place)
        self._saving = Saving(place, self.training.comm, self.study.identity())
        if resume and self._saving.exists():
            self.ahead = self._saving.load(self.training)

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


def _training(study: Study, alarm: Alarm, clock: Clock, buffer: Buffer, tape: Any) -> Training:
    """The training before its first gradient step."""
    me, team, solver = study.roles.trainer or 0, study.roles.team, study.solver
    fields = Fields.of(solver.fields)
    view = views.parse(study.view).bind(solver.space.size, fields)
    random = space.random(study.seed, space.BUFFER, me)
    intake = Intake(
        progress=Progress(solver.steps, study.trainers),
        view=view,
        buffer=buffer.bind(view.columns, random, view.leaves),
        validation=_validation(study, me, fields),
        schedule=study.schedule,
        batch=study.batch,
        lanes=study.lanes,
        alarm=alarm,
        clock=clock,
        deadline=study.deadline,
        record=tape.write if tape else None,
    )
    shapes = dict(zip(fields.names, fields.shapes, strict=True))
    return Training(
        comm=team,
        agreement=Agreement(team, alarm, study.deadline),
        clock=clock,
        intake=intake,
        normaliser=Normaliser(view.scalars, view.history, fields, study.ranges),
        engine=engine.make(
            study.model,
            Shapes(view.scalars, view.history, shapes),
            team,
            study.seed,
            study.options,
        ),
        sampler=study.sampler.bind(solver.space, study.seed),
        batch=study.batch,
        validate_every=study.validate_every,
    )


def _validation(study: Study, me: int, fields: Fields) -> Validation:
    """A trainer's share of the validation samples."""
    mine = len(range(me, study.validation, study.trainers))  # simulations -1-me, ...
    view = views.parse(study.view).bind(study.solver.space.size, fields)
    return Validation(view, mine * study.solver.steps, study.batch)
