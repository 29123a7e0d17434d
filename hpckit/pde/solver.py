"""What all solvers share: fields, a clock, and the checks that keep them sane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hpckit.arguments import per_dimension
from hpckit.comm.device import HOST
from hpckit.errors import ConfigError, same, together
from hpckit.pde.backend import BACKENDS, Place

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.halo import Halo


class Solver:
    """Fields on a grid that advance in steps: the base of all solvers.

    ::

        solver.set("temperature", 1.0)
        while solver.time < 10.0:
            solver.step(0.9 * solver.dt_max)

    Attributes
    ----------
    fields : name to local array with ghosts. Owned cells are the state; a step may put another
        array under a name. Those of a device are copied to the host when asked for: to write to
        them, see `changing`.
    place : where they are: `HOST` or a device.
    halo : how its ghosts are filled.
    time : seconds (or whatever unit the coefficients have) since the start.
    dt_max : the largest stable time step.
    bytes_per_step : bytes that one step must move between memory and this rank's core, each array
        once.
    """

    kernels: ClassVar[str] = "hpckit.pde.kernels"  # the module of its own, where it has one
    fields: Mapping[str, np.ndarray]
    halo: Halo
    dt_max: float
    bytes_per_step: int

    def __init__(
        self, grid: Grid, dtype: DTypeLike, threads: int, method: str, place: Place = HOST
    ) -> None:
        with together(grid.comm):
            self.dtype = np.dtype(dtype)
            if self.dtype not in (np.float32, np.float64):
                raise ConfigError(f"dtype {self.dtype} has no kernels: use float64 or float32")
            if threads < 1:
                raise ConfigError(f"threads={threads} must be at least 1")
            if min(min(w) for w in grid.width) < 1:
                raise ConfigError(
                    f"ghost width {grid.width} must be at least 1 on every side: make"
                    " Grid(..., width=1)"
                )
            if getattr(place, "kind", None) not in BACKENDS:
                raise ConfigError(
                    f"place={place!r} must be a device, as hpckit.device(comm, 'cuda') gives, or"
                    " hpckit.comm.device.HOST"
                )
            backend = BACKENDS[place.kind]
            self._backend = backend(place, grid, self.dtype, threads, method, self.kernels)
        same(grid.comm, "the place of a solver's fields", place.name)
        self.grid = grid
        self.place = place
        self.method = method
        self.time = 0.0
        self.fields = {}
        self._threads = threads

    def step(self, dt: float) -> None:
        """Advance by `dt`. Raises `ConfigError` beyond `dt_max`."""
        raise NotImplementedError

    def advance(self, dt: float, count: int) -> None:
        """`count` steps of `dt`, with the same bits; the faster way on small grids of one rank. ::

        solver.advance(0.01 / 41, 41)
        """
        for _ in range(count):
            self.step(dt)

    def set(self, name: str, values: ArrayLike) -> None:
        """Set the owned cells of a field (collective).

        values : a number, or an array of this rank's owned shape.

        Raises `ConfigError` on all ranks where there is no such field, the shape is wrong or a
        value is not finite.
        """
        if name not in self.fields:
            raise ConfigError(f"no field {name!r}: choose one of {', '.join(self.fields)}")
        with self.changing() as fields:
            self._assign(name, fields[name], values)

    def changing(self) -> AbstractContextManager[Mapping[str, np.ndarray]]:
        """The fields, to be written to: those of a device take what they hold at the end. ::

        with heat.changing() as fields:
            fields["temperature"][heat.grid.owned] *= 2
        """
        return self._backend.changing(self.fields)

    def has_nan(self) -> bool:
        """Whether an owned cell of this rank is NaN."""
        return self._backend.has_nan(self.fields)

    def synchronize(self) -> None:
        """Wait until all steps are done: those on a device are only enqueued."""
        self._backend.synchronize()

    def _assign(self, name: str, array: np.ndarray, values: ArrayLike) -> None:
        owned = array[self.grid.owned]
        with together(self.grid.comm):
            if np.shape(values) not in ((), owned.shape):
                raise ConfigError(
                    f"{name} has shape {np.shape(values)}, but this rank owns {owned.shape} cells"
                )
            owned[...] = values
        _check_finite(self.grid, name, owned)

    def _streams(self, arrays: int) -> bool:
        """Whether this many arrays of all ranks of this node exceed its caches."""
        cells = math.prod(self.grid.local_shape)
        return arrays * cells * self.dtype.itemsize * self.grid.node_comm.size > _cache_bytes()

    def _check_step(self, dt: float) -> None:
        if not 0 < dt <= self.dt_max:
            raise ConfigError(
                f"time step {dt:g} is unstable or not positive: use one in (0, {self.dt_max:.6g}]"
            )


def spacings(spacing: float | Sequence[float], ndim: int) -> tuple[float, ...]:
    """One positive cell size per dimension."""
    return per_dimension("spacing", spacing, ndim, partial(positive, "spacing"), "positive number")


def positive(name: str, value: float) -> float:
    """`value`, if it is a positive finite number."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{name}={value} must be a positive number")
    return float(value)


def _check_finite(grid: Grid, name: str, owned: np.ndarray) -> None:
    """Raise on all ranks where a value is NaN or infinite: how many, and where the first one is."""
    bad = np.flatnonzero(~np.isfinite(owned))
    place = np.unravel_index(bad[0], owned.shape) if bad.size else ()
    found = grid.comm.allgather(
        (bad.size, tuple(int(i) + s for i, s in zip(place, grid.start, strict=False)))
    )
    count = sum(each for each, _ in found)
    if count:
        first = min(index for each, index in found if each)
        raise ConfigError(
            f"{name} has {count} value{'s' * (count > 1)} that are NaN or infinite, the first at "
            f"global index {first}: fill the gaps in the input first"
        )


@cache
def _cache_bytes() -> int:
    """Size of the last-level cache; 32 MB where Linux does not tell."""
    sizes = [
        p.read_text().strip()
        for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(
        (int(s.rstrip("KM")) * {"K": 2**10, "M": 2**20}[s[-1]] for s in sizes if s[-1] in "KM"),
        default=2**25,
    )
