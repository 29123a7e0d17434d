"""Heat: T_t = kappa lap T + source in 1 to 3 dimensions, explicit, or implicit through PETSc.

Explicit: see `hpckit.pde.diffusion`. Implicit, with theta = 1 (backward Euler) or 1/2
(Crank-Nicolson):

    (1 - theta dt kappa lap) T_new = T + (1 - theta) dt (kappa lap T + source)
                                       + theta dt (source + walls)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from hpckit import linear
from hpckit.comm.device import HOST
from hpckit.errors import ConfigError, together
from hpckit.keys import Positive, note
from hpckit.pde import walls as boundary
from hpckit.pde.diffusion import Diffusion
from hpckit.pde.equation import Cost, Equation, Picture, Setup

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.backend import Place
    from hpckit.pde.planes import Planes

SCHEMES = {"backward-euler": 1.0, "crank-nicolson": 0.5}  # the weight of the new time level


class Heat(Diffusion):
    """Temperature with constant diffusivity, explicit; field `temperature`.

    See `Diffusion` for the parameters::

        heat = Heat(Grid(comm, (64, 64)), 1 / 64, kappa=0.5, walls=0.0)
        heat.set("temperature", heat.exact(0.0))
        heat.step(heat.dt_max)
    """

    def __init__(
        self,
        grid: Grid,
        spacing: float | Sequence[float],
        *,
        kappa: float = 1.0,
        source: float = 0.0,
        walls: boundary.Wall | Sequence = boundary.INSULATED,
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
        place: Place = HOST,
    ) -> None:
        options = dtype, threads, method, place
        super().__init__(grid, "temperature", spacing, kappa, source, walls, *options)

    def exact(self, time: float, waves: int = 1) -> np.ndarray:
        """The solution that decays from a product of `waves` half waves: owned shape, float64.

        Sines between walls of value 0, cosines between insulated walls, and sines of `waves` whole
        waves around periodic dimensions.
        """
        ndim = self.grid.ndim
        modes = [self._mode(d, waves) for d in range(ndim)]
        product = math.exp(-self.kappa * sum(k**2 for k, _ in modes) * time)
        for d, (_, values) in enumerate(modes):
            product = product * values.reshape([-1 if i == d else 1 for i in range(ndim)])
        return np.asarray(product)

    def _mode(self, d: int, waves: int) -> tuple[float, np.ndarray]:
        """Wave number and values at the owned cells' centres along one dimension."""
        grid, h = self.grid, self.spacing[d]
        x = (np.arange(grid.start[d], grid.stop[d]) + 0.5) * h
        length = grid.shape[d] * h
        if grid.periodic[d]:
            k = 2 * math.pi * waves / length
            return k, np.sin(k * x)
        k = math.pi * waves / length
        if self.walls[d] == (boundary.INSULATED,) * 2:
            return k, np.cos(k * x)
        if self.walls[d] == (0, 0):
            return k, np.sin(k * x)
        raise ConfigError(
            f"no exact solution for walls {self.walls[d]} in dimension {d}: use 0 or "
            f"{boundary.INSULATED!r}"
        )


class ImplicitHeat(Heat):
    """The same equation, stable for any step: one linear system per step.

    Parameters
    ----------
    scheme : `"backward-euler"` (first order in time, damps everything) or `"crank-nicolson"`
        (second order).
    options : PETSc options, as `"-ksp_rtol 1e-12 -pc_type jacobi"`; CG with algebraic multigrid if
        empty.

    Attributes
    ----------
    iterations : of the last step's solve.

    ::

        heat = ImplicitHeat(grid, 1 / 64, scheme="crank-nicolson", walls=0.0)
        heat.step(1e-2)
    """

    def __init__(
        self,
        grid: Grid,
        spacing: float | Sequence[float],
        *,
        scheme: str = "backward-euler",
        options: str = "",
        **physics,
    ) -> None:
        super().__init__(grid, spacing, **physics)
        with together(grid.comm):
            if scheme not in SCHEMES:
                raise ConfigError(f"scheme {scheme!r} must be one of {', '.join(SCHEMES)}")
            if self.place is not HOST:
                raise ConfigError("implicit steps run on CPUs only: use Heat on a device")
            linear.petsc()
        self.dt_max = math.inf
        self.iterations = 0
        self._theta = SCHEMES[scheme]
        self._options = options
        self._dt = 0.0  # of the matrix that there is

    def advance(self, dt: float, count: int) -> None:
        for _ in range(count):
            self.step(dt)

    def set_walls(self, walls: boundary.Wall | Sequence) -> None:
        super().set_walls(walls)
        self._dt = 0.0

    def step(self, dt: float) -> None:
        """Advance by `dt`; a changed `dt` makes a new matrix.

        Raises `HpckitError` where the linear solver diverges.
        """
        self._check_step(dt)
        if dt != self._dt:
            self._assemble(dt)
        before = self.fields[self.name][self.grid.owned]
        if self._theta < 1:
            self._advance(self._arguments((1 - self._theta) * dt))
        after = self.fields[self.name][self.grid.owned]
        np.add(after, self._inflow, out=self._system.rhs)
        self.iterations = self._system.solve(before, after)
        self.time += dt

    def _assemble(self, dt: float) -> None:
        """(1 - theta dt kappa lap) T = right-hand side, walls included: one row per owned cell.

        At a wall the ghost is eliminated: ghost = cell (insulated) takes the missing neighbour out
        of the diagonal; ghost = 2 value - cell adds it once more, and 2 value to the right side.
        """
        grid = self.grid
        weights = [self._theta * dt * self.kappa * w for w in self._per_square]
        diagonal = np.full(grid.owned_shape(), 1 + 2 * sum(weights))
        self._inflow = np.full(grid.owned_shape(), self._theta * dt * self.source)
        for d, side in boundary.sides(grid):
            wall = self.walls[d][side]
            edge = (slice(None),) * d + (slice(None, 1) if side == 0 else slice(-1, None),)
            diagonal[edge] += -weights[d] if wall == boundary.INSULATED else weights[d]
            self._inflow[edge] += 0 if wall == boundary.INSULATED else 2 * weights[d] * float(wall)
        offsets = [(0,) * grid.ndim]
        values: list = [diagonal]
        for d, weight in enumerate(weights):
            for step in (-1, 1):
                offsets.append((0,) * d + (step,) + (0,) * (grid.ndim - d - 1))
                values.append(-weight)
        self._system = linear.System(grid, offsets, values, self._options)
        self._dt = dt


class Options(msgspec.Struct):
    """Heat in a unit box: T_t = kappa lap T, walls at 0; with an input, insulated walls."""

    kappa: Annotated[Positive, note("diffusivity")] = 1.0
    implicit: Annotated[
        bool, note("backward Euler with PETSc (extra petsc) instead of explicit steps")
    ] = False


class HeatEquation(Equation[Heat, Options]):
    """Heat in a unit box: a wave that decays as analysis says, or any initial field of a file."""

    Options = Options
    drawn_from = 2

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        solver = ImplicitHeat if options.implicit else Heat
        walls = boundary.INSULATED if setup.input else 0.0
        self.spacing = tuple(1 / n for n in self.grid.shape)
        physics = {"kappa": options.kappa, "walls": walls, "place": setup.place}
        self.solver = solver(self.grid, self.spacing, **physics, **setup.numerics)

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        return Cost(
            kept=2,
            exchanged=1,
            written=2,
            moved=2,
            of_copying=0.7,
            drawing=(40e6, 100),
            checking=0 if has_input else 2,
        )

    @classmethod
    def dt_max(cls, options: Options, shape: tuple[int, ...]) -> float | None:
        if options.implicit:
            return None
        return 1 / (2 * options.kappa * sum(n * n for n in shape))

    @classmethod
    def on_devices(cls, options: Options) -> bool:
        return not options.implicit

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"heat.kappa = {options.kappa:g}"

    def start(self) -> None:
        """The analytic solution at time 0, or the input."""
        values = self.setup.input() if self.setup.input else self.solver.exact(0.0)
        self.solver.set("temperature", values)
        self.before = self.total("temperature")

    def show(self) -> Mapping[str, np.ndarray]:
        """The temperature, and its error where the solution is known."""
        fields = self.solver.fields
        return fields if self.setup.input else {**fields, "error": self._error()}

    def verdict(self) -> dict[str, float]:
        """Distance from the analytic solution; from a file, heat that walls should have kept."""
        if self.setup.input:
            drift = self.total("temperature") / self.before - 1 if self.before else 0.0
            return {"heat gained or lost, of all": drift}
        owned = self.grid.owned
        return {
            "largest error against the analytic solution": self.largest(
                np.abs(self._error()[owned])
            ),
            "largest temperature": self.largest(np.abs(self.solver.fields["temperature"][owned])),
        }

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        """A slice through the temperature, and its error where it is known."""
        if self.grid.ndim < self.drawn_from:
            return
        temperature = planes.read("temperature")
        title = f"Temperature, t = {self.solver.time:.3g}"
        panels: list[tuple] = [(title, temperature, {"cmap": "inferno"}, "temperature", None)]
        if not self.setup.input:
            error = planes.read("error")
            span = float(np.max(np.abs(error))) or 1.0
            colours = {"cmap": "RdBu_r", "vmin": -span, "vmax": span}
            panels.append(("Error", error, colours, "computed minus exact", "%.1e"))
        yield Picture("heat.png", (4.8 * len(panels), 4.1), partial(_paint, panels))

    def _error(self) -> np.ndarray:
        """Computed minus exact, with ghosts."""
        error, owned = self.grid.zeros(self.solver.dtype), self.grid.owned
        computed = self.solver.fields["temperature"][owned]
        error[owned] = computed - self.solver.exact(self.solver.time)
        return error


def _paint(panels: list, figure: Any) -> None:
    """Panels side by side on the unit square: (title, (n, m) values, colours, label, format)."""
    row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, values, colours, label, form) in zip(row, panels, strict=True):
        image = axes.imshow(values, extent=(0, 1, 0, 1), origin="lower", **colours)
        figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02, format=form).set_label(label)
        axes.set_title(title)
        axes.set_xlabel("x")
    row[0].set_ylabel("y")
