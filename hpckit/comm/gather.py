"""A field of all ranks, whole on one of them: for fields that fit one rank's memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid


class Gather:
    """Owned cells of all ranks of a grid, brought together on rank 0: planned once, called often.

    ::

        gather = Gather(grid, float)
        whole = gather(field[grid.owned])  # (*grid.shape,) on rank 0, None on the others

    What a call returns is overwritten by the next; on one rank it is what was passed.
    """

    def __init__(self, grid: Grid, dtype: DTypeLike) -> None:
        self._grid = grid
        if grid.size == 1:
            return
        self._mine = np.empty(grid.owned_shape(), dtype)
        if grid.rank == 0:
            boxes = [tuple(map(slice, *grid.box(rank))) for rank in range(grid.size)]
            self._whole = np.empty(grid.shape, dtype)
            self._counts = [self._whole[box].size for box in boxes]
            self._all = np.empty(math.prod(grid.shape), dtype)
            parts = np.split(self._all, np.cumsum(self._counts)[:-1])
            self._parts = [
                (self._whole[box], part.reshape(self._whole[box].shape))
                for box, part in zip(boxes, parts, strict=True)
            ]

    def __call__(self, owned: np.ndarray) -> np.ndarray | None:
        """The whole field on rank 0, None elsewhere (collective)."""
        if self._grid.size == 1:
            return owned
        np.copyto(self._mine, owned)
        if self._grid.rank > 0:
            self._grid.comm.Gatherv(self._mine, None)
            return None
        self._grid.comm.Gatherv(self._mine, (self._all, self._counts))
        for box, part in self._parts:
            np.copyto(box, part)
        return self._whole
