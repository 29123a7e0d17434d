"""Input fields: read one, refine it, and find out where on Earth it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, together
from hpckit.io.input import read_field

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config

METRES_PER_DEGREE = 111_195.0  # of latitude, on a sphere of 6371 km


@dataclass(frozen=True)
class Bounds:
    """Edges of a map in degrees; rows run from `south` to `north`, columns from `west` to
    `east`.
    """

    west: float
    east: float
    south: float
    north: float

    @classmethod
    def of(cls, bounds: Sequence[float]) -> Bounds:
        """From [west, east, south, north]; raises `ConfigError` where they make no map."""
        if len(bounds) != 4 or not (bounds[0] < bounds[1] and -90 < bounds[2] < bounds[3] < 90):
            raise ConfigError(
                f"bounds {list(bounds)} must be [west, east, south, north], the map's edges in "
                "degrees"
            )
        return cls(*bounds)

    def degrees(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Degrees between rows and between columns."""
        return (self.north - self.south) / shape[0], (self.east - self.west) / shape[1]

    def centres(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes (ny,) and longitudes (nx,) of the cells' centres."""
        rows, columns = ((np.arange(n) + 0.5) / n for n in shape)
        return self.south + (self.north - self.south) * rows, self.west + (
            self.east - self.west
        ) * columns

    def spacing(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Metres between rows and between columns, the latter at the middle latitude."""
        middle = math.cos(math.radians((self.south + self.north) / 2))
        height, width = self.north - self.south, (self.east - self.west) * middle
        return METRES_PER_DEGREE * height / shape[0], METRES_PER_DEGREE * width / shape[1]


def read_input(grid: Grid, config: Config) -> np.ndarray:
    """This rank's box of the input, refined where asked for: (owned shape), float64
    (collective).
    """
    what = {"name": config.variable or None, "index": config.index or None}
    if config.refine == 1:
        return read_field(config.input, grid, **what)
    coarse = None
    with together(grid.comm):
        if grid.rank == 0:
            coarse = read_field(config.input, Grid(MPI.COMM_SELF, config.shape), **what)
    return refine(grid.comm.bcast(coarse), config.refine, grid.start, grid.stop)


def refine(
    coarse: np.ndarray, factor: int, start: tuple[int, ...], stop: tuple[int, ...]
) -> np.ndarray:
    """The box [start, stop) of `coarse` with `factor` cells per cell and dimension, by Catmull-Rom
    cubics.

    coarse : (ny, nx), values at cell centres; result : float64. Computed point by point, so that a
        cell has the same
    bits whichever rank computes it.
    """
    fine = np.asarray(coarse, dtype=np.float64)
    for axis, (low, high) in enumerate(zip(start, stop, strict=True)):
        fine = _cubic(fine, axis, (np.arange(low, high) + 0.5) / factor - 0.5)
    return fine


def _cubic(values: np.ndarray, axis: int, where: np.ndarray) -> np.ndarray:
    """Catmull-Rom interpolation along one axis at positions `where` (in cells); constant beyond the
    ends.
    """
    cell = np.floor(where).astype(np.int64)
    f = np.expand_dims(where - cell, tuple(a for a in range(values.ndim) if a != axis))
    p0, p1, p2, p3 = (np.take(values, cell + k, axis, mode="clip") for k in (-1, 0, 1, 2))
    return p1 + 0.5 * f * (
        p2 - p0 + f * (2 * p0 - 5 * p1 + 4 * p2 - p3 + f * (3 * (p1 - p2) + p3 - p0))
    )
