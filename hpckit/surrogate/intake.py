"""What comes to a trainer: steps of simulations, noted, kept on tape, and made samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpckit.surrogate.buffer import Buffer
from hpckit.surrogate.clock import Clock
from hpckit.surrogate.ledger import Ledger
from hpckit.surrogate.schedule import Schedule
from hpckit.surrogate.sources import Source
from hpckit.surrogate.validation import Validation
from hpckit.surrogate.views import BoundView


class Intake:
    """The way of steps from their source to a trainer's buffer.

    batch : samples of a gradient step
    wait_for : returns when a source has a message, or is over
    record : called with each message, as a tape's `write`
    lanes : steps that came, by lane
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        view: BoundView,
        buffer: Buffer,
        validation: Validation,
        schedule: Schedule,
        batch: int,
        lanes: int,
        clock: Clock,
        wait_for: Callable[[Source], None],
        record: Callable[[Any], None] | None = None,
    ) -> None:
        self.ledger = ledger
        self.view = view
        self.buffer = buffer
        self.validation = validation
        self.lanes = [0] * lanes
        self._schedule = schedule
        self._batch = batch
        self._clock = clock
        self._wait_for = wait_for
        self._record = record

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

    def _ready(self) -> bool:
        """Whether there is a batch.

        The first one comes from a full buffer, or one with more than its threshold: what is there
        then says what is normal.
        """
        first = self.buffer.drawn == 0 and self.buffer.threshold == 0
        return self.buffer.ready(self._batch) and self.validation.complete and not first

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
