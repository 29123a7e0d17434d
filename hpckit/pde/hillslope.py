"""Hillslopes that creep: z_t = div(K grad z / (1 - (|grad z|/Sc)^2)) + uplift, linear where no
critical slope is given.

Linear: Culling (1960). With a critical slope: Roering, Kirchner & Dietrich, Water Resour. Res. 35
(1999), 853-870.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpckit.errors import ConfigError, same, together
from hpckit.pde import walls as boundary
from hpckit.pde.diffusion import Diffusion
from hpckit.pde.solver import positive
from hpckit.pde.sweep import Sweep

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid

# (|grad z|/Sc)^2 counts as this much where it is larger: the flux then grows like the slope, four
# times as fast as on a plain. Without a bound no time step is stable near the critical slope, and
# real terrain has steeper cells.
_STEEPEST = 0.75


class Hillslope(Diffusion):
    """Elevation of a landscape, explicit, two-dimensional when a critical slope is given; field
    `elevation`.

    Parameters
    ----------
    spacing : cell size in metres.
    diffusivity : K, m^2/yr (time is in years).
    uplift : m/yr.
    critical_slope : Sc, dimensionless; without it the flux is linear in the slope.
    walls : elevation of the base level that takes all sediment, or "insulated"; see
        `hpckit.pde.walls`.
    """

    def __init__(
        self,
        grid: Grid,
        spacing: float | Sequence[float],
        *,
        diffusivity: float,
        uplift: float = 0.0,
        critical_slope: float | None = None,
        walls: boundary.Wall | Sequence = boundary.INSULATED,
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
    ) -> None:
        with together(grid.comm):
            self.critical_slope = critical_slope and positive("critical_slope", critical_slope)
            if critical_slope is not None and grid.ndim != 2:
                raise ConfigError(f"a critical slope needs a grid of 2 dimensions, not {grid.ndim}")
        same(grid.comm, "critical_slope", critical_slope)
        self._corners = critical_slope is not None
        super().__init__(
            grid, "elevation", spacing, diffusivity, uplift, walls, dtype, threads, method
        )
        if self.critical_slope:
            # dq/dS at the bound: K (1 + s) / (1 - s)^2 with s = _STEEPEST
            self.dt_max *= (1 - _STEEPEST) ** 2 / (1 + _STEEPEST)

    def _sweep(self, new: np.ndarray, old: np.ndarray) -> Sweep:
        if not self.critical_slope:
            return super()._sweep(new, old)
        return Sweep(
            self._team, self._kernel("creep"), (new, old), self.halo.interior, self.halo.shell
        )

    def _arguments(self, dt: float) -> tuple:
        if not self.critical_slope:
            return super()._arguments(dt)
        array = self._arrays[0]
        y, x = (1 / h for h in self.spacing)
        critical = self.critical_slope**2
        rate = dt * self.kappa * critical
        return (
            *(array.strides[0] // array.itemsize, y, x, y / 4, x / 4),
            *(rate, critical, critical * _STEEPEST, self.source * dt, self._stream),
        )
