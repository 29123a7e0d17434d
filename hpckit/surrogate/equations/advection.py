"""Advection and diffusion of a blob in four eddies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpckit import pde
from hpckit.pde.advection import blob, swirl
from hpckit.surrogate.equations.periodic import check, points, ring
from hpckit.surrogate.equations.pool import Pool
from hpckit.surrogate.space import Box

if TYPE_CHECKING:
    from mpi4py import MPI
    from numpy.typing import DTypeLike

    from hpckit.surrogate.equations.periodic import Steps


class Advection:
    """A blob that four eddies stir in the periodic unit square; `concentration`.

    Parameters are the eddies' `speed`, the diffusivity `kappa`, and the blob's place `y` and `x`.

    Parameters
    ----------
    shape, thin : points that are solved on, of which every so many-th is given.
    steps, dt : how many fields, and the time between them.
    dtype, method : as `hpckit.pde.Advection` takes them.

    ::

        study = Study(Advection(shape=(48, 48)), "fno", view="initial")
    """

    def __init__(
        self,
        shape: Sequence[int] = (48, 48),
        *,
        thin: int = 1,
        steps: int = 21,
        dt: float = 0.025,
        dtype: DTypeLike = float,
        method: str = "auto",
    ) -> None:
        check(shape, 2, thin)
        self.space = Box(speed=(0.2, 1.0), kappa=(0.002, 0.02), y=(0.0, 1.0), x=(0.0, 1.0))
        self.fields = {"concentration": tuple(n // thin for n in shape)}
        self.steps = steps
        self.dt = dt
        self.about = {
            "equation": "c_t + div(v c) = kappa lap c, v = speed (-sin 2 pi x, sin 2 pi y)",
            "domain": [1.0, 1.0],
            "dt": dt,
            "values": "points",
        }
        spacing = tuple(1 / n for n in shape)
        physics = {"velocity": (0.0, 0.0), "kappa": 0.01, "dtype": dtype, "method": method}
        self._pool = Pool(lambda comm: pde.Advection(ring(comm, shape), spacing, **physics), thin)

    def run(self, parameters: dict[str, float], comm: MPI.Intracomm) -> Steps:
        """One simulation, as `Solver.run`."""
        p = parameters
        march = self._pool.take(comm)
        solver = march.solver
        y, x = points(solver)
        solver.change(velocity=swirl(y, x, p["speed"]), kappa=p["kappa"])
        solver.set("concentration", blob(y - p["y"], x - p["x"]))
        yield from self._pool.run(march, self.steps, self.dt)
