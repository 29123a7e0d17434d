"""The heat equation, T_t = kappa lap T + source, in 1 to 3 dimensions: explicit, and implicit
through PETSc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpckit import linear
from hpckit.errors import ConfigError, together
from hpckit.pde import walls as boundary
from hpckit.pde.diffusion import Diffusion

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid

SCHEMES = {"backward-euler": 1.0, "crank-nicolson": 0.5}  # the weight of the new time level


class Heat(Diffusion):
    """Temperature with constant diffusivity, explicit; field `temperature`. See `Diffusion` for the
    parameters.
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
    ) -> None:
        super().__init__(grid, "temperature", spacing, kappa, source, walls, dtype, threads, method)

    def exact(self, time: float, waves: int = 1) -> np.ndarray:
        """The solution that decays from a product of `waves` half waves (whole waves where
        periodic): owned cells.

        Sines between walls of value 0 and around periodic dimensions, cosines between insulated
        walls.
        """
        factors = [self._mode(d, waves) for d in range(self.grid.ndim)]
        decay = sum(k**2 for k, _ in factors)
        product = math.exp(-self.kappa * decay * time)
        for d, (_, values) in enumerate(factors):
            product = product * values.reshape([-1 if i == d else 1 for i in range(self.grid.ndim)])
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
    """The same equation by backward Euler or Crank-Nicolson: stable for any step, one linear system
    per step.

    Parameters
    ----------
    scheme : `"backward-euler"` (first order in time, damps everything) or `"crank-nicolson"`
        (second order).
    options : PETSc options, as `"-ksp_rtol 1e-12 -pc_type jacobi"`; CG with algebraic multigrid if
        empty.

    Attributes
    ----------
    iterations : of the last step's solve.
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
            linear.petsc()
        self.dt_max = math.inf
        self.iterations = 0
        self._theta, self._options = SCHEMES[scheme], options
        self._dt = 0.0

    def step(self, dt: float) -> None:
        """Advance by `dt`; a changed `dt` makes a new matrix. Raises `HpckitError` where the solver
        diverges.
        """
        self._check_step(dt)
        if dt != self._dt:
            self._assemble(dt)
        before = self._arrays[0][self.grid.owned]
        if self._theta < 1:
            self._advance(self._arguments((1 - self._theta) * dt))
        after = self._arrays[0][self.grid.owned]
        np.add(after, self._inflow, out=self._system.rhs)
        self.iterations = self._system.solve(before, after)
        self.time += dt

    def _assemble(self, dt: float) -> None:
        """(1 - theta dt kappa lap) T = right-hand side, walls included: one row per owned cell."""
        grid, weights = self.grid, [self._theta * dt * self.kappa * w for w in self._per_square]
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
        self._system, self._dt = linear.System(grid, offsets, values, self._options), dt
