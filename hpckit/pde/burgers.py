"""Viscous Burgers in a periodic interval: u_t + (u^2/2)_x = nu u_xx.

The combined equation (`hpckit.pde.combined`) with alpha = 1, beta = nu and no more. Its solution is
known for any start (Hopf 1950, Cole 1951).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

from hpckit.keys import Count, Positive, note
from hpckit.pde.combined import Combined
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.evolution import evolution
from hpckit.pde.runge_kutta import GHOSTS, LIMITS

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.planes import Planes

_CHECKED = 512  # cells of each rank whose exact solution is computed, at most


class Burgers(Combined):
    """Waves that steepen and spread; field `u`. See `Combined` for the parameters.

    nu : viscosity, 0 or more; speed : the largest |u| at the start, for it never grows.

    ::

        burgers = Burgers(Grid(comm, (128,), periodic=True, width=3), 1 / 128, nu=0.01, speed=1.0)
        burgers.set("u", 0.5)
        burgers.step(0.9 * burgers.dt_max)
    """

    def __init__(
        self,
        grid: Grid,
        spacing: float,
        *,
        nu: float,
        speed: float,
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
    ) -> None:
        numerics = {"dtype": dtype, "threads": threads, "method": method}
        super().__init__(grid, spacing, alpha=1.0, beta=nu, speed=speed, **numerics)


def cole_hopf(
    x: np.ndarray, time: float, *, nu: float, amplitude: float, wave_number: float
) -> np.ndarray:
    """The solution that begins as amplitude sin(wave_number x): float64, as `x`.

    u = <(x - y)/t>, weighted by exp(-(U(y) + (x - y)^2/2t) / 2 nu), U the integral of the start: by
    the trapezoidal rule, which converges faster than any power for such weights. ::

        cole_hopf(np.linspace(0, 1, 9), 0.5, nu=0.01, amplitude=1.0, wave_number=2 * np.pi)
    """
    if time == 0:
        return amplitude * np.sin(wave_number * x)
    reach = amplitude * time + 12 * math.sqrt(2 * nu * time)
    finest = 0.1 * math.sqrt(2 * nu / (1 / time + amplitude * wave_number))
    away = np.linspace(-reach, reach, 2 * math.ceil(reach / finest) + 1)
    found = np.empty(len(x))
    for i, place in enumerate(x):
        integral = amplitude / wave_number * (1 - np.cos(wave_number * (place - away)))
        exponent = (integral + away**2 / (2 * time)) / (2 * nu)
        weights = np.exp(exponent.min() - exponent)
        found[i] = np.dot(weights, away) / (time * weights.sum())
    return found


class Options(msgspec.Struct):
    """A sine that steepens to a sawtooth: u_t + (u^2/2)_x = nu u_xx in a periodic unit interval."""

    nu: Annotated[Positive, note("viscosity")] = 0.01
    amplitude: Annotated[Positive, note("of the sine at the start")] = 1.0
    waves: Annotated[Count, note("whole sines in the interval")] = 1


class BurgersEquation(Equation[Burgers, Options]):
    """A sine in a periodic unit interval, compared with its exact solution."""

    Options = Options
    width = GHOSTS
    periodic_in = 1
    takes_input = False

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        self.spacing = tuple(1 / n for n in self.grid.shape)
        physics = {"nu": options.nu, "speed": options.amplitude}
        self.solver = Burgers(self.grid, self.spacing[0], **physics, **setup.numerics)

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        return Cost(kept=4, exchanged=3, written=1, moved=11, of_copying=0.17, drawing=(40e6, 100))

    @classmethod
    def dt_max(cls, options: Options, shape: tuple[int, ...]) -> float | None:
        n = shape[0]
        return 1 / (options.amplitude * n / LIMITS.weno + options.nu * n**2 / LIMITS.spread)

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"burgers.nu = {options.nu:g}"

    def start(self) -> None:
        x = self.solver.centres()
        self.solver.set("u", self._exact(x, 0.0))

    def verdict(self) -> dict[str, float]:
        """Distance from the exact solution, in some cells; and what the equation keeps."""
        computed = self.solver.fields["u"][self.grid.owned]
        some = slice(None, None, math.ceil(len(computed) / _CHECKED))
        exact = self._exact(self.solver.centres()[some], self.solver.time)
        return {
            "largest error against the exact solution": self.largest(
                np.abs(computed[some] - exact)
            ),
            "mean of u, which was 0": self.total("u") / self.grid.shape[0],
            "largest u": self.largest(np.abs(computed)),
        }

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        yield evolution(planes, "u", 1.0, "burgers.png")

    def _exact(self, x: np.ndarray, time: float) -> np.ndarray:
        wave_number = 2 * math.pi * self.options.waves
        physics = {"nu": self.options.nu, "amplitude": self.options.amplitude}
        return cole_hopf(x, time, wave_number=wave_number, **physics)
