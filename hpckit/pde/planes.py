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
        plane = results.shape(results.names[0])[-2:]
        self._stride = math.ceil((math.prod(plane) / largest) ** (1 / len(plane)))

    def read(self, name: str, step: int = -1) -> np.ndarray:
        """A field on a line or (rows, columns) of a plane, the middle one of those in space; of
        large ones, every few cells.
        """
        shape = self._results.shape(name)
        middle = tuple(n // 2 for n in shape[:-2])
        thin = (slice(None, None, self._stride),) * len(shape[-2:])
        return self._results.read(name, step, (*middle, *thin))
