"""Explicit diffusion of one field, u_t = div(kappa grad u) + source, in 1 to 3 dimensions.

Forward in time, centred in space: second order in the cell size, first in the time step, stable for
dt <= 1 / (2 kappa sum_d 1/dx_d^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpckit.comm.device import HOST
from hpckit.errors import ConfigError, same, together
from hpckit.pde import walls as boundary
from hpckit.pde.explicit import Explicit
from hpckit.pde.solver import positive, spacings

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.backend import AnySweep, Place

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
    place : of the field: `HOST`, or a device on which the steps run.
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
        place: Place = HOST,
    ) -> None:
        super().__init__(grid, dtype, threads, method, place)
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

    def _sweep(self, new: Sequence[Any], old: Sequence[Any]) -> AnySweep:
        """Dimensions that the problem lacks come first, with extent 1 and stride 0."""
        missing = 3 - self.grid.ndim
        whole = (slice(0, 1),) * missing
        interior, *shell = ((*whole, *box) for box in (self.halo.interior, *self.halo.shell))
        array, item = new[0], self.dtype.itemsize
        strides = [0] * missing + [s // item for s in array.strides]
        return self._backend.sweep(
            "diffuse",
            [a[(None,) * missing] for a in self.place.views((*new, *old))],
            interior,
            shell,
            repeated="diffuse_alone",
            layout=tuple(strides[:2]),
            walk=(max(1, _TILE // (array.shape[-1] * item)), self._stream),
        )

    def _arguments(self, dt: float) -> tuple:
        """What the kernel takes after the strides: its coefficients."""
        weights = [0.0] * (3 - self.grid.ndim) + [self.kappa * dt * w for w in self._per_square]
        return *weights, self.source * dt
