"""Solvers of the reduced system: a file each, and a line in `SOLVERS`."""

from hpckit.sfm.bundle.solvers.dense import Dense
from hpckit.sfm.bundle.solvers.pcg import Pcg
from hpckit.sfm.bundle.solvers.petsc import Petsc
from hpckit.sfm.bundle.solvers.solver import Solver
from hpckit.sfm.bundle.solvers.sparse import Sparse
from hpckit.sfm.bundle.solvers.two_level import TwoLevel

_ALL: tuple[Solver, ...] = (Dense(), Sparse(), Pcg(), TwoLevel(), Petsc())
SOLVERS: dict[str, Solver] = {solver.name: solver for solver in _ALL}
