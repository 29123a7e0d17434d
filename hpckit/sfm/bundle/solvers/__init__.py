"""Solvers of the reduced system: a file each, and a line in `SOLVERS`."""

from hpckit.sfm.bundle.solvers.dense import Dense
from hpckit.sfm.bundle.solvers.pcg import Pcg
from hpckit.sfm.bundle.solvers.solver import Solver

SOLVERS: dict[str, Solver] = {solver.name: solver for solver in (Dense(), Pcg())}
