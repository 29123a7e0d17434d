"""PETSc's Krylov methods on our product by S, with our preconditioner or one of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpckit import linear
from hpckit.errors import ConfigError, together
from hpckit.sfm.bundle.solvers.pcg import Preconditioner, SchurJacobi
from hpckit.sfm.bundle.solvers.two_level import Deflation, TwoLevel

if TYPE_CHECKING:
    from hpckit.sfm.bundle.system import ReducedSystem, Shape


class Petsc:
    """By petsc4py: S only multiplies (MATSHELL), blocks and clusters precondition (PCSHELL).

    options : PETSc's, such as "-ksp_type pipecg" or "-ksp_max_it 100"; one that names a
        preconditioner, as "-ksp_type preonly -pc_type cholesky" does, has S assembled on each rank

    ::

        solution = Petsc("-ksp_type minres").bind(system)
    """

    name = "petsc"

    def __init__(self, options: str = "") -> None:
        self._options = options

    def possible(self, shape: Shape) -> str | None:
        """Where petsc4py can be imported."""
        try:
            linear.petsc()
        except ConfigError as error:
            return str(error)
        return None

    def memory(self, shape: Shape) -> int:
        """Coarse space and vectors, and S if the options ask for it."""
        assembled = "-pc_type" in self._options
        return 8 * (20 * shape.size + assembled * 4 * shape.pairs * shape.width**2) + (
            TwoLevel().memory(shape)
        )

    def bind(self, system: ReducedSystem) -> _Bound:
        """Make the solver (collective)."""
        return _Bound(system, self._options)


class _Bound:
    def __init__(self, system: ReducedSystem, options: str) -> None:
        self._system = system
        two_level = TwoLevel().possible(system.shape) is None
        self._preconditioner: Preconditioner
        self._preconditioner = Deflation(system) if two_level else SchurJacobi(system)
        with together(system.comm):
            self._operator = linear.Operator(
                system.shape.size, system.multiply, self._preconditioner, options
            )

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """By what the options say, CG if nothing."""
        system, operator, matrix = self._system, self._operator, None
        x, r = np.zeros((2, system.shape.size))
        if operator.needs_matrix:
            matrix = assembled(system)
        else:
            self._preconditioner.update()
            if not np.isfinite(self._preconditioner.start(system.right, x, r)):
                return None
        iterations = operator.solve(system.right, x, tolerance, matrix)
        return None if iterations is None else (x, iterations)


def assembled(system: ReducedSystem):
    """P'S P + diag(damping) as a SciPy CSR array, the same on all ranks (collective)."""
    from scipy.sparse import csr_array, diags_array

    blocks, pairs, columns = system.assemble(), system.pattern(), system.columns
    assert blocks is not None
    row = np.broadcast_to(columns[pairs[:, 0]][:, :, None], blocks.shape)
    column = np.broadcast_to(columns[pairs[:, 1]][:, None, :], blocks.shape)
    there = (row >= 0) & (column >= 0)
    n = system.shape.size
    upper = csr_array((blocks[there], (row[there], column[there])), shape=(n, n))
    apart = (pairs[:, 0] != pairs[:, 1])[:, None, None] & there
    lower = csr_array((blocks[apart], (column[apart], row[apart])), shape=(n, n))
    return csr_array(upper + lower + diags_array(system.damping))
