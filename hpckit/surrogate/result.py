"""What a study came to."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hpckit.surrogate.buffer import BINS
from hpckit.surrogate.training import History, Training

if TYPE_CHECKING:
    from hpckit.surrogate.surrogate import Surrogate
    from hpckit.surrogate.validation import Score


@dataclass
class Report:
    """What one rank did.

    role : "trainer" or "solver"
    seconds : of each kind of work: of a trainer "training", "receiving" (without solver ranks it
        solves then), "waiting", "validating" and "saving"; of a solver "solving" and "waiting"
    steps : that came to a trainer, by lane
    received : samples that came to its buffer; drawn : how often one was drawn
    reuse : (64,), how many samples were drawn 0, 1, 2, ... times; the last: that often or more
    left : samples that were drawn when another trainer had none any more
    stopped : what it says where it stopped before the end
    """

    role: str
    seconds: dict[str, float] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    received: int = 0
    drawn: int = 0
    reuse: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    left: int = 0
    losses: array[float] = field(default_factory=lambda: array("d"))
    scores: list[Score] = field(default_factory=list)
    stopped: str = ""

    @property
    def utilisation(self) -> float:
        """The part of the time, from its first step on, in which it did what it is for."""
        work = "training" if self.role == "trainer" else "solving"
        whole = sum(each for kind, each in self.seconds.items() if kind != "starting")
        return self.seconds.get(work, 0.0) / whole if whole else 0.0


@dataclass(frozen=True)
class Result:
    """What a study came to, the same on all ranks, but for what only trainers have.

    history : losses, as means over the trainers, and validation scores
    ranks : what each of them did
    surrogate : what was trained; None on the others
    training : this trainer's, with its buffer and validation samples; None on the others
    """

    history: History
    ranks: list[Report]
    surrogate: Surrogate | None
    training: Training | None

    @property
    def steps(self) -> int:
        """Gradient steps."""
        return len(self.history.losses)

    @property
    def trainers(self) -> list[Report]:
        """What the trainers did."""
        return [rank for rank in self.ranks if rank.role == "trainer"]

    @property
    def received(self) -> int:
        """Samples that came to buffers."""
        return sum(trainer.received for trainer in self.trainers)

    @property
    def drawn(self) -> int:
        """How often one was drawn."""
        return sum(trainer.drawn for trainer in self.trainers)

    @property
    def reuse(self) -> float:
        """How often a sample was drawn on average."""
        return self.drawn / self.received if self.received else math.nan


def result(
    ranks: list[Report], surrogate: Surrogate | None = None, training: Training | None = None
) -> Result:
    """The result of what all ranks report."""
    trainers = [rank for rank in ranks if rank.role == "trainer"]
    losses = np.mean([trainer.losses for trainer in trainers], axis=0)
    return Result(History(array("d", losses), trainers[0].scores), ranks, surrogate, training)
