"""Read a result file back, as `FieldFile` wrote it: whole, or while it is still being written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hpckit.errors import ConfigError
from hpckit.io.vtkhdf import FOLDERS, IMAGE, TIMES


class Results:
    """The fields and times of a result file, for one process: no communication (serial h5py).

    ::

        with Results("out.vtkhdf") as results:
            for i, time in enumerate(results.times):
                print(time, results.read("h", i).max())

    names : of the fields, sorted
    times : (steps,) float64, in the unit of the run; NaN where a step is not complete
    origin, spacing : lower corner and cell size, one number per dimension, in the order of the
        grid; None of a grid of four dimensions, whose files do not say

    Raises `ConfigError` where there is no such file, or it is none of ours.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import h5py

        self.path = Path(path)
        try:
            self._file = h5py.File(self.path)
        except OSError as error:
            raise ConfigError(f"cannot read results from {path}: {error}") from None
        self._data = {
            name: data
            for folder in FOLDERS
            for name, data in self._file.get(folder, {}).items()  # type: ignore[union-attr]
        }
        times: Any = next((self._file[place] for place in TIMES if place in self._file), None)
        if times is None or not self._data:
            self._file.close()
            raise ConfigError(f"{path} holds no results: it has no times, or no fields")
        self.names = tuple(sorted(self._data))
        self.times: np.ndarray = times[:]
        self.origin = self._attribute("Origin")
        self.spacing = self._attribute("Spacing")

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one step of a field: that of the grid, one more where it is staggered."""
        return self._dataset(name).shape[1:]

    def read(self, name: str, step: int = -1, region: Any = ()) -> np.ndarray:
        """A field at a step, the last one by default: an array of `shape(name)`, the caller's.

        region : what of it is wanted, as an index, such as `np.s_[::4, ::4]` for every fourth cell;
            only that is read

        Raises `ConfigError` where there is no such field or step.
        """
        data, steps = self._dataset(name), len(self.times)
        if not -steps <= step < steps:
            raise ConfigError(f"{self.path} has steps 0 to {steps - 1}, not {step}")
        region = region if isinstance(region, tuple) else (region,)
        return np.asarray(data[(step % steps, *region)])

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dataset(self, name: str) -> Any:
        if name not in self._data:
            raise ConfigError(f"{self.path} has no field {name!r}, only {', '.join(self.names)}")
        return self._data[name]

    def _attribute(self, key: str) -> tuple[float, ...] | None:
        """Numbers per dimension that VTK keeps in its order, x first, and always three of."""
        if IMAGE not in self._file:
            return None
        ndim = min(data.ndim - 1 for data in self._data.values())
        numbers: Any = self._file[IMAGE].attrs[key]
        return tuple(map(float, numbers[:ndim][::-1]))
