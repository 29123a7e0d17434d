"""What comes to a trainer: steps of simulations, noted, kept on tape, and made samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.surrogate import space
from hpckit.surrogate.ledger import Ledger
from hpckit.surrogate.validation import Validation

if TYPE_CHECKING:
    from hpckit.surrogate.clock import Clock
    from hpckit.surrogate.settings import Settings
    from hpckit.surrogate.sources import Source


class Intake:
    """The way of steps from their source to a trainer's buffer, and of batches out of it.

    wait_for : returns when a source has a message, or is over
    record : called with each message, as a tape's `write`
    validation : this trainer's share of the validation samples
    lanes : steps that came, by lane
    batch : samples of a gradient step
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        wait_for: Callable[[Source], None],
        record: Callable[[Any], None] | None = None,
    ) -> None:
        me, steps = settings.trainer, settings.solver.steps
        judged = len(range(me, settings.validation, settings.trainers))  # simulations -1-me, ...
        self.ledger = Ledger(steps, settings.trainers)
        self.view = settings.bound_view()
        self.buffer = settings.buffer.bind(
            self.view.columns, space.random(settings.seed, space.BUFFER, me), self.view.leaves
        )
        self.validation = Validation(settings.bound_view(), judged * steps, settings.batch)
        self.lanes = [0] * settings.lanes
        self.batch = settings.batch
        self._schedule = settings.schedule
        self._clock = clock
        self._wait_for = wait_for
        self._record = record
        self._drawn: dict[str, np.ndarray] = {
            name: np.empty((self.batch, *shape), dtype)
            for name, (shape, dtype) in self.view.columns.items()
        }

    def fill(self, source: Source) -> None:
        """Take steps as the schedule says, and until there is a batch or nothing more comes."""
        self._clock.turn("receiving")
        buffer = self.buffer
        taken = 0
        while not source.over and buffer.accepts():
            if self._schedule.enough(taken) and self._ready():
                break
            message = source.peek()
            if message is not None:
                self._take(message)
                source.drop()
                taken += 1
            elif self._ready() and not self._schedule.waits(buffer.received, buffer.drawn):
                break
            else:
                self._wait_for(source)
        if source.over and not buffer.finished:
            buffer.finish()

    def draw(self) -> dict[str, np.ndarray]:
        """The rows of a batch, until the next one is drawn; none where nothing is left."""
        count = self.buffer.draw(self.batch, self._drawn)
        return {name: rows[:count] for name, rows in self._drawn.items()}

    def _ready(self) -> bool:
        """Whether there is a batch.

        The first one comes from a full buffer, or one with more than its threshold: what is there
        then says what is normal.
        """
        first = self.buffer.drawn == 0 and self.buffer.threshold == 0
        return self.buffer.ready(self.batch) and self.validation.complete and not first

    def _take(self, message: Any) -> None:
        simulation = int(message["simulation"])
        self.ledger.take(simulation, int(message["step"]))
        if self._record:
            self._record(message)
        if simulation < 0:
            self.validation.put(message)
            return
        self.lanes[message["lane"]] += 1
        row = self.view.feed(message)
        if row is not None:
            self.buffer.put(row)
