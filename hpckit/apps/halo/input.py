"""Input fields: read one, and refine it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.errors import together
from hpckit.io.input import read_field
from hpckit.pde import EQUATIONS

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config


def read_input(grid: Grid, config: Config) -> np.ndarray:
    """This rank's box of the input, refined where asked for: owned shape, float64 (collective)."""
    what: dict[str, Any] = {"name": config.variable or None, "index": config.index or None}
    what["first_row"] = EQUATIONS[config.equation].first_row
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
    """The box [start, stop) of `coarse` with `factor` cells per cell and dimension: float64.

    coarse : (ny, nx), values at cell centres. Catmull-Rom cubics, computed point by point, so that
    a cell has the same bits whichever rank computes it.
    """
    fine = np.asarray(coarse, dtype=np.float64)
    for axis, (low, high) in enumerate(zip(start, stop, strict=True)):
        fine = _cubic(fine, axis, (np.arange(low, high) + 0.5) / factor - 0.5)
    return fine


def _cubic(values: np.ndarray, axis: int, where: np.ndarray) -> np.ndarray:
    """Catmull-Rom along one axis at positions `where`, in cells; constant beyond the ends."""
    cell = np.floor(where).astype(np.int64)
    f = np.expand_dims(where - cell, tuple(a for a in range(values.ndim) if a != axis))
    p0, p1, p2, p3 = (np.take(values, cell + k, axis, mode="clip") for k in (-1, 0, 1, 2))
    return p1 + 0.5 * f * (
        p2 - p0 + f * (2 * p0 - 5 * p1 + 4 * p2 - p3 + f * (3 * (p1 - p2) + p3 - p0))
    )
