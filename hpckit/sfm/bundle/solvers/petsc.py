"""PETSc's Krylov methods on our product by S, with our preconditioner or one of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpckit import linear
from hpckit.errors import ConfigError, together
from hpckit.sfm.bundle.solvers.two_level import BlockJacobi, CoarseSpace, TwoLevel

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
        with together(system.comm):
            self._operator = linear.Operator(
                system.shape.size, system.multiply, self._precondition, options
            )
        self._jacobi = self._coarse = None
        if not self._operator.needs_matrix:
            self._jacobi = BlockJacobi(system)
            if TwoLevel().possible(system.shape) is None:
                self._coarse = CoarseSpace(system)

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """By what the options say, CG if nothing."""
        system, coarse, matrix = self._system, self._coarse, None
        x = np.zeros(system.shape.size)
        if self._jacobi and not self._jacobi.update():
            return None
        if coarse:
            if not coarse.update():
                return None
            x = coarse.correct(system.right)
        if self._operator.needs_matrix:
            matrix = assembled(system)
        iterations = self._operator.solve(system.right, x, tolerance, matrix)
        return None if iterations is None else (x, iterations)

    def _precondition(self, r: np.ndarray, z: np.ndarray) -> None:
        assert self._jacobi
        z[...] = self._jacobi.apply(r)
        if self._coarse:
            z += self._coarse.remaining(z, r)


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
