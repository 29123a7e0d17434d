"""What a study came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hpckit.surrogate.surrogate import Surrogate
    from hpckit.surrogate.training import History


@dataclass(frozen=True)
class Share:
    """What one rank did.

    role : "trainer" or "solver"
    seconds : of each kind of work; of a trainer "training", "receiving" (without solver ranks it
        solves then), "waiting", "validating" and "saving"; of a solver "solving" and "waiting"
    """

    role: str
    seconds: dict[str, float]

    @property
    def utilisation(self) -> float:
        """The part of the time in which it did what it is for."""
        work = "training" if self.role == "trainer" else "solving"
        return self.seconds.get(work, 0.0) / (sum(self.seconds.values()) or 1.0)


@dataclass(frozen=True)
class Result:
    """What a study came to, the same on all ranks.

    steps : gradient steps
    history : losses and validation scores; losses are means over the trainers
    received : samples that came to buffers; drawn : how often one was drawn
    reuse : (64,) int64, how many samples were drawn 0, 1, 2, ... times; the last: so often or more
    lanes : steps that came in each lane
    left : samples that were drawn when another trainer had no more
    ranks : what each did
    surrogate : on trainers; None on the others
    """

    steps: int
    history: History
    received: int
    drawn: int
    reuse: np.ndarray
    lanes: list[int]
    left: int
    ranks: list[Share]
    surrogate: Surrogate | None


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of what trainers counted, and the means of their losses."""
    return {
        "received": sum(part["received"] for part in parts),
        "drawn": sum(part["drawn"] for part in parts),
        "reuse": np.sum([part["reuse"] for part in parts], axis=0),
        "lanes": np.sum([part["lanes"] for part in parts], axis=0).tolist(),
        "left": sum(part["left"] for part in parts),
    }
