"""The results of a run as pictures need them: planes of limited size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from hpckit.io.results import Results

DRAWN = 1_000_000  # cells of a picture at most; larger fields are drawn with gaps


class Planes:
    """Fields that were written, each thinned to what a picture can show; for rank 0.

    times : of the snapshots, in the equation's unit.

    ::

        with Results("heat.vtkhdf") as results:
            temperature = Planes(results).read("temperature")
    """

    def __init__(self, results: Results, largest: int = DRAWN) -> None:
        self.times: list[float] = results.times.tolist()
        self._results = results
        self._stride = stride(results.shape(results.names[0]), largest)

    def read(self, name: str, step: int = -1) -> np.ndarray:
        """A field on a line or (rows, columns) of a plane, the middle one of those in space; of
        large ones, every few cells.
        """
        shape = self._results.shape(name)
        middle = tuple(n // 2 for n in shape[:-2])
        thin = (slice(None, None, self._stride),) * len(shape[-2:])
        return self._results.read(name, step, (*middle, *thin))


def stride(shape: tuple[int, ...], largest: int = DRAWN) -> int:
    """Cells from one that is drawn to the next, in each dimension of a line or plane.

    ::

        stride((4000, 2000, 3000))  # 3, for (2000, 3000) cells are more than a million
    """
    plane = shape[-2:]
    return math.ceil((math.prod(plane) / largest) ** (1 / len(plane)))
