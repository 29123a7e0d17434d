"""Physical boundaries of cell-centred fields, filled into the ghost cells beside them.

The wall lies on the cells' outer faces. `"insulated"` lets nothing through (ghost = cell); a number
is the value on the wall (ghost = 2 value - cell). Both keep the second order of the scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid

Wall = float | str
Walls = tuple[tuple[Wall, Wall], ...]
INSULATED = "insulated"


def parse(walls: Wall | Sequence, ndim: int) -> Walls:
    """One wall, one per dimension, or one (low, high) pair per dimension, as pairs."""
    each = [walls] * ndim if isinstance(walls, str | int | float) else list(walls)
    pairs: Any = tuple((w, w) if isinstance(w, str | int | float) else tuple(w) for w in each)
    if len(pairs) != ndim or any(len(p) != 2 for p in pairs):
        raise ConfigError(
            f"walls {walls} must be one, one per dimension ({ndim}), or one (low, high) pair per "
            "dimension"
        )
    for wall in (w for pair in pairs for w in pair):
        if (isinstance(wall, str) and wall != INSULATED) or (
            not isinstance(wall, str) and not math.isfinite(wall)
        ):
            raise ConfigError(
                f"wall {wall!r} must be {INSULATED!r} or the (finite) value on the wall"
            )
    return pairs


def sides(grid: Grid) -> list[tuple[int, int]]:
    """(dimension, 0 or 1 for low or high) of the walls that this rank's block touches."""
    from mpi4py import MPI

    found = []
    for d in range(grid.ndim):
        for side in (0, 1):
            offset = [0] * grid.ndim
            offset[d] = (-1, 1)[side]
            if grid.neighbor(offset) == MPI.PROC_NULL:
                found.append((d, side))
    return found


def edges(grid: Grid, walls: Walls) -> Iterator[tuple[int, int, int, Wall]]:
    """Dimension, index of the last owned cells and of the ghosts beside them, and their wall."""
    shape = grid.local_shape
    for d, side in sides(grid):
        edge = grid.width[d][0] if side == 0 else shape[d] - grid.width[d][1] - 1
        yield d, edge, edge - 1 if side == 0 else edge + 1, walls[d][side]


class Fill:
    """Fills the ghosts beside this rank's walls; dimension by dimension, so corners too.

    arrays : local arrays of cells.

    ::

        fill = Fill(grid, walls.parse([0.0, "insulated"], 2), temperature)
        fill()
    """

    def __init__(self, grid: Grid, walls: Walls, *arrays: np.ndarray) -> None:
        self._order: list[tuple[np.ndarray, np.ndarray, np.generic | None]] = []
        for d, edge, ghost, wall in edges(grid, walls):
            for array in arrays:
                cells, beyond = (
                    array[(slice(None),) * d + (slice(i, i + 1),)] for i in (edge, ghost)
                )
                twice = None if wall == INSULATED else array.dtype.type(2 * float(wall))
                self._order.append((beyond, cells, twice))

    def __call__(self) -> None:
        for ghost, cell, twice in self._order:  # twice the value on the wall; None: insulated
            if twice is None:
                np.copyto(ghost, cell)
            else:
                np.subtract(twice, cell, out=ghost)
