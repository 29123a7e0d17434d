"""What a rank that has the grid to itself can do: several steps by one call of a kernel.

On small grids a step takes longer to say than to make. Where no other rank has a part of the grid,
kernels fill the ghosts themselves, of walls and around periodic dimensions, and go on to the next
step, with the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpckit import native
from hpckit.pde import walls as boundary

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid


def is_alone(grid: Grid) -> bool:
    """Whether this rank owns all cells, and enough of them for ghosts to be copies of owned ones.

    ::

        if is_alone(grid):
            ghosts = Ghosts(grid, walls, temperature)
    """
    wide = zip(grid.shape, grid.width, grid.periodic, strict=True)
    return grid.size == 1 and all(n >= max(w) for n, w, wrap in wide if wrap)


class Ghosts:
    """How a lone rank's ghosts, those of edges and corners left out, come of its owned cells.

    array : any local array of the solver; its kernels take arrays that are laid out alike.

    `arguments` are what `fill_ghosts` of `hpckit.pde.alone_kernels` takes: the addresses of moves
    and of walls' values, and how many there are. ::

        ghosts = Ghosts(grid, walls, temperature)
        kernels.diffuse_alone_f8(new, old, *ghosts.arguments, steps, ...)
    """

    def __init__(self, grid: Grid, walls: boundary.Walls, array: np.ndarray) -> None:
        moves: list[tuple[int, ...]] = []
        values: list[float] = []
        for d in range(grid.ndim):
            for side in (0, 1):
                wall = boundary.INSULATED if grid.periodic[d] else walls[d][side]
                insulated = wall == boundary.INSULATED
                moves.append((*_places(grid, array, d, side), 0 if insulated else 1))
                moves[-1] += _extents(grid, d, side)
                values.append(0.0 if insulated else 2 * float(wall))
        self._moves = np.array(moves, np.int64)
        self._values = np.array(values, array.dtype)
        self.arguments = native.address(self._moves), native.address(self._values), len(moves)


def _places(grid: Grid, array: np.ndarray, d: int, side: int) -> tuple[int, int]:
    """Where ghosts begin and where they come from, in elements from the first owned cell."""
    n, width = grid.shape[d], _ghosts(grid, d, side)
    to = -width if side == 0 else n
    copied = n - width if side == 0 else 0  # around the grid
    beside = 0 if side == 0 else n - 1
    stride = array.strides[d] // array.itemsize
    return to * stride, (copied if grid.periodic[d] else beside) * stride


def _extents(grid: Grid, d: int, side: int) -> tuple[int, ...]:
    """Cells of a side's ghosts in three dimensions, those that the grid lacks first."""
    extents = [*grid.shape]
    extents[d] = _ghosts(grid, d, side)
    return (1,) * (3 - grid.ndim) + tuple(extents)


def _ghosts(grid: Grid, d: int, side: int) -> int:
    """How many cells beyond a side are filled: one beside a wall, as `walls.Fill` does."""
    return grid.width[d][side] if grid.periodic[d] else 1
