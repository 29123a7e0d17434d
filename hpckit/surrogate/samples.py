"""Batches for a training loop of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpckit.errors import ConfigError
from hpckit.surrogate.intake import Intake

if TYPE_CHECKING:
    import numpy as np

    from hpckit.surrogate.running import Running
    from hpckit.surrogate.settings import Settings
    from hpckit.surrogate.sources import Source


class Samples:
    """An iterator of batches (x, y), float32, in physical units: new arrays each time.

    It ends when all simulations have come and the buffer is empty. `state` and `restore` make a
    loop go on where it was: each step of each simulation comes once.
    """

    def __init__(self, settings: Settings, running: Running) -> None:
        self._settings = settings
        self._running = running
        self._sampler = settings.bound_sampler()
        self._intake = Intake(settings, running.clock, running.wait_for)
        self._view = self._intake.view
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
        rows = self._intake.draw()
        if not len(rows["simulation"]):
            raise StopIteration
        x, y = self._view.gather(rows)
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
