"""Heat between four walls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpckit.comm.grid import Grid
from hpckit.pde import heat
from hpckit.surrogate.equations.periodic import check
from hpckit.surrogate.equations.pool import Pool
from hpckit.surrogate.space import Box

if TYPE_CHECKING:
    from mpi4py import MPI
    from numpy.typing import DTypeLike

    from hpckit.surrogate.equations.periodic import Steps


class Heat:
    """Heat in the unit square between walls of four temperatures, from a fifth one; `temperature`.

    The case of Meyer, Schouler, Caulk, Ribes & Raffin (2023): all five from 100 to 500. Values are
    those at the cells' centres; the first step is that of `dt`.

    Parameters
    ----------
    shape : cells along x and y; `x1` is the wall at x = 0, `x2` at 1, `y1` and `y2` as well.
    steps, dt : how many fields, and the time between them.
    implicit : backward Euler in one step of `dt`, by PETSc, instead of explicit steps.
    dtype, method : as `hpckit.pde.Heat` takes them.

    ::

        study = Study(Heat(shape=(32, 32)), "mlp")
    """

    def __init__(
        self,
        shape: Sequence[int] = (32, 32),
        *,
        steps: int = 100,
        dt: float = 0.01,
        kappa: float = 1.0,
        implicit: bool = False,
        dtype: DTypeLike = float,
        method: str = "auto",
    ) -> None:
        check(shape, 2)
        self.space = Box(**dict.fromkeys(("ic", "x1", "x2", "y1", "y2"), (100.0, 500.0)))
        self.fields = {"temperature": tuple(shape)}
        self.steps = steps
        self.dt = dt
        self.about = {
            "equation": "T_t = kappa lap T",
            "domain": [1.0, 1.0],
            "kappa": kappa,
            "dt": dt,
            "scheme": "implicit" if implicit else "explicit",
            "values": "points, at the cells' centres",
        }
        kind = heat.ImplicitHeat if implicit else heat.Heat
        spacing = tuple(1 / n for n in shape)
        numerics = {"kappa": kappa, "dtype": dtype, "method": method}
        self._pool = Pool(lambda comm: kind(Grid(comm, shape), spacing, **numerics))

    def run(self, parameters: dict[str, float], comm: MPI.Intracomm) -> Steps:
        """One simulation, as `Solver.run`."""
        p = parameters
        march = self._pool.take(comm)
        march.solver.set_walls([(p["x1"], p["x2"]), (p["y1"], p["y2"])])
        march.solver.set("temperature", p["ic"])
        yield from march.steps(self.steps, self.dt)
        self._pool.give_back(march)
