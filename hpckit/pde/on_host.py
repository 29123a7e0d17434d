"""Fields in the host's memory, swept by this rank's threads: see `hpckit.pde.backend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from hpckit import native
from hpckit.pde.sweep import Slices, Sweep, Team, aligned
from hpckit.pde.walls import Fill, Walls

if TYPE_CHECKING:
    from hpckit.comm.device import Host
    from hpckit.comm.grid import Grid


class OnHost:
    """Arrays are NumPy's, and fields are those very arrays."""

    def __init__(
        self, place: Host, grid: Grid, dtype: np.dtype, threads: int, method: str, kernels: str
    ) -> None:
        self._team = Team(threads)
        self._grid = grid
        self._dtype = dtype
        self._in_node_memory = method == "direct"  # this halo reads neighbours' arrays
        self._kernels = native.load(kernels)

    def zeros(self, stagger: int | Sequence[int] = 0) -> np.ndarray:
        if self._in_node_memory:
            return self._grid.zeros(self._dtype, stagger, shared=True)
        shape = [
            lo + n + hi
            for n, (lo, hi) in zip(self._grid.owned_shape(stagger), self._grid.width, strict=True)
        ]
        return aligned(shape, self._dtype, self._grid.width[-1][0])

    def put(self, values: np.ndarray, stagger: int | Sequence[int] | None = None) -> np.ndarray:
        if stagger is None:
            return values
        array = self.zeros(stagger)
        array[...] = values
        return array

    def sweep(
        self,
        kernel: str,
        arrays: Sequence[np.ndarray],
        interior: Slices,
        shell: Sequence[Slices],
        *,
        repeated: str | None = None,
        layout: tuple = (),
        walk: tuple = (),
    ) -> Sweep:
        kernels = self._kernel(kernel), self._kernel(repeated) if repeated else None
        return Sweep(self._team, kernels[0], arrays, interior, shell, kernels[1], layout, walk)

    def fill(self, walls: Walls, arrays: Sequence[np.ndarray]) -> Fill:
        return Fill(self._grid, walls, *arrays)

    def products(self, triples: Sequence[tuple[np.ndarray, ...]]) -> Callable[[], None]:
        def multiply() -> None:
            for product, *factors in triples:
                np.multiply(*factors, out=product)

        return multiply

    def fields(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return arrays

    def changing(
        self, fields: Mapping[str, np.ndarray]
    ) -> AbstractContextManager[Mapping[str, np.ndarray]]:
        return nullcontext(fields)

    def has_nan(self, fields: Mapping[str, np.ndarray]) -> bool:
        return any(np.isnan(array[self._grid.owned]).any() for array in fields.values())

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def _kernel(self, name: str) -> Callable:
        """For numbers of the fields' type."""
        return getattr(self._kernels, f"{name}_f{self._dtype.itemsize}")
