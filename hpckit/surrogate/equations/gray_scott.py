"""Gray and Scott's reaction from two spots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpckit import pde
from hpckit.pde.gray_scott import spots
from hpckit.surrogate.equations.periodic import check, points, ring
from hpckit.surrogate.equations.pool import Pool
from hpckit.surrogate.space import Box

if TYPE_CHECKING:
    from mpi4py import MPI
    from numpy.typing import DTypeLike

    from hpckit.surrogate.equations.periodic import Steps


class GrayScott:
    """Two spots that grow in a periodic square; `u` and `v`.

    Parameters are `feed` and `kill`, where patterns grow, and the spots' places `y1`, `x1`, `y2`
    and `x2`, as parts of the side.

    Parameters
    ----------
    shape, thin : points that are solved on, of which every so many-th is given.
    length : side of the square; two points in 0.0156 resolve the patterns.
    steps, dt : how many fields, and the time between them.
    dtype, method : as `hpckit.pde.GrayScott` takes them.

    ::

        study = Study(GrayScott(shape=(64, 64)), "conv", view="window:1")
    """

    def __init__(
        self,
        shape: Sequence[int] = (64, 64),
        *,
        thin: int = 1,
        length: float = 0.5,
        steps: int = 41,
        dt: float = 10.0,
        dtype: DTypeLike = float,
        method: str = "auto",
    ) -> None:
        check(shape, 2, thin)
        places = dict.fromkeys(("y1", "x1", "y2", "x2"), (0.0, 1.0))
        self.space = Box(feed=(0.03, 0.05), kill=(0.058, 0.063), **places)
        self.fields = dict.fromkeys(("u", "v"), tuple(n // thin for n in shape))
        self.steps = steps
        self.dt = dt
        self.length = length
        self.diffusion = (2e-5, 1e-5)
        self.about = {
            "equation": "u_t = Du lap u - u v^2 + F (1-u), v_t = Dv lap v + u v^2 - (F+k) v",
            "domain": [length, length],
            "diffusion": list(self.diffusion),
            "dt": dt,
            "values": "points",
        }
        spacing = tuple(length / n for n in shape)
        physics = {"feed": 0.04, "kill": 0.06, "dtype": dtype, "method": method}
        self._pool = Pool(lambda comm: pde.GrayScott(ring(comm, shape), spacing, **physics), thin)

    def run(self, parameters: dict[str, float], comm: MPI.Intracomm) -> Steps:
        """One simulation, as `Solver.run`."""
        p = parameters
        march = self._pool.take(comm)
        solver = march.solver
        solver.change(feed=p["feed"], kill=p["kill"], diffusion=self.diffusion)
        centres = [(self.length * p[f"y{i}"], self.length * p[f"x{i}"]) for i in (1, 2)]
        fields = spots(*points(solver), centres, self.length)
        for name, values in zip("uv", fields, strict=True):
            solver.set(name, values)
        yield from self._pool.run(march, self.steps, self.dt)
