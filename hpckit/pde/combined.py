"""Burgers, heat and Korteweg-de Vries in one equation, forced, in a periodic interval.

    u_t + (alpha u^2/2)_x - beta u_xx + gamma u_xxx = delta(t, x)
    delta = sum_j A_j sin(omega_j t + 2 pi l_j x/L + phi_j)

Fluxes by WENO of fifth order, so shocks stay sharp (Jiang & Shu 1996; weights of Borges et al.
2008); u_xx to sixth order, u_xxx to fourth; time as `hpckit.pde.runge_kutta` tells. The form is
that of Brandstetter, Worrall & Welling (2022), with their cases E1 (1, 0, 0), E2 (1, beta, 0) and
E3 (alpha, beta, gamma).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
import numpy as np

from hpckit import native
from hpckit.errors import ConfigError, same, together
from hpckit.keys import Positive, note
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.evolution import evolution
from hpckit.pde.runge_kutta import GHOSTS, LIMITS, RungeKutta
from hpckit.pde.solver import positive

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.planes import Planes

_TERMS = 5  # of random forcing
_GROWN = 4.0  # how much larger than the forcing's amplitudes waves are expected to grow
_LEAST = {4: 1e-12, 8: 1e-40}  # what keeps WENO's weights finite, by bytes of a number


class Term(NamedTuple):
    """A term of the forcing: amplitude sin(omega t + 2 pi waves x/L + phase). ::

    Combined(grid, 0.1, forcing=[Term(0.5, 0.2, 1, 0.0)], speed=1.0)
    """

    amplitude: float
    omega: float
    waves: int
    phase: float


class Combined(RungeKutta):
    """The combined equation; field `u`, values at the cells' centres.

    Parameters
    ----------
    grid : periodic, of 1 dimension, with ghosts of 3 cells.
    spacing : cell size.
    alpha, beta, gamma : of steepening, diffusion and dispersion, 0 or more.
    forcing : terms, each as `Term`.
    speed : the largest |u| that is to be expected: with alpha it limits the time step.
    dtype, threads, method : float64 or float32; threads per rank; way of exchanging halos, see
        `Halo`.

    ::

        kdv = Combined(Grid(comm, (256,), periodic=True, width=3), 0.1, alpha=6, gamma=1, speed=2)
        kdv.set("u", 0.5)
        kdv.step(0.9 * kdv.dt_max)
    """

    kernels = "hpckit.pde.combined_kernels"
    kernel = "steepen"

    def __init__(
        self,
        grid: Grid,
        spacing: float,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 0.0,
        forcing: Sequence[Sequence[float]] = (),
        speed: float,
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
    ) -> None:
        super().__init__(grid, 1, dtype, threads, method)
        with together(grid.comm):
            self.spacing = positive("spacing", spacing)
        same(grid.comm, "the spacing, terms and dtype of a solver", (spacing, self.dtype))
        n = self.grid.local_shape[0]
        self._waves = np.zeros((max(1, 2 * len(forcing)), n), self.dtype)
        self._modes = np.zeros((len(forcing), 3))
        self._allocate(["u"], [self._waves[0]])
        self.change(alpha=alpha, beta=beta, gamma=gamma, forcing=forcing, speed=speed)

    def change(
        self,
        *,
        alpha: float,
        beta: float,
        gamma: float,
        forcing: Sequence[Sequence[float]],
        speed: float,
    ) -> None:
        """Other coefficients from now on, and as many terms of forcing as before (collective). ::

        kdv.change(alpha=3, beta=0.2, gamma=0.5, forcing=(), speed=4)
        """
        with together(self.grid.comm):
            self.alpha, self.beta, self.gamma = (
                _coefficient(name, value)
                for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma))
            )
            self.speed = positive("speed", speed)
            self.forcing = [_term(*term) for term in forcing]
            _check(self.forcing, len(self._modes))
        physics = (self.alpha, self.beta, self.gamma, self.speed, self.forcing)
        same(self.grid.comm, "the coefficients of a solver", physics)
        self.dt_max = largest_step(self.spacing, *physics[:4])
        self._place()

    def centres(self) -> np.ndarray:
        """The owned cells' centres: (n,) float64."""
        return (np.arange(self.grid.start[0], self.grid.stop[0]) + 0.5) * self.spacing

    def _place(self) -> None:
        """The forcing's waves in the owned cells."""
        x = self.centres() / (self.grid.shape[0] * self.spacing)
        for j, term in enumerate(self.forcing):
            angle = 2 * math.pi * term.waves * x
            self._waves[2 * j][self.grid.owned] = np.cos(angle)
            self._waves[2 * j + 1][self.grid.owned] = np.sin(angle)
            self._modes[j] = term.amplitude, term.omega, term.phase

    def _arguments(self, dt: float, time: float) -> tuple:
        h = self.spacing
        return (
            *(native.address(self._modes), len(self._modes), self._waves.shape[1]),
            *(self.alpha * dt / h, self.beta * dt / h**2, self.gamma * dt / h**3),
            *(_LEAST[self.dtype.itemsize], dt, time),
        )


def largest_step(spacing: float, alpha: float, beta: float, gamma: float, speed: float) -> float:
    """The largest stable time step where |u| is at most `speed`; infinite where nothing moves.

    ::

        largest_step(1 / 128, alpha=1.0, beta=0.01, gamma=0.0, speed=1.0)
    """
    rate = alpha * speed / (LIMITS.weno * spacing) + beta / (LIMITS.spread * spacing**2)
    rate += gamma / (LIMITS.dispersed * spacing**3)
    return 1 / rate if rate else math.inf


def random_terms(seed: int) -> list[Term]:
    """Forcing as Brandstetter et al. draw it, of one or two waves. ::

    Combined(grid, 0.1, forcing=random_terms(0), speed=4.0)
    """
    random = np.random.default_rng(seed)
    amplitudes, omegas = random.uniform(-0.5, 0.5, _TERMS), random.uniform(-0.4, 0.4, _TERMS)
    waves, phases = random.integers(1, 3, _TERMS), random.uniform(0, 2 * math.pi, _TERMS)
    rows = zip(amplitudes.tolist(), omegas.tolist(), waves.tolist(), phases.tolist(), strict=True)
    return [Term(*row) for row in rows]


def forcing_at(terms: Sequence[Term], x: np.ndarray, time: float, length: float) -> np.ndarray:
    """delta(time, x) in an interval of this length: float64, as `x`. ::

    forcing_at([Term(0.5, 0.2, 1, 0.0)], np.linspace(0, 16, 9), 0.0, 16.0)
    """
    total = np.zeros(len(x))
    for term in terms:
        angle = 2 * math.pi * term.waves / length * x
        total += term.amplitude * np.sin(term.omega * time + angle + term.phase)
    return total


def soliton(x: np.ndarray, time: float, *, speed: float, alpha: float, gamma: float) -> np.ndarray:
    """The wave that travels unchanged where beta = 0 and nothing forces, from x = 0 at time 0.

    ::

        u = soliton(x - length / 4, 0.0, speed=1.2, alpha=6.0, gamma=1.0)
    """
    height, narrow = 3 * speed / alpha, 0.5 * math.sqrt(speed / gamma)
    return height / np.cosh(narrow * (x - speed * time)) ** 2


def _coefficient(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}={value} must be 0 or a positive number")
    return float(value)


def _term(amplitude: float, omega: float, waves: float, phase: float) -> Term:
    return Term(float(amplitude), float(omega), int(waves), float(phase))


def _check(forcing: Sequence[Term], most: int) -> None:
    if len(forcing) != most:
        raise ConfigError(
            f"{len(forcing)} terms of forcing, but the solver was made with {most}: amplitude 0 is "
            "one that does nothing"
        )
    for term in forcing:
        if not all(map(math.isfinite, term)):
            raise ConfigError(f"forcing {tuple(term)} must be four finite numbers")


class Options(msgspec.Struct):
    """Burgers, heat and Korteweg-de Vries in a periodic interval: a soliton, or forced waves."""

    alpha: Annotated[float, note("of steepening, (alpha u^2/2)_x", ge=0)] = 6.0
    beta: Annotated[float, note("of diffusion, u_xx", ge=0)] = 0.0
    gamma: Annotated[float, note("of dispersion, u_xxx", ge=0)] = 1.0
    length: Annotated[Positive, note("of the interval")] = 40.0
    start: Annotated[
        Literal["soliton", "waves"], note("a soliton, or five random waves that also force")
    ] = "soliton"
    speed: Annotated[Positive, note("of the soliton")] = 1.2
    seed: Annotated[int, note("of the waves", ge=0)] = 0
    largest: Annotated[Positive | None, note("largest |u| to be expected; none: a guess")] = None


class CombinedEquation(Equation[Combined, Options]):
    """A soliton, which travels unchanged, or waves that are forced."""

    Options = Options
    width = GHOSTS
    periodic_in = 1
    takes_input = False

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        with together(self.grid.comm):
            _check_start(options)
        self.spacing = tuple(options.length / n for n in self.grid.shape)
        self._terms = random_terms(options.seed) if options.start == "waves" else []
        physics = {
            "alpha": options.alpha,
            "beta": options.beta,
            "gamma": options.gamma,
            "forcing": self._terms,
            "speed": _fastest(options),
        }
        self.solver = Combined(self.grid, self.spacing[0], **physics, **setup.numerics)

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        drawing = (40e6, 100.0)
        if options.start == "soliton":
            return Cost(4, exchanged=3, written=1, moved=11, of_copying=0.17, drawing=drawing)
        waves = 2 * _TERMS
        moved = 8 + 3 * waves
        return Cost(3 + waves, 3, written=1, moved=moved, of_copying=0.25, drawing=drawing)

    @classmethod
    def dt_max(cls, options: Options, shape: tuple[int, ...]) -> float | None:
        return largest_step(
            options.length / shape[0], options.alpha, options.beta, options.gamma, _fastest(options)
        )

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"combined.gamma = {options.gamma:g}"

    def start(self) -> None:
        x = self.solver.centres()
        if self.options.start == "soliton":
            self.solver.set("u", self._soliton(0.0))
        else:
            self.solver.set("u", forcing_at(self._terms, x, 0.0, self.options.length))

    def verdict(self) -> dict[str, float]:
        """Distance from the soliton; of waves, what all terms of the equation keep."""
        computed = self.solver.fields["u"][self.grid.owned]
        found = {"largest |u|": self.largest(np.abs(computed))}
        if self.options.start == "soliton":
            error = np.abs(computed - self._soliton(self.solver.time))
            return {"largest error against the soliton": self.largest(error)} | found
        return {"mean of u, which was 0": self.total("u") / self.grid.shape[0]} | found

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        yield evolution(planes, "u", self.options.length, "combined.png")

    def _soliton(self, time: float) -> np.ndarray:
        """In the owned cells; a quarter of the interval from 0 at first, and around it."""
        options = self.options
        half = options.length / 2
        x = self.solver.centres() - options.length / 4 - options.speed * time
        x = (x + half) % options.length - half
        physics = {"speed": options.speed, "alpha": options.alpha, "gamma": options.gamma}
        return soliton(x, 0.0, **physics)


def _check_start(options: Options) -> None:
    if options.start == "soliton" and (
        options.beta > 0 or options.gamma == 0 or options.alpha == 0
    ):
        raise ConfigError(
            f"no soliton with alpha = {options.alpha:g}, beta = {options.beta:g} and gamma = "
            f"{options.gamma:g}: it needs alpha and gamma above 0 and beta = 0; or start = waves"
        )


def _fastest(options: Options) -> float:
    if options.largest is not None:
        return options.largest
    if options.start == "soliton":
        return 3 * options.speed / max(options.alpha, 1e-300)
    return _GROWN * sum(abs(term.amplitude) for term in random_terms(options.seed))
