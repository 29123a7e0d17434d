"""Advection and diffusion in a periodic rectangle: c_t + div(v c) = kappa lap c.

What is carried by differences of sixth order, with a damping of the shortest waves as if upwind,
which makes it fifth; what spreads to sixth; third order in time (`hpckit.pde.runge_kutta`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from hpckit.errors import ConfigError, same, together
from hpckit.keys import note
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.runge_kutta import GHOSTS, LIMITS, RungeKutta
from hpckit.pde.solver import spacings

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.planes import Planes


class Advection(RungeKutta):
    """What a flow carries and what spreads; field `concentration`.

    Parameters
    ----------
    grid : periodic, of 2 dimensions, with ghosts of 3 cells.
    spacing : cell size, one or one per dimension.
    velocity : of the flow along each dimension: numbers, or arrays of this rank's owned shape.
    kappa : diffusivity, 0 or more.
    dtype, threads, method : float64 or float32; threads per rank; way of exchanging halos, see
        `Halo`.

    ::

        grid = Grid(comm, (64, 64), periodic=True, width=3)
        smoke = Advection(grid, 1 / 64, velocity=(0.5, 1.0), kappa=0.01)
        smoke.set("concentration", 1.0)
        smoke.step(0.9 * smoke.dt_max)
    """

    kernels = "hpckit.pde.advection_kernels"
    kernel = "carry"

    def __init__(
        self,
        grid: Grid,
        spacing: float | Sequence[float],
        *,
        velocity: Sequence[ArrayLike],
        kappa: float,
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
    ) -> None:
        super().__init__(grid, 2, dtype, threads, method)
        with together(grid.comm):
            self.spacing = spacings(spacing, 2)
        same(grid.comm, "the spacing and dtype of a solver", (self.spacing, self.dtype))
        self._velocity = [self._backend.zeros(), self._backend.zeros()]
        self._allocate(["concentration"], self._velocity)
        self.change(velocity=velocity, kappa=kappa)

    def change(self, *, velocity: Sequence[ArrayLike], kappa: float) -> None:
        """Another flow and diffusivity from now on (collective). ::

        smoke.change(velocity=(0.0, 1.0), kappa=0.02)
        """
        with together(self.grid.comm):
            if len(velocity) != 2:
                raise ConfigError(f"velocity has {len(velocity)} components, it must have 2")
            if not 0 <= kappa < math.inf:
                raise ConfigError(f"kappa={kappa} must be 0 or a positive number")
            self.kappa = float(kappa)
        same(self.grid.comm, "the diffusivity of a solver", self.kappa)
        for array, component in zip(self._velocity, velocity, strict=True):
            self._assign("velocity", array, component)
            self.halo.exchange(array)
        mine = [float(np.abs(array[self.grid.owned]).max()) for array in self._velocity]
        self._most = [max(each) for each in zip(*self.grid.comm.allgather(mine), strict=True)]
        self.dt_max = largest_step(self.spacing, self._most, self.kappa)

    def _arguments(self, dt: float, time: float) -> tuple:
        array = self.fields["concentration"]
        steps = [dt / h for h in self.spacing]
        spread = [self.kappa * dt / h**2 for h in self.spacing]
        stride = array.strides[0] // array.itemsize
        return (stride, *steps, *self._most, *spread, self._stream)


def largest_step(spacing: Sequence[float], speeds: Sequence[float], kappa: float) -> float:
    """The largest stable time step; infinite where nothing moves. `speeds` along the dimensions.

    ::

        largest_step((1 / 64, 1 / 64), (0.5, 1.0), 0.01)
    """
    rate = sum(v / (LIMITS.carried * h) for v, h in zip(speeds, spacing, strict=True))
    rate += sum(kappa / (LIMITS.spread * h**2) for h in spacing)
    return 1 / rate if rate else math.inf


def swirl(y: np.ndarray, x: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """A flow without divergence, of four eddies in the unit square: along y and x, as y + x.

    ::

        along_y, along_x = swirl(y[:, None], x[None, :], 0.8)
    """
    still = np.zeros(np.broadcast(y, x).shape)
    return -speed * np.sin(2 * np.pi * x) + still, speed * np.sin(2 * np.pi * y) + still


def blob(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A smooth heap of height 1 around 0 in the periodic unit square, as y + x. ::

    solver.set("concentration", blob(y[:, None] - 0.5, x[None, :] - 0.5))
    """
    return np.exp(np.cos(2 * np.pi * y) + np.cos(2 * np.pi * x) - 2)


class Options(msgspec.Struct):
    """A wave in a wind, or a blob that eddies stir, in a periodic unit square."""

    flow: Annotated[Literal["constant", "swirl"], note("a wind, or four eddies")] = "swirl"
    velocity: Annotated[tuple[float, float], note("of the wind, along y and x")] = (0.5, 1.0)
    speed: Annotated[float, note("of the eddies, at most")] = 0.8
    kappa: Annotated[float, note("diffusivity", ge=0)] = 0.001


class AdvectionEquation(Equation[Advection, Options]):
    """A wave in a wind, whose solution is known, or a blob that eddies draw out."""

    Options = Options
    width = GHOSTS
    periodic_in = 2
    takes_input = False

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        self.spacing = tuple(1 / n for n in self.grid.shape)
        velocity: Any = options.velocity
        if options.flow == "swirl" and self.grid.ndim == 2:
            velocity = swirl(*self._places(), options.speed)
        physics = {"velocity": velocity, "kappa": options.kappa}
        self.solver = Advection(self.grid, self.spacing, **physics, **setup.numerics)

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        return Cost(kept=5, exchanged=3, written=1, moved=14, of_copying=0.5, drawing=(60e6, 100))

    @classmethod
    def dt_max(cls, options: Options, shape: tuple[int, ...]) -> float | None:
        speeds = [abs(v) for v in options.velocity]
        if options.flow == "swirl":
            speeds = [abs(options.speed)] * 2
        return largest_step([1 / n for n in shape], speeds, options.kappa)

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"advection.kappa = {options.kappa:g}"

    def start(self) -> None:
        y, x = self._places()
        wave = self.options.flow == "constant"
        self.solver.set("concentration", self._exact(0.0) if wave else blob(y - 0.25, x - 0.5))
        self.before = self.total("concentration")

    def verdict(self) -> dict[str, float]:
        """Distance from the wave's solution; of a blob, what flow and diffusion keep."""
        computed = self.solver.fields["concentration"][self.grid.owned]
        if self.options.flow == "constant":
            error = np.abs(computed - self._exact(self.solver.time))
            return {"largest error against the exact solution": self.largest(error)}
        return {
            "gained or lost, of all": self.total("concentration") / self.before - 1,
            "largest concentration": self.largest(computed),
        }

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        last = len(planes.times) - 1
        chosen = sorted({0, last // 2, last})
        fields = [(planes.times[i], planes.read("concentration", i)) for i in chosen]
        yield Picture("advection.png", (4.4 * len(fields) + 0.8, 4.1), partial(_paint, fields))

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The centres of the owned cells: (ny, 1) and (1, nx)."""
        y, x = (
            (np.arange(a, b) + 0.5) * h
            for a, b, h in zip(self.grid.start, self.grid.stop, self.spacing, strict=True)
        )
        return y[:, None], x[None, :]

    def _exact(self, time: float) -> np.ndarray:
        """sin 2 pi (y + 2 x) in the wind."""
        y, x = self._places()
        v, w = self.options.velocity
        decay = math.exp(-self.options.kappa * (2 * math.pi) ** 2 * 5 * time)
        return decay * np.sin(2 * np.pi * ((y - v * time) + 2 * (x - w * time)))


def _paint(fields: list[tuple[float, np.ndarray]], figure: Any) -> None:
    """Panels of the concentration (n, m) at some times, in the same colours."""
    row = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    ends = [(float(c.min()), float(c.max())) for _, c in fields]
    colours = {"cmap": "cividis", "vmin": min(a for a, _ in ends), "vmax": max(b for _, b in ends)}
    for axes, (time, c) in zip(row, fields, strict=True):
        axes.imshow(c, extent=(0, 1, 0, 1), origin="lower", **colours)
        axes.set_title(f"t = {time:.3g}")
        axes.set_xlabel("x")
    row[0].set_ylabel("y")
    figure.colorbar(row[-1].images[0], ax=list(row), shrink=0.85, pad=0.02).set_label(
        "concentration"
    )
