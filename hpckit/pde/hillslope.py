"""Hillslopes that creep: z_t = div(K grad z / (1 - (|grad z|/Sc)^2)) + uplift.

Without a critical slope Sc the flux is linear in the slope.

Linear: Culling (1960). With a critical slope: Roering, Kirchner & Dietrich, Water Resour. Res. 35
(1999), 853-870.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from hpckit.errors import ConfigError, same, together
from hpckit.keys import Positive, note
from hpckit.pde import walls as boundary
from hpckit.pde.diffusion import Diffusion
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.maps import Bounds
from hpckit.pde.solver import positive

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.backend import AnySweep
    from hpckit.pde.planes import Planes

# (|grad z|/Sc)^2 counts as this much where it is larger: the flux then grows like the slope, four
# times as fast as on a plain. Without a bound no time step is stable near the critical slope, and
# real terrain has steeper cells.
_STEEPEST = 0.75


class Hillslope(Diffusion):
    """Elevation of a landscape, explicit, 2-D where a critical slope is given; field `elevation`.

    Parameters
    ----------
    spacing : cell size in metres.
    diffusivity : K, m^2/yr (time is in years).
    uplift : m/yr.
    critical_slope : Sc, dimensionless; without it the flux is linear in the slope.
    walls : elevation of the base level that takes all sediment, or "insulated"; see
        `hpckit.pde.walls`.

    ::

        hill = Hillslope(Grid(comm, (90, 120)), 30.0, diffusivity=0.01, critical_slope=1.2)
        hill.set("elevation", metres)
        hill.step(hill.dt_max)
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
        self.corners = critical_slope is not None
        super().__init__(
            grid, "elevation", spacing, diffusivity, uplift, walls, dtype, threads, method
        )
        if self.critical_slope:
            # dq/dS at the bound: K (1 + s) / (1 - s)^2 with s = _STEEPEST
            self.dt_max *= (1 - _STEEPEST) ** 2 / (1 + _STEEPEST)

    def _sweep(self, new: Sequence[np.ndarray], old: Sequence[np.ndarray]) -> AnySweep:
        if not self.critical_slope:
            return super()._sweep(new, old)
        boxes = self.halo.interior, self.halo.shell
        return self._backend.sweep("creep", (*new, *old), *boxes)

    def _arguments(self, dt: float) -> tuple:
        if not self.critical_slope:
            return super()._arguments(dt)
        array = self.fields[self.name]
        y, x = (1 / h for h in self.spacing)
        critical = self.critical_slope**2
        rate = dt * self.kappa * critical
        return (
            *(array.strides[0] // array.itemsize, y, x, y / 4, x / 4),
            *(rate, critical, critical * _STEEPEST, self.source * dt, self._stream),
        )


class Options(msgspec.Struct):
    """Soil creeping downhill; input: elevation in m, rows from north to south; time in years."""

    diffusivity: Annotated[Positive, note("m2/yr")] = 0.01
    uplift: Annotated[float, note("m/yr")] = 0.0
    critical_slope: Annotated[
        float, note("slope near which soil slides; 0: flux linear in the slope", ge=0)
    ] = 0.0


class HillslopeEquation(Equation[Hillslope, Options]):
    """Soil that creeps downhill on real terrain."""

    Options = Options
    unit = "yr"
    on_map = True
    first_row = "north"

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        with together(self.grid.comm):
            self.spacing = Bounds.of(setup.bounds).spacing(self.grid.shape)
        self.solver = Hillslope(
            self.grid,
            self.spacing,
            diffusivity=options.diffusivity,
            uplift=options.uplift,
            critical_slope=options.critical_slope or None,
            **setup.numerics,
        )

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        return Cost(kept=2, exchanged=1, written=1, moved=2, of_copying=0.6, drawing=(40e6, 180))

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"hillslope.diffusivity = {options.diffusivity:g}"

    def start(self) -> None:
        """The terrain as it is today."""
        self.solver.set("elevation", self.setup.read())
        self.before = self.total("elevation")

    def verdict(self) -> dict[str, float]:
        """Creep moves soil, and makes none: the mean elevation rises by the uplift alone."""
        cells = math.prod(self.grid.shape)
        now, uplift = self.total("elevation"), self.options.uplift * self.solver.time
        drift = (now - self.before) / cells - uplift
        return {"mean elevation, m": now / cells, "soil made or lost, m on average": drift}

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        """The landscape before and after, and what was moved."""
        before, after = (planes.read("elevation", i) for i in (0, -1))
        dy, dx = (
            h * n / m for h, n, m in zip(self.spacing, self.grid.shape, after.shape, strict=True)
        )
        rows, columns = before.shape
        extent = (0, columns * dx / 1e3, rows * dy / 1e3, 0)
        size = 9.6, 0.9 + 2.45 * extent[2] / extent[1]
        title = f"After {self.solver.time:,.0f} years"
        paint = partial(_paint, before, after, (dy, dx), extent, title)
        yield Picture("terrain.png", size, paint)


def _paint(
    before: np.ndarray,
    after: np.ndarray,
    spacing: tuple[float, float],
    extent: tuple[float, float, float, float],
    title: str,
    figure: Any,
) -> None:
    """Three panels: before, after, and the change.

    before, after : (ny, nx), metres, row 0 in the north; spacing : (dy, dx), metres; extent : of
        the axes, km.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LightSource, LinearSegmentedColormap, Normalize

    colours = ["#4d6b57", "#8fa27a", "#d6c9a0", "#f3ecdf", "#ffffff"]
    ramp = LinearSegmentedColormap.from_list("relief", colours)
    norm = Normalize(np.min(before), np.max(before))
    light = LightSource(azdeg=315, altdeg=40)
    shade: dict[str, Any] = {"cmap": ramp, "norm": norm, "blend_mode": "soft", "vert_exag": 2.0}
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, z, name in ((left, before, "Today"), (middle, after, title)):
        axes.imshow(light.shade(z, dx=spacing[1], dy=spacing[0], **shade), extent=extent)
        axes.set_title(name)
    span = float(np.percentile(np.abs(after - before), 99.5)) or 1.0
    image = right.imshow(after - before, extent=extent, cmap="BrBG", vmin=-span, vmax=span)
    right.set_title("Worn down and filled in")
    heights = figure.colorbar(ScalarMappable(norm, ramp), ax=[left, middle], shrink=0.85, pad=0.015)
    heights.set_label("elevation (m)")
    change = figure.colorbar(image, ax=right, shrink=0.85, pad=0.015)
    change.set_label("change of elevation (m)")
    left.set_ylabel("km to the south")
    for axes in (left, middle, right):
        axes.set_xlabel("km to the east")
