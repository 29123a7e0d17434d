"""Gray and Scott's reaction in a periodic square, where spots and stripes grow.

    u_t = Du lap u - u v^2 + F (1 - u)
    v_t = Dv lap v + u v^2 - (F + k) v

Sixth order in space, third in time (`hpckit.pde.runge_kutta`). Patterns: Pearson (1993).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from hpckit.errors import ConfigError, same, together
from hpckit.keys import Count, Positive, note
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.runge_kutta import GHOSTS, LIMITS, RungeKutta
from hpckit.pde.solver import positive, spacings

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.planes import Planes

_RATE = 1.0  # of u v^2, at most, where both stay below 1
_WIDTH = 0.08  # of a spot at the start, of the square's side


class GrayScott(RungeKutta):
    """Two substances that react and spread; fields `u` (what is fed) and `v` (what eats it).

    Parameters
    ----------
    grid : periodic, of 2 dimensions, with ghosts of 3 cells.
    spacing : cell size, one or one per dimension.
    feed, kill : F and k.
    diffusion : Du and Dv.
    dtype, threads, method : float64 or float32; threads per rank; way of exchanging halos, see
        `Halo`.

    ::

        grid = Grid(comm, (64, 64), periodic=True, width=3)
        reaction = GrayScott(grid, 1 / 128, feed=0.04, kill=0.06)
        reaction.set("u", 1.0)
        reaction.step(0.9 * reaction.dt_max)
    """

    kernels = "hpckit.pde.gray_scott_kernels"
    kernel = "react"

    def __init__(
        self,
        grid: Grid,
        spacing: float | Sequence[float],
        *,
        feed: float,
        kill: float,
        diffusion: tuple[float, float] = (2e-5, 1e-5),
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
    ) -> None:
        super().__init__(grid, 2, dtype, threads, method)
        with together(grid.comm):
            self.spacing = spacings(spacing, 2)
        same(grid.comm, "the spacing and dtype of a solver", (self.spacing, self.dtype))
        self._allocate(["u", "v"])
        self.change(feed=feed, kill=kill, diffusion=diffusion)

    def change(self, *, feed: float, kill: float, diffusion: tuple[float, float]) -> None:
        """Other coefficients from now on (collective). ::

        reaction.change(feed=0.03, kill=0.06, diffusion=(2e-5, 1e-5))
        """
        with together(self.grid.comm):
            self.feed, self.kill = positive("feed", feed), positive("kill", kill)
            if len(diffusion) != 2:
                raise ConfigError(f"diffusion {diffusion} must be that of u and that of v")
            self.diffusion = tuple(positive("diffusion", each) for each in diffusion)
        physics = (self.feed, self.kill, self.diffusion)
        same(self.grid.comm, "the coefficients of a solver", physics)
        self.dt_max = largest_step(self.spacing, *physics)

    def _arguments(self, dt: float, time: float) -> tuple:
        array = self.fields["u"]
        spread = [dt * d / h**2 for d in self.diffusion for h in self.spacing]
        reaction = dt, dt * self.feed, dt * (self.feed + self.kill)
        return (array.strides[0] // array.itemsize, *spread, *reaction, self._stream)


def largest_step(
    spacing: Sequence[float], feed: float, kill: float, diffusion: Sequence[float]
) -> float:
    """The largest stable time step where neither substance exceeds 1.

    ::

        largest_step((1 / 128, 1 / 128), 0.04, 0.06, (2e-5, 1e-5))
    """
    spread = max(diffusion) * sum(1 / h**2 for h in spacing) / LIMITS.spread
    return 1 / (spread + (_RATE + feed + kill) / LIMITS.reacted)


def spots(
    y: np.ndarray, x: np.ndarray, centres: Sequence[tuple[float, float]], length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth spots of v = 1/4 in u = 1: u and v at the points (y, x), float64, as y + x.

    centres : (y, x) of each spot, which repeats with the square. ::

        u, v = spots(y[:, None], x[None, :], [(0.1, 0.2)], 0.5)
    """
    angle = 2 * np.pi / length
    bump = np.zeros(np.broadcast(y, x).shape)
    for cy, cx in centres:
        away = (np.cos(angle * (y - cy)) - 1) + (np.cos(angle * (x - cx)) - 1)
        bump += np.exp(away / (2 * np.pi * _WIDTH) ** 2)
    return 1 - np.tanh(bump) / 2, np.tanh(bump) / 4


class Options(msgspec.Struct):
    """Spots and stripes of two substances that react (Gray-Scott), in a periodic square."""

    feed: Annotated[Positive, note("rate F at which u is fed")] = 0.04
    kill: Annotated[Positive, note("rate k at which v decays, besides F")] = 0.06
    diffusion: Annotated[tuple[Positive, Positive], note("of u and of v")] = (2e-5, 1e-5)
    length: Annotated[Positive, note("of the square")] = 1.0
    spots: Annotated[Count, note("of v at the start", le=1000)] = 8
    seed: Annotated[int, note("of their places", ge=0)] = 0


class GrayScottEquation(Equation[GrayScott, Options]):
    """Spots that divide until they fill the square."""

    Options = Options
    width = GHOSTS
    periodic_in = 2
    takes_input = False

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        self.spacing = tuple(options.length / n for n in self.grid.shape)
        self.solver = GrayScott(
            self.grid,
            self.spacing,
            feed=options.feed,
            kill=options.kill,
            diffusion=options.diffusion,
            **setup.numerics,
        )

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        return Cost(kept=6, exchanged=6, written=2, moved=16, of_copying=0.6, drawing=(60e6, 100))

    @classmethod
    def dt_max(cls, options: Options, shape: tuple[int, ...]) -> float | None:
        spacing = [options.length / n for n in shape]
        return largest_step(spacing, options.feed, options.kill, options.diffusion)

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"gray_scott.diffusion = {options.diffusion}"

    def start(self) -> None:
        options, grid = self.options, self.grid
        y, x = (
            (np.arange(a, b) + 0.5) * h
            for a, b, h in zip(grid.start, grid.stop, self.spacing, strict=True)
        )
        centres = np.random.default_rng(options.seed).random((options.spots, 2)) * options.length
        u, v = spots(y[:, None], x[None, :], centres.tolist(), options.length)
        self.solver.set("u", u)
        self.solver.set("v", v)

    def verdict(self) -> dict[str, float]:
        """What concentrations must obey: between 0 and 1."""
        owned = self.grid.owned
        u, v = (self.solver.fields[name][owned] for name in ("u", "v"))
        cells = float(np.prod(self.grid.shape))
        return {
            "largest u (at most 1)": self.largest(u),
            "least of u and v (0 or more)": -self.largest(-np.minimum(u, v)),
            "mean of v": self.total("v") / cells,
        }

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        """v at the end, and the way there where there are snapshots."""
        last = len(planes.times) - 1
        chosen = sorted({round(last * share) for share in (0.1, 0.4, 1.0)})
        fields = [(planes.times[i], planes.read("v", i)) for i in chosen]
        paint = partial(_paint, fields, self.options.length)
        yield Picture("gray_scott.png", (4.4 * len(fields) + 0.8, 4.1), paint)


def _paint(fields: list[tuple[float, np.ndarray]], length: float, figure: Any) -> None:
    """Panels of v (n, m) at some times, in the same colours."""
    row = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    colours = {"cmap": "magma", "vmin": 0.0, "vmax": max(float(v.max()) for _, v in fields)}
    for axes, (time, v) in zip(row, fields, strict=True):
        axes.imshow(v, extent=(0, length, 0, length), origin="lower", **colours)
        axes.set_title(f"t = {time:.4g}")
        axes.set_xlabel("x")
    row[0].set_ylabel("y")
    figure.colorbar(row[-1].images[0], ax=list(row), shrink=0.85, pad=0.02).set_label("v")
