"""What happens after each gradient step, on the trainers: a line now and then, a stop in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpckit.log import INTERVAL
from hpckit.program.loop import At, Every, Loop, When
from hpckit.program.run import say

if TYPE_CHECKING:
    from hpckit.program.stop import StopSignal
    from hpckit.surrogate.study import Study
    from hpckit.surrogate.training import Training

_POINTS = 400  # of the curve of the buffer
_INTERVAL = 1.0  # seconds between two meetings of the trainers


class Monitor:
    """To be called after each gradient step of a study (collective over the trainers).

    until : when to stop at the latest, in seconds of `time.monotonic`
    keep : whether a checkpoint is wanted at the end too, as where more comes after it
    buffer : gradient step, population and unseen, now and then
    before : gradient steps of the run that this one goes on with
    called : whether there was a gradient step
    """

    def __init__(self, stop: StopSignal, until: float, keep: bool = False) -> None:
        self.before = 0
        self.buffer: list[tuple[int, int, int]] = []
        self._stop = stop
        self._until = until
        self._keep = keep
        self._loop: Loop | None = None
        self._told, self._told_at = 0.0, 0  # when the last line was, and its gradient step

    @property
    def called(self) -> bool:
        return self._loop is not None

    def __call__(self, study: Study) -> None:
        training = study.training
        if training.done % max(1, study.steps // _POINTS) == 0:
            buffer = training.intake.buffer
            self.buffer.append((training.done, buffer.population, buffer.unseen))
        if self._loop is None:  # its first meeting is after the next step, whose time it takes
            self.before = training.done - 1
            self._loop = self._begin(study, training)
            return
        self._stop.obey(study.wish())
        self._loop.advance()

    def _begin(self, study: Study, training: Training) -> Loop:
        self._told, self._told_at = time.monotonic(), training.done
        actions: list[tuple[When, Callable[[], object]]] = [
            (When(), lambda: self._tell(study, training)),
            (Every(at_stop=True), study.save),
        ]
        if self._keep:
            actions.append((At({study.steps}), study.save))
        return Loop(
            training.comm,
            actions,
            stop=self._stop,
            stopped=lambda: (
                f"stopped after {training.done} gradient steps: run again with --resume to go on"
            ),
            steps=study.steps,
            done=training.done,
            until=self._until,
            interval=_INTERVAL,
        )

    def _tell(self, study: Study, training: Training) -> None:
        now, done = time.monotonic(), training.done
        if now < self._told + INTERVAL and done < study.steps:
            return
        samples = (done - self._told_at) * study.batch * study.trainers
        rate = samples / max(now - self._told, 1e-9)
        self._told, self._told_at = now, done
        say(training.comm, line(study, training, rate))


def line(study: Study, training: Training, rate: float) -> str:
    """How far a training is; rate : samples per second."""
    scores, buffer = training.history.scores, training.intake.buffer
    seconds = {k: v for k, v in training.clock.seconds.items() if k != "starting"}
    waiting = seconds.get("waiting", 0.0) / (sum(seconds.values()) or 1.0)
    judged = f", validation {100 * scores[-1].mean:.3g} %" if scores else ""
    return (
        f"{training.done:7,} of {study.steps:,} gradient steps, loss {training.loss:.3g}{judged}, "
        f"{rate:,.0f} samples/s, buffer {buffer.population:,} ({buffer.unseen:,} unseen), "
        f"waiting {100 * waiting:.0f} %"
    )
