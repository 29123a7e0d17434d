"""The gradient steps of a trainer: draw, train, judge; and what became of it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import HpckitError
from hpckit.surrogate.agreement import Agreement
from hpckit.surrogate.clock import Clock
from hpckit.surrogate.engine import Engine
from hpckit.surrogate.intake import Intake
from hpckit.surrogate.normaliser import Normaliser
from hpckit.surrogate.space import Sampler

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.sources import Source
    from hpckit.surrogate.validation import Score


@dataclass
class History:
    """What became of a surrogate while it was trained.

    losses : mean squared error of each gradient step's samples before it, in normalised units
    scores : of the validation samples, now and then
    """

    losses: array[float] = field(default_factory=lambda: array("d"))
    scores: list[Score] = field(default_factory=list)


class Training:
    """One trainer's gradient steps (collective over the trainers in all methods).

    source : where its steps come from
    comm : of the trainers
    left : samples that were drawn when another trainer had none any more
    wish : whether this trainer would like a checkpoint
    due : whether one did, before the last gradient step; the same on all
    """

    def __init__(
        self,
        *,
        comm: MPI.Intracomm,
        agreement: Agreement,
        clock: Clock,
        intake: Intake,
        normaliser: Normaliser,
        engine: Engine,
        sampler: Sampler,
        validate_every: int,
    ) -> None:
        self.comm = comm
        self.clock = clock
        self.intake = intake
        self.normaliser = normaliser
        self.engine = engine
        self.sampler = sampler
        self.history = History()
        self.left = 0
        self.wish = False
        self.due = False
        self._agreement = agreement
        self._validate_every = validate_every

    @property
    def done(self) -> int:
        """Gradient steps that were taken."""
        return len(self.history.losses)

    @property
    def loss(self) -> float:
        """That of the last gradient step; 0 before the first."""
        return self.history.losses[-1] if self.history.losses else 0.0

    def run(self, source: Source, steps: int, after: Callable[[], None]) -> None:
        """Take gradient steps until there were so many, or a trainer has no samples any more.

        after : called after each of them
        """
        self.source = source
        while self.done < steps and self._advance():
            if self.done % self._validate_every == 0 or self.done == steps:
                self.validate()
            after()
        if self.done and self.done not in (score.step for score in self.history.scores[-1:]):
            self.validate()

    def fail(self) -> None:
        """Tell trainers that wait for this one that it has failed (not collective)."""
        self._agreement.fail()

    def validate(self) -> None:
        """Judge the surrogate as it is now."""
        self.clock.turn("validating")
        validation = self.intake.validation
        score = validation.score(self.done, self.engine, self.normaliser, self.comm)
        if score:
            self.history.scores.append(score)

    def _advance(self) -> bool:
        """One gradient step; False where some trainer has no batch, and will have none."""
        self.intake.fill(self.source)
        if not self.normaliser.frozen:
            self._observe()
        self.clock.turn("training")
        rows = self.intake.draw()
        count = len(rows["simulation"])
        finite = math.isfinite(self.loss)
        all_have, all_finite, none_wishes = self._agree(count > 0, finite, not self.wish)
        self.due = not none_wishes
        if not all_finite:
            raise HpckitError(
                f"the loss of gradient step {self.done} is not a finite number: choose a lower"
                " learning rate"
            )
        if not all_have:
            self.left += count
            return False
        self._learn(rows)
        return True

    def _agree(self, *numbers: int) -> tuple[int, ...]:
        before = self.clock.turn("waiting")
        found = self._agreement.smallest(*numbers)
        self.clock.turn(before)
        return found

    def _learn(self, rows: dict[str, np.ndarray]) -> None:
        x, y = self.intake.view.gather(rows)
        self.normaliser.inputs(x)
        self.normaliser.outputs(y)
        losses: Any = self.engine.step(x, y)  # all have a batch
        self.sampler.learn(rows["simulation"], losses)
        self.history.losses.append(float(losses.mean()))

    def _observe(self) -> None:
        """Settle what is normal by the samples that are there before the first gradient step."""
        self._agree()
        buffer, view, batch = self.intake.buffer, self.intake.view, self.intake.batch
        for start in range(0, buffer.population, batch):
            part = slice(start, min(start + batch, buffer.population))
            rows = {name: column[part] for name, column in buffer.columns.items()}
            self.normaliser.observe(*view.gather(rows))
        self.normaliser.freeze(self.comm)
