"""Samples that judge a surrogate: of simulations of their own, which it is never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpckit.surrogate import metrics

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.engine import Engine
    from hpckit.surrogate.normaliser import Normaliser
    from hpckit.surrogate.views import BoundView


class Score(NamedTuple):
    """How far predictions are from the validation samples, after so many gradient steps.

    mean, p95, p99 : of the samples' relative L2 errors, in physical units
    mse : mean squared error in normalised units, as the training loss
    """

    step: int
    mean: float
    p95: float
    p99: float
    mse: float


class Validation:
    """One trainer's validation samples.

    view : bound, one of its own
    steps : that will come; batch : samples that are predicted at once
    """

    def __init__(self, view: BoundView, steps: int, batch: int) -> None:
        self.view = view
        self.columns = {
            name: np.empty((steps, *shape), dtype) for name, (shape, dtype) in view.columns.items()
        }
        self.samples = 0
        self._left = steps
        self._batch = batch

    @property
    def complete(self) -> bool:
        """Whether all steps have come."""
        return self._left == 0

    def put(self, message: Any) -> None:
        """Keep the sample that this step makes, if it makes one."""
        self._left -= 1
        row = self.view.feed(message)
        if row is not None:
            for name, column in self.columns.items():
                column[self.samples] = row[name]
            self.samples += 1

    def score(
        self, step: int, engine: Engine, normaliser: Normaliser, comm: MPI.Intracomm
    ) -> Score | None:
        """Judge the engine by all trainers' samples; None where there are none (collective)."""
        errors, squares = self._errors(engine, normaliser)
        squares = np.concatenate(comm.allgather(squares))
        found = metrics.summary(errors, comm)
        return Score(step, *found, float(squares.mean())) if len(squares) else None

    def _errors(self, engine: Engine, normaliser: Normaliser) -> tuple[np.ndarray, np.ndarray]:
        """Of each sample the relative L2 error, and the mean squared one in normalised units."""
        errors, squares = np.empty((2, self.samples))
        for start in range(0, self.samples, self._batch):
            part = slice(start, min(start + self._batch, self.samples))
            rows = {name: column[part].copy() for name, column in self.columns.items()}
            x, y = self.view.gather(rows)
            true = y.copy()
            normaliser.inputs(x)
            normaliser.outputs(y)
            predicted = engine.predict(x)
            squares[part] = np.square(predicted - y, dtype=np.float64).mean(axis=1)
            normaliser.undo(predicted)
            errors[part] = metrics.relative_l2(true, predicted)
        return errors, squares

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Arrays, not copied, and JSON."""
        kept = {f"column {name}": each[: self.samples] for name, each in self.columns.items()}
        facts = {"samples": self.samples, "left": self._left}
        return kept | {f"view {k}": each for k, each in self.view.state().items()}, facts

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, int]) -> None:
        """Go on where a state was taken."""
        self.samples = facts["samples"]
        self._left = facts["left"]
        for name, column in self.columns.items():
            column[: self.samples] = arrays[f"column {name}"]
        self.view.restore({name: arrays[f"view {name}"] for name in self.view.state()})
