"""Batches for a training loop of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError
from hpckit.surrogate import space, views
from hpckit.surrogate.intake import Intake
from hpckit.surrogate.ledger import Ledger
from hpckit.surrogate.solver import Fields
from hpckit.surrogate.validation import Validation

if TYPE_CHECKING:
    from hpckit.surrogate.running import Running
    from hpckit.surrogate.settings import Settings
    from hpckit.surrogate.sources import Source


class Samples:
    """An iterator of batches (x, y), float32, in physical units: new arrays each time.

    It ends when all simulations have come and the buffer is empty. `state` and `restore` make a
    loop go on where it was: each step of each simulation comes once.
    """

    def __init__(self, settings: Settings, running: Running) -> None:
        solver = settings.solver
        self._settings = settings
        self._running = running
        self._view = views.parse(settings.view).bind(solver.space.size, Fields.of(solver.fields))
        self._sampler = settings.bound_sampler()
        self._intake = _intake(settings, running, self._view)
        self._drawn: dict[str, np.ndarray] = {
            name: np.empty((settings.batch, *shape), dtype)
            for name, (shape, dtype) in self._view.columns.items()
        }
        self._source: Source | None = None
        self._ahead: Any = None

    def __iter__(self) -> Samples:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        if self._source is None:
            self._source = self._running.source(
                self._settings.simulations, self._sampler, self._intake.ledger, self._ahead
            )
        self._intake.fill(self._source)
        self._running.clock.turn("training")
        count = self._intake.buffer.draw(self._settings.batch, self._drawn)
        if not count:
            raise StopIteration
        x, y = self._view.gather({name: rows[:count] for name, rows in self._drawn.items()})
        return x.copy(), y.copy()

    def state(self) -> dict[str, Any]:
        """All that a loop needs to go on from here: arrays, copied, and what JSON can hold."""
        arrays, facts = self._intake.buffer.state()
        return {
            "buffer": {name: array.copy() for name, array in arrays.items()},
            "facts": dict(facts),
            "view": {name: array.copy() for name, array in self._view.state().items()},
            "ledger": self._intake.ledger.state(),
            "sampler": self._sampler.state(),
            "ahead": self._source.state() if self._source else self._ahead,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; before the first batch."""
        if self._source is not None:
            raise ConfigError("a state is restored before the first batch, not after it")
        buffer, view = (
            {name: array.copy() for name, array in state[part].items()}
            for part in ("buffer", "view")
        )
        self._intake.buffer.restore(buffer, state["facts"])
        self._view.restore(view)
        self._intake.ledger.restore(state["ledger"])
        self._sampler.restore(state["sampler"])
        self._ahead = state["ahead"]

    def close(self) -> None:
        """Tell solver ranks that no more is needed."""
        if self._source is None:
            self._source = self._running.source(0, self._sampler, self._intake.ledger)
        self._source.close()


def _intake(settings: Settings, running: Running, view: views.BoundView) -> Intake:
    random = space.random(settings.seed, space.BUFFER, settings.trainer)
    return Intake(
        ledger=Ledger(settings.solver.steps, settings.trainers),
        view=view,
        buffer=settings.buffer.bind(view.columns, random, view.leaves),
        validation=Validation(view, 0, settings.batch),
        schedule=settings.schedule,
        batch=settings.batch,
        lanes=settings.lanes,
        clock=running.clock,
        wait_for=running.wait_for,
    )
