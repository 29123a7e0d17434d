"""The solvers of surrogate studies that hpckit brings: equations of `hpckit.pde`, ready to run.

Each is a `hpckit.surrogate.solver.Solver` on the ranks of a group. Parameters are those that the
literature trains on; the grid, the times and what else may be chosen are the constructors'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mpi4py import MPI

from hpckit.comm.gather import Gather
from hpckit.comm.grid import Grid
from hpckit.pde import heat
from hpckit.surrogate.space import Box

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_SAFE = 0.9  # of the largest stable time step


class Heat:
    """Heat in the unit square between walls of four temperatures, from a fifth one; `temperature`.

    The case of Meyer, Schouler, Caulk, Ribes & Raffin, ICML 2023: all five in 100 to 500.

    Parameters
    ----------
    shape : cells along x and y; `x1` is the wall at x = 0, `x2` at 1, `y1` and `y2` as well.
    steps, dt : how many fields, and the time between them; the first is that of `dt`.
    implicit : backward Euler in one step of `dt`, by PETSc, instead of explicit steps.
    dtype, method : as `hpckit.pde.Heat` takes them.

    ::

        study = Study(Heat(shape=(32, 32)), model)
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
            "values": "points at cell centres",
        }
        kind = heat.ImplicitHeat if implicit else heat.Heat
        spacing = tuple(1 / n for n in shape)
        numerics = {"kappa": kappa, "dtype": dtype, "method": method}
        self._pool = _Pool(lambda comm: kind(Grid(comm, shape), spacing, **numerics))

    def run(
        self, parameters: dict[str, float], comm: MPI.Intracomm
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        p = parameters
        with_walls = self._pool.take(comm)
        solver = with_walls.solver
        solver.set_walls([(p["x1"], p["x2"]), (p["y1"], p["y2"])])
        solver.set("temperature", p["ic"])
        yield from with_walls.march(self.steps, self.dt)
        self._pool.give_back(with_walls)


class _Run(NamedTuple):
    """One simulation: a solver, and what brings each of its fields to the root."""

    solver: Any  # of `hpckit.pde`
    gather: dict[str, Gather]

    def march(self, steps: int, dt: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """`steps` times `dt`, in stable time steps, and the time and the whole fields then."""
        count = (
            1 if math.isinf(self.solver.dt_max) else math.ceil(dt / (_SAFE * self.solver.dt_max))
        )
        for step in range(steps):
            self.solver.advance(dt / count, count)
            yield (step + 1) * dt, self.whole()

    def whole(self) -> dict[str, Any]:
        """The fields on rank 0; None in their places elsewhere (collective)."""
        fields, owned = self.solver.fields, self.solver.grid.owned
        return {name: gather(fields[name][owned]) for name, gather in self.gather.items()}


class _Pool:
    """Solvers that are made once and serve one simulation after the other: making takes longer."""

    def __init__(self, make: Callable[[MPI.Intracomm], Any]) -> None:
        self._make = make
        self._free: list[_Run] = []

    def take(self, comm: MPI.Intracomm) -> _Run:
        """One that is free, or a new one, on these ranks (collective)."""
        for i, run in enumerate(self._free):
            if MPI.Comm.Compare(run.solver.grid.comm, comm) in (MPI.IDENT, MPI.CONGRUENT):
                run.solver.time = 0.0
                return self._free.pop(i)
        solver = self._make(comm)
        return _Run(solver, {name: Gather(solver.grid, solver.dtype) for name in solver.fields})

    def give_back(self, run: _Run) -> None:
        """After a simulation's end: a solver of one that was broken off is not used again."""
        self._free.append(run)


SOLVERS = {"heat": Heat}
