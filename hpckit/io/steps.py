"""Which steps of a `FieldFile` are there: their times, and what each of them still lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import index

import numpy as np

from hpckit.errors import ConfigError


class Steps:
    """Bookkeeping, the same on all ranks; no file is touched.

    times : (room,) float64, of the steps in the file, NaN where there is none yet; changed in
        place.
    """

    def __init__(self, path: object, fields: Iterable[str], times: np.ndarray) -> None:
        self._path = path
        self._fields = tuple(fields)
        self.times = times
        self._missing: dict[int, list[str]] = {}  # of the steps that were begun

    @property
    def lacking(self) -> list[tuple[int, str]]:
        """Steps that were begun, each with a field that did not come."""
        return [(step, name) for step, names in sorted(self._missing.items()) for name in names]

    def check(self, step: int, time: float) -> None:
        """Raise `ConfigError` unless the step may have this time."""
        if not 0 <= step < len(self.times):
            raise ConfigError(
                f"step {step} of {self._path}: it has room for steps 0 to {len(self.times) - 1}"
            )
        if not math.isfinite(time):
            raise ConfigError(
                f"time {time} of step {step} of {self._path}: it must be a finite number"
            )
        known = self.times[step]
        if time == known:
            return
        if step in self._missing:
            raise ConfigError(
                f"step {step} of {self._path} is at time {known}, so not at {time} too"
            )
        others = range(step - 1, -1, -1)
        before = next((s for s in others if not math.isnan(self.times[s])), None)
        if before is not None and not self.times[before] < time:
            raise ConfigError(
                f"time {time} of step {step} of {self._path}: it must come after that of step "
                f"{before},"
                f" {self.times[before]}"
            )
        later = self._after(step) if math.isnan(known) else []
        if len(later) and not time < self.times[later[0]]:
            raise ConfigError(
                f"time {time} of step {step} of {self._path}: it must come before that of step "
                f"{later[0]},"
                f" {self.times[later[0]]}"
            )

    def begin(self, step: int, time: float) -> list[int]:
        """Note that a field of this step comes; steps that hold no longer, as its time is new."""
        known = self.times[step]
        if time == known:
            return []
        gone = [] if math.isnan(known) else [step, *self._after(step)]
        for each in gone:
            self.times[each] = math.nan
            self._missing.pop(each, None)
        self.times[step], self._missing[step] = time, list(self._fields)
        return gone

    def arrive(self, step: int, name: str) -> bool:
        """Note that the field is there; whether the step has all its fields."""
        missing = self._missing.get(step)
        if missing is None:
            return True
        if name in missing:
            missing.remove(name)
        if not missing:
            del self._missing[step]
        return not missing

    def _after(self, step: int) -> list[int]:
        """The later steps that there are."""
        return [step + 1 + int(i) for i in np.flatnonzero(~np.isnan(self.times[step + 1 :]))]


def planned(path: object, times: int | Sequence[float]) -> int:
    """For how many steps there must be room; `ConfigError` for times without sense."""
    try:
        steps = index(times)  # type: ignore[arg-type]
    except TypeError:
        values = _numbers(path, times)
        if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise ConfigError(
                f"times of {path} must be finite, each later than the one before: {times!r}"
            ) from None
        steps = len(values)
    if steps < 1:
        raise ConfigError(f"times of {path}: room for at least one step is needed, not {steps}")
    return steps


def _numbers(path: object, times: object) -> np.ndarray:
    try:
        values = np.asarray(times, float)
    except (TypeError, ValueError):
        values = np.empty(())
    if values.ndim != 1 or isinstance(times, np.ma.MaskedArray):
        raise ConfigError(
            f"times of {path} must be a number of steps, or a list of numbers, not {times!r}"
        )
    return values
