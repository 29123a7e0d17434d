"""Explicit diffusion of one field, u_t = div(kappa grad u) + source, in 1 to 3 dimensions.

Forward in time, centred in space: second order in the cell size, first in the time step, stable for
dt <= 1 / (2 kappa sum_d 1/dx_d^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpckit.errors import ConfigError, same, together
from hpckit.pde import walls as boundary
from hpckit.pde.explicit import Explicit
from hpckit.pde.solver import positive, spacings
from hpckit.pde.sweep import Sweep

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid

_TILE = 512 * 1024  # bytes of a plane's tile: three of them stay in a core's share of the caches


class Diffusion(Explicit):
    """A field that spreads; see the module for the scheme. The subclasses are the physics.

    Parameters
    ----------
    grid : its periodic dimensions have no walls, and its ghosts are at least one cell wide.
    name : of the field.
    spacing : cell size, one or one per dimension.
    kappa : diffusivity, length^2 / time.
    source : added everywhere, per time.
    walls : see `hpckit.pde.walls`.
    dtype, threads, method : float64 or float32; threads per rank; way of exchanging halos, see
        `Halo`.
    """

    def __init__(
        self,
        grid: Grid,
        name: str,
        spacing: float | Sequence[float],
        kappa: float,
        source: float,
        walls: boundary.Wall | Sequence,
        dtype: DTypeLike,
        threads: int,
        method: str,
    ) -> None:
        super().__init__(grid, dtype, threads, method)
        with together(grid.comm):
            if grid.ndim > 3:
                raise ConfigError(f"diffusion has 1 to 3 dimensions, not {grid.ndim}")
            self.spacing = spacings(spacing, grid.ndim)
            self.kappa = positive("diffusivity", kappa)
            self.source = float(source)
            self.walls = boundary.parse(walls, grid.ndim)
        same(
            grid.comm,
            "the coefficients of a solver",
            (self.spacing, self.kappa, self.source, self.walls, self.dtype),
        )
        self.name = name
        self._per_square = [1 / h**2 for h in self.spacing]
        self.dt_max = 1 / (2 * kappa * sum(self._per_square))
        self._allocate([name], self.walls)

    def set_walls(self, walls: boundary.Wall | Sequence) -> None:
        """Other walls from now on (collective); see `hpckit.pde.walls`. ::

        heat.set_walls([(100.0, 500.0), "insulated"])
        """
        with together(self.grid.comm):
            self.walls = boundary.parse(walls, self.grid.ndim)
        same(self.grid.comm, "the walls of a solver", self.walls)
        self._enclose(self.walls)

    def _sweep(self, new: Sequence[np.ndarray], old: Sequence[np.ndarray]) -> Sweep:
        """Dimensions that the problem lacks come first, with extent 1 and stride 0."""
        missing = 3 - self.grid.ndim
        whole = (slice(0, 1),) * missing
        interior, *shell = ((*whole, *box) for box in (self.halo.interior, *self.halo.shell))
        arrays = [a[(None,) * missing] for a in (*new, *old)]
        kernels = self._kernel("diffuse"), self._kernel("diffuse_alone")
        return Sweep(self._team, kernels[0], arrays, interior, shell, kernels[1])

    def _arguments(self, dt: float) -> tuple:
        """What the kernel takes after the extents: strides, coefficients, how to walk."""
        array = self.fields[self.name]
        missing = 3 - array.ndim
        strides = [0] * missing + [s // array.itemsize for s in array.strides]
        weights = [0.0] * missing + [self.kappa * dt * w for w in self._per_square]
        tile = max(1, _TILE // (array.shape[-1] * array.itemsize))
        return *strides[:2], *weights, self.source * dt, tile, self._stream
