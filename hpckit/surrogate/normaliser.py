"""What networks see instead of physical units: numbers about 0, of size about 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.solver import Fields

_RESOLVED = float(np.finfo(np.float32).eps)  # deviations below this share of the mean are rounding


class Normaliser:
    """Takes the mean away and divides by the deviation, one of each per scalar and per field.

    ::

        normaliser = Normaliser(view.scalars, view.history, fields)
        normaliser.observe(x, y)  # batches, until there are enough
        normaliser.freeze(comm)
        normaliser.inputs(x)
        normaliser.outputs(y)

    They are those of the samples that were observed, by Welford's and Chan's formulas (Chan,
    Golub, LeVeque 1979, equation 2.1), which rank after rank gives the same bits on all trainers.
    What does not vary is not divided.

    scalars : first columns of x: parameters, time; history : whole fields after them
    ranges : (scalars + fields, 2), what becomes -1 and 1, instead of what is observed
    """

    def __init__(self, scalars: int, history: int, fields: Fields, ranges: Any = None) -> None:
        self._scalars = scalars
        self._history = history
        self._slices = tuple(fields.slices)
        self._names = tuple(fields.names)
        self._moments = np.zeros((scalars + len(self._slices), 3))  # count, mean, sum of squares
        self.frozen = False
        if ranges is not None:
            self._given(np.asarray(ranges, np.float64))

    def observe(self, x: np.ndarray, y: np.ndarray) -> None:
        """Learn from samples in physical units: x (B, at least scalars), y (B, outputs)."""
        scalars = x[:, : self._scalars].T
        columns = [*scalars, *(y[:, part] for part in self._slices)]
        for moments, values in zip(self._moments, columns, strict=True):
            mean = values.mean(dtype=np.float64)
            spread = (values - mean).ravel()
            _merge(moments, spread.size, mean, np.dot(spread, spread))

    def freeze(self, comm: MPI.Intracomm | None = None) -> None:
        """Settle mean and deviation, over what all trainers have seen (collective)."""
        if self.frozen:
            return
        of_all = [self._moments] if comm is None else comm.allgather(self._moments)
        total = np.zeros_like(self._moments)
        for moments in of_all:
            _merge(total.T, *moments.T)
        if not total[:, 0].all():
            raise ConfigError("there was no sample to take mean and deviation from")
        self._moments = total
        self._settle()

    def inputs(self, x: np.ndarray) -> None:
        """Normalise x (B, inputs) float32 in place."""
        x -= self._x_mean
        x /= self._x_deviation

    def outputs(self, y: np.ndarray) -> None:
        """Normalise y (B, outputs) float32 in place."""
        y -= self._y_mean
        y /= self._y_deviation

    def undo(self, y: np.ndarray) -> None:
        """Give y (B, outputs) float32 its physical units, in place."""
        y *= self._y_deviation
        y += self._y_mean

    @property
    def mean(self) -> np.ndarray:
        """(scalars + fields,) float64."""
        return self._moments[:, 1]

    @property
    def deviation(self) -> np.ndarray:
        """(scalars + fields,) float64; 1 where nothing varies."""
        count, mean, squares = self._moments.T
        deviation = np.sqrt(squares / np.maximum(count, 1))
        return np.where(deviation > _RESOLVED * abs(mean), deviation, 1.0)

    def state(self) -> dict[str, Any]:
        """JSON from which `restore` makes the same numbers, bit for bit."""
        return {"moments": self._moments.tolist(), "frozen": self.frozen}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state; `ConfigError` where it is of other scalars or fields."""
        moments = np.array(state["moments"], np.float64)
        if moments.shape != self._moments.shape:
            raise ConfigError(
                f"mean and deviation of {len(moments)} scalars and fields were saved, here are "
                f"{len(self._moments)}: go on with the view and the solver that were saved"
            )
        self._moments = moments
        self.frozen = state["frozen"]
        if self.frozen:
            self._settle()

    def _given(self, ranges: np.ndarray) -> None:
        if ranges.shape != (len(self._moments), 2) or not (ranges[:, 0] < ranges[:, 1]).all():
            raise ConfigError(
                f"ranges must be (low, high) for each of {self._scalars} parameters and time, and "
                f"for {', '.join(self._names)}; got {ranges.tolist()}"
            )
        low, high = ranges.T
        self._moments[:] = np.stack(
            [np.ones_like(low), (low + high) / 2, ((high - low) / 2) ** 2], 1
        )
        self._settle()

    def _settle(self) -> None:
        self.frozen = True
        self._y_mean = self._whole(self.mean)
        self._y_deviation = self._whole(self.deviation)
        self._x_mean = self._columns(self.mean, self._y_mean)
        self._x_deviation = self._columns(self.deviation, self._y_deviation)

    def _whole(self, values: np.ndarray) -> np.ndarray:
        """(outputs,) float32: each field's value in all its places."""
        sizes = [part.stop - part.start for part in self._slices]
        return np.repeat(values[self._scalars :], sizes).astype(np.float32)

    def _columns(self, values: np.ndarray, field: np.ndarray) -> np.ndarray:
        """(inputs,) float32."""
        scalars = values[: self._scalars].astype(np.float32)
        return np.concatenate([scalars, np.tile(field, self._history)])


def _merge(moments: np.ndarray, count: Any, mean: Any, squares: Any) -> None:
    """Add other samples to count, mean and sum of squared deviations (3, ...), in place."""
    total = moments[0] + count
    share = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
    apart = mean - moments[1]
    moments[2] += squares + apart * apart * moments[0] * share
    moments[1] += apart * share
    moments[0] = total
