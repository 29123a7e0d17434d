"""Viscous Burgers from random fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from hpckit import pde
from hpckit.surrogate.equations.periodic import check, ring
from hpckit.surrogate.equations.pool import Pool
from hpckit.surrogate.space import Box

if TYPE_CHECKING:
    from mpi4py import MPI
    from numpy.typing import DTypeLike

    from hpckit.surrogate.equations.periodic import Steps


_NORMAL = NormalDist()
_TAIL = 3e-5  # probability beyond which normal parameters are not drawn: four deviations


class Burgers:
    """Viscous Burgers from random initial fields in the unit interval; `u`.

    The fields of Li et al. (2021), normal with covariance 625^2 (-d2/dx2 + 25)^-4: parameters `c1`,
    `s1`, ... are the quantiles, 0 to 1, of the coefficients of cosines and sines.

    Parameters
    ----------
    shape : points that are solved on.
    thin : of which every so many-th is given.
    modes : whole waves of the initial fields, at most.
    steps, dt : how many fields, and the time between them.
    nu : viscosity; dtype, method : as `hpckit.pde.Burgers` takes them.

    ::

        study = Study(Burgers(shape=(128,), thin=2), "fno", view="initial")
    """

    def __init__(
        self,
        shape: Sequence[int] = (64,),
        *,
        thin: int = 1,
        modes: int = 8,
        steps: int = 17,
        dt: float = 0.06,
        nu: float = 0.01,
        dtype: DTypeLike = float,
        method: str = "auto",
    ) -> None:
        check(shape, 1, thin)
        names = [f"{kind}{k}" for k in range(1, modes + 1) for kind in "cs"]
        self.space = Box(**dict.fromkeys(names, (_TAIL, 1 - _TAIL)))
        self.fields = {"u": (shape[0] // thin,)}
        self.steps = steps
        self.dt = dt
        self.nu = nu
        self.about = {
            "equation": "u_t + (u^2/2)_x = nu u_xx",
            "domain": [1.0],
            "nu": nu,
            "dt": dt,
            "values": "points",
        }
        numerics = {"dtype": dtype, "method": method}
        self._pool = Pool(
            lambda comm: pde.Burgers(ring(comm, shape), 1 / shape[0], nu=nu, speed=1.0, **numerics),
            thin,
        )

    def run(self, parameters: dict[str, float], comm: MPI.Intracomm) -> Steps:
        """One simulation, as `Solver.run`."""
        march = self._pool.take(comm)
        solver = march.solver
        n = solver.grid.shape[0]
        u = self.initial(parameters, np.arange(n) / n)
        speed = max(float(np.abs(u).max()), 1e-6)
        solver.change(alpha=1.0, beta=self.nu, gamma=0.0, forcing=(), speed=speed)
        solver.set("u", u[solver.grid.start[0] : solver.grid.stop[0]])
        yield from self._pool.run(march, self.steps, self.dt)

    def initial(self, parameters: dict[str, float], x: np.ndarray) -> np.ndarray:
        """The initial field at the points x: float64, as x."""
        u = np.zeros(len(x))
        for k in range(1, self.space.size // 2 + 1):
            deviation = math.sqrt(2) * 625 / (4 * math.pi**2 * k**2 + 25) ** 2
            cosine, sine = (_NORMAL.inv_cdf(parameters[f"{kind}{k}"]) for kind in "cs")
            angle = 2 * math.pi * k * x
            u += deviation * (cosine * np.cos(angle) + sine * np.sin(angle))
        return u
