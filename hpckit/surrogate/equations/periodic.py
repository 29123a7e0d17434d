"""What the solvers on periodic grids share: grid, points, and the check of their shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError
from hpckit.pde.runge_kutta import GHOSTS

if TYPE_CHECKING:
    from mpi4py import MPI

Steps = Iterator[tuple[float, dict[str, Any]]]
"""what `run` of a solver gives: time and fields, step after step"""


def ring(comm: MPI.Intracomm, shape: Sequence[int]) -> Grid:
    """A periodic grid with the ghosts that Runge-Kutta needs (collective)."""
    return Grid(comm, shape, periodic=True, width=GHOSTS)


def points(solver: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where the owned values are: (ny, 1) and (1, nx)."""
    grid = solver.grid
    y, x = (
        np.arange(a, b) * h for a, b, h in zip(grid.start, grid.stop, solver.spacing, strict=True)
    )
    return y[:, None], x[None, :]


def check(shape: Sequence[int], ndim: int, thin: int = 1) -> None:
    """`ConfigError` unless so many-th cells of such a shape can be given."""
    if len(shape) != ndim or thin < 1 or any(n < 1 or n % thin for n in shape):
        dimensions = f"{ndim} dimension{'s' * (ndim > 1)}"
        raise ConfigError(
            f"shape {tuple(shape)} must be of {dimensions}, and thin = {thin} divide it"
        )
